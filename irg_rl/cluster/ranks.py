"""A fixed set of actors that work together as the ranks of a collective computation.

The actors of a fleet (fleet.py) can be replaced one by one; ranks cannot. If one rank dies or raises an exception, the
other ranks cannot continue. They would wait until a collective call times out. To avoid this long wait, all ranks are
killed at the first failure. The error names the rank that failed.

If a rank dies, another rank may be the first to notice, because its connection breaks. It then raises an error of the
network. So before such an error is raised again, the other ranks get some time to be found dead.
"""

import time
from contextlib import suppress
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError

from irg_rl.cluster.ray_runtime import (
    LOOPBACK,
    ActorFactory,
    WaitTimeoutError,
    bounded_get,
    end_actors,
    reason_of,
    start_actor,
)
from irg_rl.errors import UserError, is_expected

DEATH_NOTICE_S = 30.0
"""How many seconds Ray may take to notice that a node of the cluster is dead."""


class RankError(UserError, RuntimeError):
    """Raised if a rank died. The computation ends. A resumed run continues from the last checkpoint."""


class Ranks:
    """The actors of all ranks of a collective computation, one actor per rank. `factory(rank)` starts the actor of a
    rank.

    If there are several ranks, `start` calls `open_port(address)` on rank 0 and then `setup(port, address)` on all
    ranks. `address` is the address of rank 0 at which the others reach it. If there is only one rank, `start` calls
    `setup()`.
    """

    def __init__(self, name: str, factory: ActorFactory, world_size: int, address: str = LOOPBACK):
        self.name = name
        self._address = address
        self._actors = [start_actor(factory, rank) for rank in range(world_size)]
        self.losses: list[str] = []  # one line for each rank that `stop` could not kill
        self._alive: dict[ObjectRef, int] = {}  # questions whether a rank is alive -> its number

    def start(self, timeout: float) -> None:
        """Set up all ranks so that they can find each other. Raises WaitTimeoutError if a rank does not answer in time.
        Raises RankError if a rank died.
        """
        meeting: tuple = ()
        if len(self._actors) > 1:
            opened = self._actors[0].open_port.remote(self._address)
            try:
                port = bounded_get(opened, timeout, f"{self.name} rank 0 to open its port")
            except RayError as error:
                self.stop()
                raise RankError(f"{self.name} 0 died in open_port ({reason_of(error)}); resume the run") from error
            except Exception:
                self.stop()
                raise
            meeting = (port, self._address)
        self.call("setup", *meeting, timeout=timeout)

    def call(self, method: str, *args: Any, timeout: float, kept: int = 0) -> list[Any]:
        """Call `method(*args)` on every rank and return the results in rank order. Ray references among `args` are
        replaced by their values.

        With `kept` > 0, the method must return a tuple. Its last `kept` values then stay in Ray's object store, and the
        result of a rank is the tuple with Ray references to these values.

        If any rank fails, all ranks are killed.

        Raises:
            the exception of the first rank that raised one;
            RankError: if a rank died;
            WaitTimeoutError: if ranks did not answer in time; it names these ranks.
        """
        answered, whom, waiting = False, self.name, []
        refs, stored = {}, []
        for rank, actor in enumerate(self._actors):
            answer = getattr(actor, method).options(num_returns=1 + kept).remote(*args)
            first, *others = answer if kept else [answer]
            refs[first] = rank
            stored.append(others)
        results: dict[int, Any] = {}
        end = time.monotonic() + timeout
        try:
            waiting = list(refs)
            while waiting:
                ready, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, end - time.monotonic()))
                if not ready:
                    late = sorted(refs[ref] for ref in waiting)
                    raise WaitTimeoutError(f"gave up after {timeout:g} s waiting for {method} of {self.name} {late}")
                rank = refs[ready[0]]
                whom = f"{self.name} {rank}"
                results[rank] = bounded_get(ready[0], 60.0, f"{method} of {whom}")
            answered = True
        except RayError as error:
            raise RankError(f"{whom} died in {method} ({reason_of(error)}); resume the run") from error
        except Exception as error:
            dead = None if is_expected(error) else _first_dead({ref: refs[ref] for ref in waiting})
            if dead is None:
                raise
            raise RankError(f"{self.name} {dead[0]} died in {method} ({dead[1]}); resume the run") from error
        finally:
            if not answered:
                self.stop()
        return [(results[rank], *others) if kept else results[rank] for rank, others in enumerate(stored)]

    def check(self) -> None:
        """Look whether a rank has died since the last check, without waiting. Then kill all ranks and raise
        RankError."""
        for rank in set(range(len(self._actors))) - set(self._alive.values()):
            self._alive[self._actors[rank].__ray_ready__.remote()] = rank
        ready, _ = ray.wait(list(self._alive), num_returns=len(self._alive), timeout=0)
        for ref in ready:
            rank = self._alive.pop(ref)
            try:
                bounded_get(ref, 60.0, f"the answer of {self.name} {rank}")
            except RayError as error:
                self.stop()
                raise RankError(f"{self.name} {rank} died ({reason_of(error)}); resume the run") from error

    def stop(self) -> None:
        """Kill all ranks. `losses` says which of them may still live."""
        said = end_actors(self._actors)
        self.losses += [f"{self.name} {rank}: {why}" for rank, why in enumerate(said) if why]


def _first_dead(refs: dict[ObjectRef, int]) -> tuple[int, str] | None:
    """Wait until one of these calls ends because its actor died, and return (its rank, the reason). Return None if all
    calls end in another way, or if none has ended so after DEATH_NOTICE_S seconds. `refs` maps the Ray reference of
    each call to its rank."""
    waiting, end = list(refs), time.monotonic() + DEATH_NOTICE_S
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, end - time.monotonic()))
        if not ready:
            return None
        with suppress(Exception):  # another rank has noticed the death, too
            try:
                bounded_get(ready[0], 60.0, f"the answer of rank {refs[ready[0]]}")
            except RayTaskError:
                raise
            except RayError as error:
                return refs[ready[0]], reason_of(error)
    return None
