"""What an actor needs for its heartbeats (pulse.py). Ray is not imported here, so a critic also works without it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

BEAT_S = 1.0
"""Shortest time in seconds between two beats of an actor."""


def no_beat() -> None:
    """Take the place of `Beat` in an actor that nobody watches."""


class Beat:
    """Tells the board that an actor works, at most once in BEAT_S seconds, without waiting. `name` is the name of the
    actor."""

    def __init__(self, board: Any, name: str) -> None:
        self.board, self.name = board, name
        self._last = float("-inf")

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._last >= BEAT_S:
            self._last = now
            self.board.beat.remote(self.name)


@contextmanager
def beating(beat: Callable[[], None]) -> Iterator[None]:
    """Give a context (for `with`) during which a thread beats. This is for work whose pieces may take long, such as
    questions to a judge, which have deadlines of their own. It shows that the process lives."""
    ended = Event()

    def run() -> None:
        while not ended.wait(BEAT_S):
            beat()

    Thread(target=run, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
