"""A circuit breaker for a server. If many questions in a row got no answer, the server is left in peace for a while. So
a dead server costs no long waits, and a server that is coming back is not overrun."""

import threading
import time
from collections.abc import Callable


class Breaker:
    """Counts questions in a row that got no answer. After `after` of them it opens: for `pause` seconds, every other
    question fails at once. Then one question is let through. If it is answered, all others are let through again. If it
    is not, the pause begins anew. `after` 0: it never opens. Several threads may use it at the same time.

    An answer that says no, such as HTTP 400, is an answer.
    """

    def __init__(self, after: int, pause: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.after, self.pause, self.clock = after, pause, clock
        self._lock = threading.Lock()
        self._in_a_row, self._last = 0, ""
        self._next_try = 0.0  # the time at which the next question is let through while the breaker is open

    def refusal(self) -> str:
        """Return why the next question must not be asked, or "" if it may be. While the breaker is open, only the
        caller that gets "" is let through."""
        with self._lock:
            if not self._is_open:
                return ""
            left = self._next_try - self.clock()
            if left <= 0:
                self._next_try = self.clock() + self.pause
                return ""
            return f"no answer to the last {self._in_a_row} questions, tried again in {left:.0f} s ({self._last})"

    def answered(self) -> None:
        with self._lock:
            self._in_a_row = 0

    def failed(self, problem: str) -> None:
        """Count a question that got no answer after all retries. `problem` says why."""
        with self._lock:
            self._in_a_row, self._last = self._in_a_row + 1, problem
            if self._is_open:
                self._next_try = self.clock() + self.pause

    @property
    def _is_open(self) -> bool:
        return 0 < self.after <= self._in_a_row
