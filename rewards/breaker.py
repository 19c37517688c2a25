"""A circuit breaker for a server. If many questions in a row got no answer, the server is left in peace for a while. So
a dead server costs few long waits, and a server that is coming back is not overrun."""

import threading
import time
from collections.abc import Callable


class Breaker:
    """Counts questions in a row that got no answer. After `after` of them it opens: all other questions wait `pause`
    seconds. Then one question is let through. If it is answered, all others are let through, too. If it is not, those
    that wait fail, and the pause begins anew. So a server may be away for `pause` seconds without any failure but the
    first ones. `after` 0: it never opens. Several threads may use it at the same time.

    An answer that says no, such as HTTP 400, is an answer.
    """

    def __init__(self, after: int, pause: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.after, self.pause, self.clock = after, pause, clock
        self._lock = threading.Condition()
        self._in_a_row, self._last = 0, ""
        self._is_trying, self._failed_trials = False, 0  # a trial is a question that is let through while it is open
        self._next_try = 0.0  # the time at which the next question is let through while the breaker is open

    def refusal(self) -> str:
        """Return why the next question must not be asked, or "" if it may be. While the breaker is open, only the
        caller that gets "" is let through."""
        with self._lock:
            if not self._is_open:
                return ""
            left = self._next_try - self.clock()
            if left <= 0:
                self._next_try, self._is_trying = self.clock() + self.pause, True
                return ""
            return f"no answer to the last {self._in_a_row} questions, tried again in {left:.0f} s ({self._last})"

    def wait(self) -> str:
        """Wait until the next question may be asked, and return "". Return why it must not be asked if the question
        that was let through in the meantime got no answer."""
        with self._lock:
            before = self._failed_trials
            while refusal := self.refusal():
                if self._failed_trials > before:
                    return refusal
                self._lock.wait(max(self._next_try - self.clock(), 0.01))
            return ""

    def answered(self) -> None:
        with self._lock:
            self._in_a_row, self._is_trying = 0, False
            self._lock.notify_all()

    def failed(self, problem: str) -> None:
        """Count a question that got no answer after all retries. `problem` says why."""
        with self._lock:
            self._in_a_row, self._last = self._in_a_row + 1, problem
            if self._is_open:
                self._next_try = self.clock() + self.pause
            if self._is_trying:
                self._is_trying, self._failed_trials = False, self._failed_trials + 1
                self._lock.notify_all()

    @property
    def _is_open(self) -> bool:
        return 0 < self.after <= self._in_a_row
