"""A fixed set of actors that act together: the ranks of a collective computation.

Unlike the members of a fleet, ranks cannot be replaced one by one. When one dies or raises, the others would wait for
it until a collective call times out. So the first failure ends the wait, names the rank and kills all of them.
"""

import time
from typing import Any

import ray
from ray.exceptions import RayError

from irg_rl.cluster.ray_runtime import ActorFactory, WaitTimeoutError, bounded_get, reason_of, start_actor
from irg_rl.errors import UserError


class RankError(UserError, RuntimeError):
    """A rank died. The computation ends; resuming continues from its last checkpoint."""


class Ranks:
    """`factory(rank)` makes an actor handle.

    `start` has rank 0 `open_port` and all ranks `setup(port)`; a single rank is set up without a port.
    """

    def __init__(self, name: str, factory: ActorFactory, world_size: int):
        self.name = name
        self._actors = [start_actor(factory, rank) for rank in range(world_size)]

    def start(self, timeout: float) -> None:
        """Raises WaitTimeoutError or RankError."""
        port = None
        if len(self._actors) > 1:
            port = bounded_get(self._actors[0].open_port.remote(), timeout, f"{self.name} rank 0 to open its port")
        self.call("setup", port, timeout=timeout)

    def call(self, method: str, *args: Any, timeout: float) -> list[Any]:
        """`method(*args)` on every rank; results in rank order. References among `args` arrive as their values.

        Raises:
            the exception of the first rank that raised;
            RankError: when a rank died;
            WaitTimeoutError: naming the ranks that did not answer. In all three cases every rank is killed.
        """
        answered, whom = False, self.name
        refs = {getattr(actor, method).remote(*args): rank for rank, actor in enumerate(self._actors)}
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
        return [results[rank] for rank in range(len(self._actors))]

    def stop(self) -> None:
        """Kills every rank."""
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
