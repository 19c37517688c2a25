"""Runs a step for several items at the same time."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

Work = TypeVar("Work")


def in_threads(step: Callable[[Work], None], items: Sequence[Work], at_once: int) -> None:
    """Run a step for every item, up to `at_once` at the same time. If one fails, those that have not begun are not run,
    and the error is raised."""
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        waiting = [pool.submit(step, item) for item in items]
        try:
            for done in as_completed(waiting):
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
