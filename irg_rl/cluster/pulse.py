"""Heartbeats. An actor that works says so once a second. So a fleet finds an actor that hangs long before the deadline
of its unit of work, which must be long enough for the slowest group.

    actor:  beat = Beat(board, name); beat() after each piece of work   ->  board: when did each name beat last?
    driver: Pulse(limit).silence(name, since)                           <-  seconds since then

Nobody waits for anybody. If the board dies, nothing is known, and only deadlines find actors that hang.
"""

import time
from collections.abc import Callable
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from irg_rl.cluster.beats import Beat
from irg_rl.cluster.ray_runtime import WaitTimeoutError, bounded_get


class Board:
    """Remembers when each actor beat last. `ray.remote(Board)` makes a Ray actor of this class."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def beat(self, name: str) -> None:
        self._last[name] = time.monotonic()

    def silent(self) -> dict[str, float]:
        """Return the name of each actor -> seconds since its last beat."""
        now = time.monotonic()
        return {name: now - last for name, last in self._last.items()}


class Pulse:
    """What the driver knows of the beats of all actors. An actor that works and is silent for `limit` seconds hangs."""

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit, self._clock = limit, clock
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Board)
        self.board: Any = actor.options(num_cpus=0, scheduling_strategy=here).remote()
        self._answer: ObjectRef | None = None
        self._asked = float("-inf")
        self._silent: dict[str, float] | None = None  # the newest answer; None if there is none
        self._of = float("-inf")  # when the newest answer was asked for

    def beat(self, name: str) -> Beat:
        """Return what an actor calls after each piece of its work."""
        return Beat(self.board, name)

    def silence(self, name: str, since: float) -> float:
        """Return for how many seconds an actor has been silent, as far as this is known. It is infinite if the actor
        has never beaten. It is 0 if the board says nothing, or if its newest answer was asked for before `since`, a
        time of the clock of the fleet. Such an answer may be of a time when the actor had no work."""
        self._look()
        return 0.0 if self._silent is None or self._of < since else self._silent.get(name, float("inf"))

    def _look(self) -> None:
        """Take the answer of the board if it is there, and ask again from time to time. This never waits."""
        if self._answer is None and self._clock() - self._asked >= self.limit / 10:
            self._asked = self._clock()
            self._answer = self.board.silent.remote()
        if self._answer is None or not ray.wait([self._answer], timeout=0)[0]:
            return
        answer, self._answer, self._of = self._answer, None, self._asked
        try:
            self._silent = bounded_get(answer, 60.0, "the heartbeats of all actors")
        except (RayError, WaitTimeoutError):
            self._silent = None
