"""A fixed set of actors that work together as the ranks of a collective computation.

The actors of a fleet (fleet.py) can be replaced one by one; ranks cannot. If one rank dies or raises an exception, the
other ranks cannot continue. They would wait until a collective call times out. To avoid this long wait, all ranks are
killed at the first failure. The error names the rank that failed.
"""

import time
from typing import Any

import ray
from ray.exceptions import RayError

from irg_rl.cluster.ray_runtime import ActorFactory, WaitTimeoutError, bounded_get, reason_of, start_actor
from irg_rl.errors import UserError


class RankError(UserError, RuntimeError):
    """Raised if a rank died. The computation ends. A resumed run continues from the last checkpoint."""


class Ranks:
    """The actors of all ranks of a collective computation, one actor per rank. `factory(rank)` starts the actor of a
    rank.

    If there are several ranks, `start` calls `open_port` on rank 0 and then `setup(port)` on all ranks. If there is
    only one rank, `start` calls `setup(None)`.
    """

    def __init__(self, name: str, factory: ActorFactory, world_size: int):
        self.name = name
        self._actors = [start_actor(factory, rank) for rank in range(world_size)]

    def start(self, timeout: float) -> None:
        """Set up all ranks so that they can find each other. Raises WaitTimeoutError if a rank does not answer in time.
        Raises RankError if a rank died.
        """
        port = None
        if len(self._actors) > 1:
            port = bounded_get(self._actors[0].open_port.remote(), timeout, f"{self.name} rank 0 to open its port")
        self.call("setup", port, timeout=timeout)

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
        answered, whom = False, self.name
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
        finally:
            if not answered:
                self.stop()
        return [(results[rank], *others) if kept else results[rank] for rank, others in enumerate(stored)]

    def stop(self) -> None:
        """Kill all ranks."""
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
