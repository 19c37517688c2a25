"""A run on a Ray cluster of two nodes, both on this machine, and what happens when one of them dies."""

import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from ray._private.authentication.authentication_token_setup import (
    enable_token_auth_by_default,
    ensure_token_if_auth_enabled,
)
from ray.cluster_utils import Cluster

from irg_rl import faults
from irg_rl.cluster import placement, shared_folder
from irg_rl.cluster.attached import AttachedRay
from irg_rl.cluster.fleet import Fleet, FleetSettings, Health
from irg_rl.cluster.placement import ActorDemand, PlacementError, living_nodes, reserve
from irg_rl.cluster.ranks import RankError, Ranks
from irg_rl.cluster.ray_runtime import RaySettings, RayStartError
from irg_rl.cluster.shared_folder import SharedFolder, SharedFolderError
from irg_rl.config.faults import Fault
from irg_rl.driver.checks import cluster_problems
from irg_rl.driver.collector import Collector
from irg_rl.driver.rl_loop import reinforce
from irg_rl.driver.room import asked_by_rl, ray_with_room
from irg_rl.driver.run_folder import Run
from irg_rl.model.folder import load_folder
from irg_rl.report.tracking import Tracker
from tests.driver.begun import begun_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CPUS = 6
"""What Ray believes that each node has: enough for all actors of the run."""


@pytest.fixture(scope="module")
def cluster():
    enable_token_auth_by_default()  # a cluster listens on the network, and all its processes must agree
    ensure_token_if_auth_enabled()
    folder = tempfile.mkdtemp(prefix="irg-", dir="/tmp")
    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)  # the cluster utility of Ray writes its address there
    made = Cluster()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_agent_register_timeout_ms", "120000")  # 30 s are too short on a busy machine
        made.add_node(num_cpus=CPUS, temp_dir=folder, include_dashboard=False)
        made.add_node(num_cpus=CPUS)
        yield made
        made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def run_of(world, folder, **engine) -> Run:
    """RL with two learner ranks and two rollout actors, on two nodes if `engine` has an address."""
    return begun_run(
        world, folder, tracking={"wandb": False},
        engine={"threads": 2, "learner_ranks": 2, "rollout_actors": 2, "stop_grace_s": 20} | engine,
        sampling={"image_size": [16, 16], "points": 3, "max_text_tokens": 4, "turns": 1},
        rl={"updates": 3, "groups": 2, "group_size": 2, "noise": {"window": "all"}, "checkpoint_every": 5},
        rewards={"scorers": [{"name": "light", "kind": "tests.rewards.scorers:Brightness"}]},
    )  # fmt: skip


def trained(run: Run) -> tuple[dict[str, torch.Tensor], dict]:
    facts: dict = {}
    with Tracker(run.folder, name="tiny", use_wandb=False) as tracker:
        reinforce(run, "base", tracker, facts)
    assert not ray.is_initialized()
    return load_folder(run.path("models", "rl")).model.state_dict(), facts


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """Weights and facts of the run on a Ray of its own."""
    return trained(run_of(world, tmp_path_factory.mktemp("alone")))


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_four_nodes_and_a_critic_that_dies_make_the_weights_of_one_machine_with_one_critic(
    cluster, alone, world, tmp_path, monkeypatch
):
    """Two learner ranks, two rollout actors and two critics are spread over the nodes. A critic dies while it scores a
    group of the second update."""
    more = [cluster.add_node(num_cpus=CPUS) for _ in range(2)]
    monkeypatch.setenv(faults.ALLOWED, "1")
    run = run_of(world, tmp_path, address=cluster.address, placement="spread", critics=2)
    faults.arm(run.folder, [Fault(what="kill", where="critic", step=1).model_dump()])
    try:
        weights, facts = trained(run)
    finally:
        faults.arm(run.folder, [])
    assert same(weights, alone[0]) and {**facts, "losses": []} == alone[1]
    [loss] = facts["losses"]
    assert loss.startswith("critic ") and loss.endswith(" again") and faults.happened(run.folder) == 1
    with AttachedRay(cluster.address, "after"):
        end = time.monotonic() + 30
        while any(node.free.get("CPU") != CPUS for node in living_nodes()):
            assert time.monotonic() < end, "the run has left something behind"
            time.sleep(0.2)
        assert len(living_nodes()) == 4
    for node in more:
        cluster.remove_node(node)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:6379"])
def test_an_address_without_a_cluster_is_one_line(address):
    began = time.monotonic()
    with pytest.raises(RayStartError, match=f"engine.address {address}: no Ray cluster can be used at") as caught:
        AttachedRay(address, "nobody").__enter__()
    assert time.monotonic() - began < 30 and len(str(caught.value).splitlines()) == 1


def test_a_client_address_in_the_environment_is_refused_like_one_in_the_recipe(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(RayStartError, match="RAY_ADDRESS is ray://head:10001, .* is for Ray Client"):
        AttachedRay("auto", "nobody").__enter__()


def test_a_placement_that_cannot_be_met_says_what_is_asked_and_what_is_there(cluster, world, tmp_path, monkeypatch):
    monkeypatch.setattr(placement, "PATIENCE_S", 1)
    run = run_of(world, tmp_path, address=cluster.address, threads=4 * CPUS)
    with pytest.raises(PlacementError) as caught, ray_with_room(run, RaySettings(2), asked_by_rl(run.recipe)):
        pass
    said = str(caught.value)
    assert said.startswith("no room for 2 learner ranks with 12 CPUs each, 2 rollout actors with 12 CPUs each. ")
    assert "Asked in all: 1 critic on the driver's node with 1 CPU, 2 learner" in said and "\n" not in said
    assert "The cluster has 2 nodes: " in said and f"has {CPUS} CPUs ({CPUS} free) and 0 GPUs" in said
    [problem] = cluster_problems(run.recipe)
    assert problem.startswith("rl asks for 1 critic") and not ray.is_initialized()
    assert cluster_problems(run_of(world, tmp_path / "fits", address=cluster.address).recipe) == []


def test_a_node_that_does_not_see_the_run_folder_is_named_with_the_path(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(shared_folder, "APPEAR_S", 0.0)
    with AttachedRay(cluster.address, "folder"), SharedFolder(tmp_path) as shared:
        here, there = living_nodes()
        shared.check(here)
        next(tmp_path.iterdir()).unlink()  # as if the other node had another disk at this path
        with pytest.raises(SharedFolderError, match=f"node {there.address} does not see the run folder {tmp_path} "):
            shared.check(here, there)


def test_a_dead_node_with_a_rollout_actor_loses_no_group(cluster, alone, world, tmp_path, monkeypatch):
    """Both learner ranks and one rollout actor are on the node of the driver. The other node has room for one rollout
    actor only. It dies during the second update. Its actor is started again on the node that is left."""
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)
    cluster.add_node(num_cpus=1)
    run = run_of(world, tmp_path, address=cluster.address)
    began = Collector.admit

    def admit(self, update: int) -> None:
        began(self, update)
        if update == 1 and cluster.worker_nodes:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    monkeypatch.setattr(Collector, "admit", admit)
    weights, facts = trained(run)
    assert len(facts["losses"]) >= 1 and not cluster.worker_nodes
    assert same(weights, alone[0])
    assert {**facts, "losses": []} == alone[1] and facts["cancelled"] == facts["in_flight"] == 0


@ray.remote(num_cpus=0)
class Waiting:
    """A rank that waits for another one. It also makes data that stay on the node of its process."""

    def open_port(self, address: str) -> int:
        return 1

    def setup(self, port: int, address: str) -> str:
        return address

    def wait(self) -> None:
        time.sleep(600)

    def make(self, number: int) -> tuple[int, np.ndarray]:
        return number, np.full(200_000, number)

    def add(self, numbers: np.ndarray) -> int:
        return int(numbers.sum())


def test_a_dead_node_takes_its_data_and_a_rank_with_it(cluster, tmp_path):
    """The data are named, so that they can be made again. The rank ends the run with one line."""
    cluster.add_node(num_cpus=CPUS)
    with AttachedRay(cluster.address, "death"), SharedFolder(tmp_path) as shared:
        room = reserve([ActorDemand("rank", 2, 1, 0)], shared.check)["rank"]
        places = [place.id for place in room.nodes()]
        node = next(one for one in cluster.worker_nodes if one.node_id in places)
        far = places.index(node.node_id)
        assert room.meeting_address() == room.nodes()[0].address
        ranks = Ranks("rank", lambda rank: Waiting.options(**room.place(rank)).remote(), 2, room.meeting_address())
        ranks.start(120)
        there, here = (
            Fleet(name, lambda index, place=place: Waiting.options(**room.place(place)).remote(), FleetSettings(1))
            for name, place in (("far", far), ("near", 1 - far))
        )
        there.submit("made", "make", 7, returns=2)
        [made] = there.poll(120)
        threading.Timer(1.0, cluster.remove_node, [node], {"allow_graceful": False}).start()
        with pytest.raises(RankError, match=f"rank {far} died in wait .*; resume the run") as caught:
            ranks.call("wait", timeout=120)
        assert len(str(caught.value).splitlines()) == 1
        here.submit("sum", "add", *made.others)
        end = time.monotonic() + 120
        while here.outstanding() and time.monotonic() < end:
            here.poll(0.2)
        assert here.without_arguments() == ["sum"] and here.health() == [Health.IDLE]
        assert node.node_id not in {place.id for place in room.nodes()}, "the room on the dead node was not moved"
