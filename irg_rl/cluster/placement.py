"""Reserve room for actors on the nodes of a Ray cluster, before any of them starts.

Ray itself lets an actor wait for ever if the cluster has no room for it. Here all actors of a stage get their room
together, as placement groups of Ray (docs.ray.io, "Placement Groups"). If this is not possible within PATIENCE_S
seconds, the error says what is asked, what the cluster has, and what is free.

If a node dies, Ray moves the room of its actors to other nodes that have room.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from irg_rl.cluster.ray_runtime import LOOPBACK
from irg_rl.errors import UserError

PATIENCE_S = 20
"""How many seconds the cluster gets to find room."""
_SHOWN = 8  # number of nodes that an error lists one by one


class PlacementError(UserError, RuntimeError):
    """Raised if the nodes of a cluster have no room for the actors."""


class NoRoomError(PlacementError):
    """Raised if an actor cannot be started again, because its node is dead and no other node has room."""


@dataclass(frozen=True)
class ActorDemand:
    """Actors of one kind, and the share of a node that each of them needs."""

    name: str
    count: int
    cpus: float
    gpus: float
    strategy: str = "SPREAD"  # of Ray: PACK uses as few nodes as possible, SPREAD as many
    beside_driver: bool = False  # whether they must be on the node on which the driver runs

    @property
    def bundle(self) -> dict[str, float]:
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount}

    def __str__(self) -> str:
        where = " on the driver's node" if self.beside_driver else ""
        several = self.count > 1
        return f"{self.count} {self.name}{'s' * several}{where} with {_amounts(self.bundle)}{' each' * several}"


@dataclass(frozen=True)
class ClusterNode:
    """A living node of a cluster, with what it has in all and what is free."""

    id: str
    address: str
    total: dict[str, float]
    free: dict[str, float]


def living_nodes() -> list[ClusterNode]:
    """Return the living nodes of the cluster that this process is connected to."""
    free = available_resources_per_node()
    return [
        ClusterNode(node["NodeID"], node["NodeManagerAddress"], node["Resources"], free.get(node["NodeID"], {}))
        for node in ray.nodes() if node["Alive"]
    ]  # fmt: skip


class ActorRoom:
    """The room for the actors of one kind, one place for each actor. Without a placement group, as on a Ray of one's
    own, Ray may start the actors anywhere.

    `visit(node)` is called with each node before the first actor starts there. It raises an error if the node cannot
    be used.
    """

    def __init__(
        self, name: str, group: PlacementGroup | None = None, visit: Callable[[ClusterNode], None] = lambda node: None
    ):
        self.name = name
        self._group = group
        self._visit = visit

    def place(self, index: int) -> dict[str, Any]:
        """Return the options for `ActorClass.options(**...)` that start actor number `index` at its place.

        Raises NoRoomError if the node of this place is dead and Ray has found no other place so far.
        """
        if self._group is None:
            return {}
        self._visit(self._node(index))
        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, index)}

    def meeting_address(self) -> str:
        """Return the address of actor number 0 at which the other actors reach it: the loopback address if all of them
        are on one node."""
        nodes = self.nodes()
        return nodes[0].address if len({node.id for node in nodes}) > 1 else LOOPBACK

    def nodes(self) -> list[ClusterNode]:
        """Return the node of each actor. The list is empty without a placement group."""
        count = 0 if self._group is None else self._group.bundle_count
        return [self._node(index) for index in range(count)]

    def _node(self, index: int) -> ClusterNode:
        assert self._group is not None
        wanted = placement_group_table(self._group)["bundles_to_node_id"].get(index, "")
        for node in living_nodes():
            if node.id == wanted:
                return node
        raise NoRoomError(f"no node that is left has room for {self.name} {index}")


def reserve(asked: Sequence[ActorDemand], visit: Callable[[ClusterNode], None]) -> dict[str, ActorRoom]:
    """Reserve room for all actors, and return the room of each kind by its name. Ray serves the kinds in the order of
    `asked`. `visit` is explained at `ActorRoom`.

    Raises PlacementError if there is no room within PATIENCE_S seconds.
    """
    nodes, end = living_nodes(), time.monotonic() + PATIENCE_S
    groups = {one.name: _group(one) for one in asked}
    without = [one for one in asked if not groups[one.name].wait(max(1, round(end - time.monotonic())))]
    if without:
        for group in groups.values():
            remove_placement_group(group)
        raise PlacementError(
            f"no room for {', '.join(map(str, without))}. Asked in all: {', '.join(map(str, asked))}. "
            f"{in_stock(nodes)} Lower engine.learner_ranks, engine.rollout_actors or engine.threads, wait for other "
            "jobs to end, or add nodes"
        )
    return {name: ActorRoom(name, group, visit) for name, group in groups.items()}


def in_stock(nodes: Sequence[ClusterNode]) -> str:
    """Return one sentence about what the nodes have and what is free."""
    shown = [f"{node.address} {_of(node.total, node.free)}" for node in nodes[:_SHOWN]]
    more = [f"{len(nodes) - _SHOWN} more"] if len(nodes) > _SHOWN else []
    return f"The cluster has {len(nodes)} node{'s' * (len(nodes) != 1)}: {'; '.join(shown + more)}."


def _group(asked: ActorDemand) -> PlacementGroup:
    """Ask Ray for the room of one kind of actors. Ray answers later."""
    where: dict[str, Any] = {}
    if asked.beside_driver:
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        where["bundle_label_selector"] = [here] * asked.count
    return placement_group([asked.bundle] * asked.count, strategy=asked.strategy, **where)


def _amounts(bundle: dict[str, float]) -> str:
    words = [f"{amount:g} {name}{'s' * (amount != 1)}" for name, amount in bundle.items()]
    return " and ".join(words)


def _of(total: dict[str, float], free: dict[str, float]) -> str:
    """Return for example `has 8 CPUs (3 free) and 0 GPUs`."""
    words = [
        f"{total.get(name, 0):g} {name}s" + (f" ({free.get(name, 0):g} free)" if total.get(name) else "")
        for name in ("CPU", "GPU")
    ]
    return "has " + " and ".join(words)
