"""A fleet is a set of Ray actors that can be restarted. It never loses a unit of work.

A unit is one method call on one actor, for example to sample or to score a whole group. At any time a unit runs on at
most one actor. Every submitted unit ends exactly once: `poll` returns the result of the unit, or raises an exception
that names the unit.

    member:  STARTING -> IDLE <-> BUSY          unit:  queued -> running -> done
                ^          |        |                    ^          |
                |          v        v                    +----------+  (its actor died, hung or was killed)
             (backoff) <-- DEAD <---+
                            |
                            v  after `max_respawns` deaths in a row
                         RETIRED

An actor counts as lost if Ray reports it as dead, if its unit passes its deadline, if it works but its heartbeats stop
(pulse.py), or if it cannot be started because its node is dead and no other node has room (placement.py). Then the
actor is killed first. After that its unit is queued again, at the front and with the same id. So a unit never runs
twice at the same time. The call `prepare` sends a new actor the current weights. The new actor gets work only after
`prepare` has finished. An actor does not count as lost if the work itself or the constructor of the actor raises an
exception. This exception would occur again. So it ends the run, and the message names the unit or the actor.

The arguments of a unit may be Ray references to data on another node. If that node dies, the data are gone, and no
actor can do the unit. Then it leaves the fleet, and `without_arguments` names it.

`post` sends news, such as new weights, to all actors without waiting for them. An actor gets the news when it has
finished its unit, and it gets no other unit before it has acknowledged the news. So one slow actor does not hold up the
others.

Results are identified by the id of their unit. The result of a unit must depend only on its arguments, never on the
actor or on the order of the units. Then the results of a run do not change if actors are killed.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from irg_rl.cluster.member import Finished, FleetSettings, Health, Member, News, Unit
from irg_rl.cluster.placement import NoRoomError
from irg_rl.cluster.pulse import Pulse
from irg_rl.cluster.ray_runtime import ActorFactory, WaitTimeoutError, bounded_get, end_actors, reason_of, start_actor
from irg_rl.cluster.timeline import Interval
from irg_rl.errors import UserError

INTERVALS = 10_000
"""A fleet keeps so many intervals, the newest ones."""
LOST = (RayActorError, WorkerCrashedError, ObjectLostError, OutOfMemoryError, WaitTimeoutError)


class FleetError(UserError, RuntimeError):
    """Raised if a fleet cannot finish its work. There are three possible causes:
    * Too few actors are left.
    * The work or the constructor of an actor raised an exception.
    * One unit that was given to `Fleet.run` was lost too often.
    """


class Fleet:
    """A set of actors that can be restarted, and a queue of units of work for them. A unit is one method call on one
    actor.

    Args:
        factory: `factory(index)` starts actor number `index` and returns its handle.
        prepare: `prepare(handle)` sends the actor what it needs and returns a Ray reference. The actor gets work only
            after this reference is ready. If `prepare` is None, it gets work as soon as it has started.
        pulse: The heartbeats of the actors. `actor_name(name, index)` is the name of an actor. If `pulse` is None, only
            the deadline finds an actor that hangs.
    """

    def __init__(
        self,
        name: str,
        factory: ActorFactory,
        settings: FleetSettings,
        prepare: Callable[[ActorHandle], ObjectRef] | None = None,
        clock: Callable[[], float] = time.monotonic,
        pulse: Pulse | None = None,
    ):
        if settings.size < 1 or settings.min_healthy > settings.size:
            raise ValueError(f"fleet {name}: size {settings.size} with min_healthy {settings.min_healthy} cannot work")
        self.name = name
        self.settings = settings
        self._factory = factory
        self._prepare = prepare
        self._clock = clock
        self._pulse = pulse
        self._members = [Member(index) for index in range(settings.size)]
        self._queue: deque[Unit] = deque()
        self._known: set[Hashable] = set()
        self._given_up: list[tuple[Hashable, str]] = []
        self._without_arguments: list[Hashable] = []
        self.losses: list[str] = []  # one line for each lost unit or actor, for the log
        self.intervals: deque[Interval] = deque(maxlen=INTERVALS)  # the last pieces of work that have ended
        self._worked = 0.0
        for member in self._members:
            self._spawn(member)

    def health(self) -> list[Health]:
        return [member.health for member in self._members]

    def actors(self) -> list[ActorHandle]:
        """Return the handles of all actors, except those that are known to be dead."""
        return [m.actor for m in self._members if m.actor is not None]

    def outstanding(self) -> int:
        """Return the number of units (method calls) that are queued or running."""
        return len(self._known)

    def lap(self) -> float:
        """Return how many seconds the actors have worked since the last call of `lap`, as a mean over all actors. Only
        units (method calls) that have finished are counted.
        """
        taken, self._worked = self._worked, 0.0
        return taken / self.settings.size

    def under_way(self) -> list[ObjectRef]:
        """Return one Ray reference for each actor that is starting, working on a unit (a method call), or reading news.
        The reference becomes ready when the start or the unit has finished, or when the news are acknowledged.
        """
        return list(self._awaited())

    def submit(self, unit: Hashable, method: str, *args: Any, returns: int = 1) -> None:
        """Queue the call `actor.method(*args)` as a unit with the id `unit`. `returns` is the number of values that the
        method returns. Raises ValueError if a unit with this id is already queued or running.
        """
        if unit in self._known:
            raise ValueError(f"fleet {self.name}: unit {unit!r} is already under way")
        self._known.add(unit)
        self._queue.append(Unit(unit, method, args, returns))
        self._dispatch()

    def poll(self, timeout: float) -> list[Finished]:
        """Wait at most `timeout` seconds for units to finish, and return the finished units in no particular order. The
        call ends as soon as at least one unit has finished.

        A unit that is lost too often never finishes: see `given_up`. Raises FleetError if too few actors are left. An
        exception that the work itself raised is raised again here.
        """
        end = self._clock() + timeout
        while True:
            self._revive()
            self._dispatch()
            finished = self._collect(max(0.0, min(end - self._clock(), 0.25)))
            self._dispatch()
            if finished or self._clock() >= end:
                return finished

    def given_up(self) -> list[tuple[Hashable, str]]:
        """Return the units that were lost too often since the last call of this method, as pairs (id, reason). Such a
        unit is not started again: perhaps the work itself makes the actors die or hang."""
        given_up, self._given_up = self._given_up, []
        return given_up

    def without_arguments(self) -> list[Hashable]:
        """Return the ids of the units that no actor can do, because their arguments were lost together with a node. A
        unit is named only once. It may be submitted again with new arguments."""
        without, self._without_arguments = self._without_arguments, []
        return without

    def run(self, units: Sequence[tuple[Hashable, str, tuple]], timeout: float) -> list[Finished]:
        """Submit all units, wait for them, and return their results in the given order. A unit is given as (id, name of
        the method, arguments).

        Raises WaitTimeoutError if the units are not done within `timeout` seconds, and FleetError if one of them was
        lost too often.
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
            for unit, reason in self.given_up():
                raise FleetError(f"{self.name}: unit {unit!r} {reason}")
            for unit in self.without_arguments():
                raise FleetError(f"{self.name}: the arguments of unit {unit!r} were lost with their node")
        return [done[unit] for unit in wanted]

    def broadcast(self, method: str, *args: Any, timeout: float) -> list[Any]:
        """Call a method on every living actor, and return the answers in the order of the actors. An actor that is busy
        answers when its current unit has finished. An actor that is starting answers after `prepare`.

        An actor that dies or does not answer within `timeout` seconds is left out of the answers. It is killed, and a
        new actor is started with `prepare`. The new actor does not get this call. So if the call sends new data, for
        example weights, first make sure that `prepare` sends the new data, too.
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

    def post(self, method: str, *args: Any, timeout: float, check: Callable[[Any], None]) -> None:
        """Let every actor call a method as soon as it has no unit, and return at once. Until an actor has answered, it
        gets no unit. `poll` gives its answer to `check`, which raises an error if the answer is wrong.

        An actor that dies or does not answer within `timeout` seconds is replaced, as one that is lost with its unit.
        The new actor gets the news from `prepare` only. News that an actor has not been sent yet are replaced by newer
        ones.
        """
        for member in self._members:
            if member.actor is not None:
                member.news = News(method, args, timeout, check)
                self._tell(member)

    def wait_until_serving(self, count: int, timeout: float) -> None:
        """Wait until at least `count` actors are ready for work or working. Raises WaitTimeoutError if this takes
        longer than `timeout` seconds. The error lists the states of all actors.
        """
        end = self._clock() + timeout
        while sum(h in (Health.IDLE, Health.BUSY) for h in self.health()) < count:
            if self._clock() >= end:
                states = ", ".join(self.health())
                raise WaitTimeoutError(f"fleet {self.name}: not {count} members serving after {timeout:g} s: {states}")
            self._revive()
            self._collect(0.1)

    def stop(self) -> None:
        """Kill every actor and drop all queued units. `losses` says which actors may still live."""
        self._kill(*self._members)
        for member in self._members:
            member.health = Health.RETIRED
        self._queue.clear()
        self._known.clear()

    def _spawn(self, member: Member) -> None:
        try:
            member.actor = start_actor(self._factory, member.index)
        except (NoRoomError, *LOST) as error:
            self._lose(member, reason_of(error))
            return
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
            if member.health == Health.IDLE and member.told is None:
                unit = self._queue.popleft()
                unit.attempts += 1
                call = getattr(member.actor, unit.method).options(num_returns=unit.returns).remote(*unit.args)
                member.refs = [call] if unit.returns == 1 else list(call)
                member.unit = unit
                member.health = Health.BUSY
                member.began = self._clock()
                member.deadline = member.began + self.settings.unit_timeout

    def _collect(self, timeout: float) -> list[Finished]:
        waiting = self._awaited()
        if not waiting:
            time.sleep(min(timeout, self.settings.backoff))
            return []
        ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0, fetch_local=False)
        if not ready and timeout > 0:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=timeout, fetch_local=False)
        finished = [f for ref in ready if (f := self._settle(waiting[ref])) is not None]
        for member in self._awaited().values():
            if self._clock() > member.deadline:
                self._lose(member, "no answer before its deadline")
            elif self._is_silent(member):
                self._lose(member, "no heartbeat")
        return finished

    def _is_silent(self, member: Member) -> bool:
        """Return whether a member works on a unit and has not beaten for too long. Silence before the unit does not
        count."""
        if self._pulse is None or member.health != Health.BUSY or self._clock() - member.began <= self._pulse.limit:
            return False
        name, since = actor_name(self.name, member.index), member.began + self._pulse.limit
        return self._pulse.silence(name, since) > self._pulse.limit

    def _awaited(self) -> dict[ObjectRef, Member]:
        """Return the reference that is awaited -> its member, for each member that is starting, working or reading
        news."""
        told = {member.told[0]: member for member in self._members if member.told is not None}
        return told | {m.refs[0]: m for m in self._members if m.health in (Health.STARTING, Health.BUSY)}

    def _tell(self, member: Member) -> None:
        """Send a member its news, if it has some and nothing else to do."""
        if member.health != Health.IDLE or member.told is not None or member.news is None:
            return
        news, member.news = member.news, None
        member.told = getattr(member.actor, news.method).remote(*news.args), news
        member.began = self._clock()
        member.deadline = self._clock() + news.timeout

    def _hear(self, member: Member) -> None:
        """Check the answer of a member to its news. The member may have died instead of answering."""
        assert member.told is not None
        ref, news = member.told
        try:
            answer = bounded_get(ref, 60.0, f"{news.method} of {self.name} {member.index}")
        except LOST as error:
            self._lose(member, f"{news.method}: {reason_of(error)}")
            return
        news.check(answer)
        self._note(member, news.method)
        member.told = None
        self._tell(member)

    def _note(self, member: Member, method: str) -> None:
        """Note that a member has ended a piece of work."""
        actor = actor_name(self.name, member.index)
        self.intervals.append(Interval(actor, method, member.began, self._clock()))

    def _rest(self, member: Member) -> None:
        """The member has nothing to do. Send it its news."""
        member.health, member.unit = Health.IDLE, None
        self._tell(member)

    def _settle(self, member: Member) -> Finished | None:
        """Handle an actor whose Ray reference is ready. This means that its start has finished, its unit has finished,
        its news are acknowledged, or the actor has died. Return the result if a unit has finished, otherwise None.
        """
        if member.told is not None:
            self._hear(member)
            return None
        unit = member.unit
        what = f"{self.name} {member.index}: " + (f"unit {unit.id!r}" if unit is not None else "start")
        try:
            value = bounded_get(member.refs[0], 60.0, what)
        except RayTaskError as error:
            raise FleetError(f"{what} raised {reason_of(error)}") from error
        except LOST as error:
            if unit is not None and isinstance(error, ObjectLostError) and _has_references(unit):
                return self._forget(member, unit)
            if isinstance(error, RayActorError) and error.actor_init_failed:
                raise FleetError(f"{what}: {reason_of(error)}") from error
            self._lose(member, reason_of(error))
            return None
        others = tuple(member.refs[1:])
        if unit is None:
            self._rest(member)
            return None
        self._note(member, unit.method)
        self._worked += self._clock() - member.began
        self._rest(member)
        member.deaths = 0
        self._known.discard(unit.id)
        return Finished(unit.id, value, others, unit.attempts)

    def _forget(self, member: Member, unit: Unit) -> None:
        """Take a unit out of the fleet whose arguments are lost. Its actor is well."""
        self._rest(member)
        self._known.discard(unit.id)
        self._without_arguments.append(unit.id)
        self.losses.append(f"{self.name}: the arguments of unit {unit.id!r} were lost with their node")

    def _lose(self, member: Member, reason: str) -> None:
        """Kill the actor of `member`, and schedule its restart. If the actor was working on a unit (a method call), put
        this unit back at the front of the queue, or give it up if it was lost too often.
        """
        unit, member.unit = member.unit, None
        self._kill(member)
        member.deaths += 1
        member.respawn_at = self._clock() + self.settings.backoff * 2 ** (member.deaths - 1)
        member.health = Health.RETIRED if member.deaths > self.settings.max_respawns else Health.DEAD
        done_with = ""
        if unit is not None:
            unit.last_loss = reason
            again = unit.attempts < self.settings.max_attempts
            done_with = f"; unit {unit.id!r} {'again' if again else 'given up'}"
            if again:
                self._queue.appendleft(unit)
            else:
                self._known.discard(unit.id)
                self._given_up.append((unit.id, f"was lost {unit.attempts} times, at last by {reason}"))
        self.losses.append(f"{self.name} {member.index}: {reason}{done_with}")
        self._require_enough()

    def _require_enough(self) -> None:
        left = sum(member.health != Health.RETIRED for member in self._members)
        if left < self.settings.min_healthy:
            raise FleetError(
                f"fleet {self.name}: {left} of {self.settings.size} members are left, "
                f"{self.settings.min_healthy} needed; the last losses: {self.losses[-3:]}"
            )

    def _kill(self, *members: Member) -> None:
        """Kill the actors of members, all at the same time."""
        living = {member.index: member.actor for member in members if member.actor is not None}
        for index, why in zip(living, end_actors(list(living.values())), strict=True):
            if why:
                self.losses.append(f"{actor_name(self.name, index)}: {why}")
        for member in members:
            member.actor = member.news = member.told = None
            member.refs = []


def actor_name(fleet: str, index: int) -> str:
    """Return the name of an actor in timelines and heartbeats."""
    return f"{fleet} {index}"


def _has_references(unit: Unit) -> bool:
    return any(isinstance(argument, ObjectRef) for argument in unit.args)


def wait_for_any(fleets: Sequence[Fleet], timeout: float) -> bool:
    """Wait until an actor in any of the fleets has finished its start or its unit (a method call), or has acknowledged
    its news. Wait at most `timeout` seconds. Return whether one has."""
    refs = [ref for fleet in fleets for ref in fleet.under_way()]
    if refs:
        return bool(ray.wait(refs, num_returns=1, timeout=timeout, fetch_local=False)[0])
    time.sleep(timeout)
    return False
