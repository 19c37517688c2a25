"""Measure how the learner spends its time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up the seconds that the program spends in `with` blocks, separately for each name. Use: `with
    watch("replay"): ...`."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            if self._device is not None and self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # kernels still run after the calls that started them returned
            self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - began

    def lap(self) -> dict[str, float]:
        """Return a dict: name -> seconds in the `with` blocks of this name since the last call of `lap`."""
        taken, self._seconds = self._seconds, {}
        return taken
