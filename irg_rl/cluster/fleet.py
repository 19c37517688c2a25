"""A fleet of restartable actors that loses no work unit.

A unit is one method call on one actor (a whole group to sample or to score). Every unit is on at most one actor at a
time, and every submitted unit ends exactly once: with its result, or with an exception out of `poll` that names it.

    member:  STARTING -> IDLE <-> BUSY          unit:  queued -> running -> done
                ^          |        |                    ^          |
                |          v        v                    +----------+  (its actor died, hung or was killed)
             (backoff) <-- DEAD <---+
                            |
                            v  after `max_respawns` deaths in a row
                         RETIRED

An actor is lost when Ray says so or when a unit passes its deadline; then it is killed before its unit is queued again
(at the front, under the same id), so a unit never runs twice at once. A respawned actor serves only after `prepare`
(which sends the current weights) has been acknowledged. An exception raised *by* the work, or by the constructor of an
actor, is no loss: it would come again, so it ends the run with the name of the unit or the actor.

Results come back by unit id. What a unit computes must depend on its arguments alone, never on the actor or the order;
then a run with a killed actor equals one without.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from irg_rl.cluster.ray_runtime import ActorFactory, WaitTimeoutError, bounded_get, reason_of, start_actor
from irg_rl.errors import UserError

LOST = (RayActorError, WorkerCrashedError, ObjectLostError, OutOfMemoryError, WaitTimeoutError)


class Health(StrEnum):
    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    DEAD = "dead"
    RETIRED = "retired"


class FleetError(UserError, RuntimeError):
    """The fleet cannot complete its work."""


@dataclass(frozen=True)
class FleetSettings:
    """All times in seconds."""

    size: int
    unit_timeout: float = 600.0  # a unit that takes longer counts as hung
    start_timeout: float = 120.0  # for an actor's constructor and `prepare`
    max_respawns: int = 3  # deaths in a row of one member before it is retired
    backoff: float = 0.5  # wait before the first respawn; doubles with every death in a row
    max_attempts: int = 4  # times a unit may be lost before it counts as the cause
    min_healthy: int = 1  # fewest members that must not be retired


@dataclass
class _Unit:
    id: Hashable
    method: str
    args: tuple
    attempts: int = 0
    last_loss: str = ""


@dataclass
class _Member:
    index: int
    health: Health = Health.DEAD
    actor: ActorHandle | None = None
    unit: _Unit | None = None
    refs: list[ObjectRef] = field(default_factory=list)
    began: float = 0.0  # the unit
    deadline: float = 0.0  # of the unit, or of the start
    respawn_at: float = 0.0
    deaths: int = 0  # in a row; a finished unit resets it


@dataclass(frozen=True)
class Finished:
    """Result of a unit. With `returns=2`, `value` is the first return value and `body` a reference to the second one.
    The driver owns the reference, so it outlives the actor that made it."""

    id: Hashable
    value: Any
    body: ObjectRef | None
    attempts: int


class Fleet:
    """Runs units on restartable actors. `factory(index)` makes an actor. `prepare(handle)` returns a reference; the
    actor may serve when it is ready."""

    def __init__(
        self,
        name: str,
        factory: ActorFactory,
        settings: FleetSettings,
        prepare: Callable[[ActorHandle], ObjectRef] | None = None,
        returns: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ):
        if settings.size < 1 or settings.min_healthy > settings.size:
            raise ValueError(f"fleet {name}: size {settings.size} with min_healthy {settings.min_healthy} cannot work")
        self.name = name
        self.settings = settings
        self._factory = factory
        self._prepare = prepare
        self._returns = returns
        self._clock = clock
        self._members = [_Member(index) for index in range(settings.size)]
        self._queue: deque[_Unit] = deque()
        self._known: set[Hashable] = set()
        self.losses: list[str] = []  # one line per lost unit or actor, for the log
        self._worked = 0.0
        for member in self._members:
            self._spawn(member)

    def health(self) -> list[Health]:
        return [member.health for member in self._members]

    def actors(self) -> list[ActorHandle]:
        """Handles of the members that are not known to be dead."""
        return [m.actor for m in self._members if m.actor is not None]

    def outstanding(self) -> int:
        """Number of units that are queued or running."""
        return len(self._known)

    def lap(self) -> float:
        """Seconds of work on finished units since the last call, as the mean over the members."""
        taken, self._worked = self._worked, 0.0
        return taken / self.settings.size

    def under_way(self) -> list[ObjectRef]:
        """One reference per busy member (working on a unit or starting). It is ready when the member has finished."""
        return [m.refs[0] for m in self._members if m.health in (Health.STARTING, Health.BUSY)]

    def submit(self, unit: Hashable, method: str, *args: Any) -> None:
        """Queue `actor.method(*args)` under the id `unit`."""
        if unit in self._known:
            raise ValueError(f"fleet {self.name}: unit {unit!r} is already under way")
        self._known.add(unit)
        self._queue.append(_Unit(unit, method, args))
        self._dispatch()

    def withdraw(self, unit: Hashable) -> None:
        """Cancel a unit. If it is running, its actor is killed: nothing else stops it."""
        self._known.discard(unit)
        self._queue = deque(u for u in self._queue if u.id != unit)
        for member in self._members:
            if member.unit is not None and member.unit.id == unit:
                member.unit = None
                self._lose(member, "its unit was withdrawn")

    def poll(self, timeout: float) -> list[Finished]:
        """Units finished within `timeout` seconds, in no particular order. Returns as soon as there is one.

        Raises FleetError when too few members are left or a unit was lost too often. Exceptions of the work itself are
        raised too.
        """
        end = self._clock() + timeout
        while True:
            self._revive()
            self._dispatch()
            finished = self._collect(max(0.0, min(end - self._clock(), 0.25)))
            self._dispatch()
            if finished or self._clock() >= end:
                return finished

    def run(self, units: Sequence[tuple[Hashable, str, tuple]], timeout: float) -> list[Finished]:
        """Submit all units and return their results in the given order.

        Raises WaitTimeoutError when they are not done within `timeout` seconds.
        """
        for unit, method, args in units:
            self.submit(unit, method, *args)
        wanted = [unit for unit, _, _ in units]
        done: dict[Hashable, Finished] = {}
        end = self._clock() + timeout
        while len(done) < len(wanted):
            left = end - self._clock()
            if left <= 0:
                missing = [unit for unit in wanted if unit not in done]
                count = f"{len(missing)} units unfinished after {timeout:g} s"
                raise WaitTimeoutError(f"fleet {self.name}: {count}: {missing[:5]}")
            done.update((result.id, result) for result in self.poll(min(left, 5.0)))
        return [done[unit] for unit in wanted]

    def broadcast(self, method: str, *args: Any, timeout: float) -> list[Any]:
        """Call a method on every living member and wait for all. A busy member answers after its unit, a starting one
        after its `prepare`, which may have been sent before.

        A member that does not answer counts as lost and is respawned with `prepare`. So update what `prepare` sends
        *before* the broadcast. Returns the answers of the members that answered, in member order.
        """
        living = [m for m in self._members if m.actor is not None]
        calls = [(member, getattr(member.actor, method).remote(*args)) for member in living]
        answers = []
        end = self._clock() + timeout
        for member, ref in calls:
            try:
                left = max(0.0, end - self._clock())
                answers.append(bounded_get(ref, left, f"{method} of {self.name} {member.index}"))
            except LOST as error:
                self._lose(member, f"{method}: {reason_of(error)}")
        self._require_enough()
        return answers

    def wait_until_serving(self, count: int, timeout: float) -> None:
        """Wait until `count` members may serve. WaitTimeoutError names the states of the members."""
        end = self._clock() + timeout
        while sum(h in (Health.IDLE, Health.BUSY) for h in self.health()) < count:
            if self._clock() >= end:
                states = ", ".join(self.health())
                raise WaitTimeoutError(f"fleet {self.name}: not {count} members serving after {timeout:g} s: {states}")
            self._revive()
            self._collect(0.1)

    def stop(self) -> None:
        """Kill every actor and drop all queued units."""
        for member in self._members:
            self._kill(member)
            member.health = Health.RETIRED
        self._queue.clear()
        self._known.clear()

    def _spawn(self, member: _Member) -> None:
        member.actor = start_actor(self._factory, member.index)
        ready = member.actor.__ray_ready__.remote() if self._prepare is None else self._prepare(member.actor)
        member.refs = [ready]
        member.health = Health.STARTING
        member.deadline = self._clock() + self.settings.start_timeout

    def _revive(self) -> None:
        for member in self._members:
            if member.health == Health.DEAD and self._clock() >= member.respawn_at:
                self._spawn(member)

    def _dispatch(self) -> None:
        for member in self._members:
            if not self._queue:
                return
            if member.health == Health.IDLE:
                unit = self._queue.popleft()
                unit.attempts += 1
                call = getattr(member.actor, unit.method).options(num_returns=self._returns).remote(*unit.args)
                member.refs = [call] if self._returns == 1 else list(call)
                member.unit = unit
                member.health = Health.BUSY
                member.began = self._clock()
                member.deadline = member.began + self.settings.unit_timeout

    def _collect(self, timeout: float) -> list[Finished]:
        waiting = {m.refs[0]: m for m in self._members if m.health in (Health.STARTING, Health.BUSY)}
        if not waiting:
            time.sleep(min(timeout, self.settings.backoff))
            return []
        ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0, fetch_local=False)
        if not ready and timeout > 0:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=timeout, fetch_local=False)
        finished = [f for ref in ready if (f := self._settle(waiting[ref])) is not None]
        for member in self._members:
            if member.health in (Health.STARTING, Health.BUSY) and self._clock() > member.deadline:
                self._lose(member, "no answer before its deadline")
        return finished

    def _settle(self, member: _Member) -> Finished | None:
        """Handle the reference of a member that is ready: a start, a result, or a death."""
        unit = member.unit
        what = f"{self.name} {member.index}: " + (f"unit {unit.id!r}" if unit is not None else "start")
        try:
            value = bounded_get(member.refs[0], 60.0, what)
        except RayTaskError as error:
            raise FleetError(f"{what} raised {reason_of(error)}") from error
        except LOST as error:
            if isinstance(error, RayActorError) and error.actor_init_failed:
                raise FleetError(f"{what}: {reason_of(error)}") from error
            self._lose(member, reason_of(error))
            return None
        member.health = Health.IDLE
        if unit is None:
            return None
        member.unit = None
        member.deaths = 0
        self._worked += self._clock() - member.began
        self._known.discard(unit.id)
        return Finished(unit.id, value, member.refs[1] if self._returns == 2 else None, unit.attempts)

    def _lose(self, member: _Member, reason: str) -> None:
        """Kill the member, queue its unit again and schedule its respawn."""
        unit, member.unit = member.unit, None
        self._kill(member)
        member.deaths += 1
        self.losses.append(f"{self.name} {member.index}: {reason}" + (f"; unit {unit.id!r} again" if unit else ""))
        member.respawn_at = self._clock() + self.settings.backoff * 2 ** (member.deaths - 1)
        member.health = Health.RETIRED if member.deaths > self.settings.max_respawns else Health.DEAD
        if unit is not None:
            unit.last_loss = reason
            if unit.attempts >= self.settings.max_attempts:
                raise FleetError(f"{self.name}: unit {unit.id!r} was lost {unit.attempts} times, at last by {reason}")
            self._queue.appendleft(unit)
        self._require_enough()

    def _require_enough(self) -> None:
        left = sum(member.health != Health.RETIRED for member in self._members)
        if left < self.settings.min_healthy:
            raise FleetError(
                f"fleet {self.name}: {left} of {self.settings.size} members are left, "
                f"{self.settings.min_healthy} needed; the last losses: {self.losses[-3:]}"
            )

    @staticmethod
    def _kill(member: _Member) -> None:
        if member.actor is not None:
            ray.kill(member.actor, no_restart=True)
        member.actor = None
        member.refs = []


def wait_for_any(fleets: Sequence[Fleet], timeout: float) -> None:
    """Wait until a member of any of the fleets has finished, or until `timeout` seconds have passed."""
    refs = [ref for fleet in fleets for ref in fleet.under_way()]
    if refs:
        ray.wait(refs, num_returns=1, timeout=timeout, fetch_local=False)
    else:
        time.sleep(timeout)
