"""How RL grows with the number of rollout actors.

    python -m benchmarks.scale real [--actors 1 2 4]
    python -m benchmarks.scale simulated [--actors 256] [--staleness 0 1 2]

real: RL of a tiny model on this machine, with 1, 2 and 4 rollout actors. It also says how many bytes of Ray's object
store a trajectory takes, and how many by `rollouts.traffic.group_bytes`, which leaves out what serialization adds to
each array.

simulated: many rollout actors that sleep instead of drawing, and a learner that sleeps instead of learning
(benchmarks/sleeping.py). All other parts are those of a run. A group takes GROUP_S seconds, with a spread and with
stragglers; an update takes LEARN_S, and new weights take LOAD_S. All times are divided by `--faster`. The table says
which share of the time the learner works, and how much processor time the driver needs for a group: its main thread,
and the threads of Ray in its process. Ray's threads also need some when nothing happens.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.experimental import get_object_locations
from rich.table import Table

from benchmarks.sleeping import Pauses, fleets, updates_of
from irg_rl.cluster.fleet import Fleet
from irg_rl.cluster.ray_runtime import LocalRay, RaySettings
from irg_rl.driver.learners import Learners
from irg_rl.driver.progress import console
from irg_rl.driver.rl_fleets import critic_fleet, rollout_fleet
from irg_rl.driver.rl_loop import Loop
from irg_rl.driver.rl_settings import worker_settings
from irg_rl.driver.run_folder import Run
from irg_rl.driver.scorers import scorer_specs
from irg_rl.driver.stages import tracker_of
from irg_rl.learner.publish import publish
from irg_rl.prompts import PromptOrder
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.tracking import METRICS
from rollouts.traffic import group_bytes
from rollouts.worker import RolloutWorker
from tests.driver.begun import PROMPTS, begun_run
from tests.learner.world import TinyWorld, make_world

GROUP_S, SPREAD, STRAGGLERS = 60.0, 0.25, 0.02
LEARN_S, LOAD_S = 420.0, 10.0
LIGHT = {"name": "light", "kind": "tests.rewards.scorers:Brightness"}
UPDATES = 4


def real(options: argparse.Namespace) -> None:
    table = Table("rollout actors", "an update, s", "sampling, s", "learning, s", "groups a minute")
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder))
        for actors in options.actors:
            run = _tiny_run(world, Path(folder, str(actors)), actors)
            rows = _metrics(run)[1:]  # the first update starts things up
            collect, learn, publish = (
                sum(row[f"seconds/{name}"] for row in rows) / len(rows) for name in ("collect", "learn", "publish")
            )
            whole, groups = collect + learn + publish, run.recipe.require_rl().groups
            table.add_row(str(actors), f"{whole:.2f}", f"{collect:.2f}", f"{learn:.2f}", f"{60 * groups / whole:.0f}")
        found, expected = _bytes_of_a_trajectory(_tiny_run(world, Path(folder, "bytes"), 1), world)
    console.print(table)
    console.print(f"bytes of a trajectory in the object store: {found:,.0f} found, {expected:,.0f} by the formula")


def _tiny_run(world: TinyWorld, folder: Path, actors: int) -> Run:
    return begun_run(
        world, folder, tracking={"wandb": False}, engine={"threads": 1, "rollout_actors": actors},
        sampling={"image_size": [32, 32], "points": 12, "max_text_tokens": 16, "turns": 2},
        rl={"updates": UPDATES, "groups": 8, "group_size": 4, "noise": {"window": "all"}, "look_every": 0,
            "checkpoint_every": 100},
        rewards={"scorers": [LIGHT]},
    )  # fmt: skip


def _metrics(run: Run) -> list[dict]:
    settings = RaySettings(num_cpus=2, object_store_mb=128)
    with LocalRay(settings, run.folder), scorer_specs(run.recipe, run.path("scorers")) as specs:
        learners = Learners(run, "base")
        made = rollout_fleet(run, "base", learners), critic_fleet(run, specs)
        try:
            with tracker_of(run) as tracker:
                Loop(run, tracker, learners, *made).run_all()
        finally:
            for part in (*made, learners):
                part.stop()
    return [row for row in read_metrics(run.folder / METRICS) if row["stage"] == "rl"]


def _bytes_of_a_trajectory(run: Run, world: TinyWorld) -> tuple[float, float]:
    """Return the bytes of a trajectory in Ray's object store: (what a sampled group takes, what is expected)."""
    worker = RolloutWorker(worker_settings(run.recipe, run.path("models", "base")))
    weights = publish(world.model.state_dict().items(), version=0)
    worker.set_weights(weights.arrays, weights.version, weights.digest)
    size = run.recipe.require_rl().group_size
    ids = list(range(2))
    _, *groups = worker.sample_groups(ids, [PromptOrder(PROMPTS, 0)[number] for number in ids], size)
    with LocalRay(RaySettings(num_cpus=1, object_store_mb=128), run.folder):
        refs = [ray.put(group) for group in groups]
        found = get_object_locations(refs)
        stored = sum(found[ref]["object_size"] for ref in refs)
    return stored / (size * len(ids)), group_bytes(run.recipe) / size


@dataclass(frozen=True)
class Found:
    """What a simulation has found."""

    update_s: float  # seconds of an update, as they would be if nothing went faster
    busy: float  # share of the time in which the learner works
    driver_ms: float  # processor time of the driver's main thread for a group, in milliseconds
    ray_ms: float  # the same of all other threads of the driver, which are Ray's


def simulate(made: Sequence[Fleet], staleness: int, groups: int, updates: int, faster: float, folder: Path) -> Found:
    """Make `updates` updates and measure them. Those before do not count: `staleness` + 1 of them, with which the
    buffer of groups fills."""
    before, spent, began, all_began = staleness + 1, [], 0.0, 0.0
    for one in updates_of(made, staleness, groups, 4, LEARN_S / faster, before + updates, folder):
        spent.append(one)
        if len(spent) == before:
            began, all_began = time.thread_time(), time.process_time()
    used, all_used = (1e3 * seconds / (updates * groups)
                      for seconds in (time.thread_time() - began, time.process_time() - all_began))  # fmt: skip
    counted = spent[before:]
    whole = sum(one.whole for one in counted)
    return Found(faster * whole / updates, sum(one.learning for one in counted) / whole, used, all_used - used)


def simulated(options: argparse.Namespace) -> None:
    [actors], faster = options.actors, options.faster
    console.print(
        f"{actors} rollout actors, {options.groups} groups an update; a group {GROUP_S:g} s (spread {SPREAD}, "
        f"{STRAGGLERS:.0%} four times as long), learning {LEARN_S:g} s, loading {LOAD_S:g} s; {faster:g} times faster"
    )
    table = Table("staleness", "an update, s", "learner works", "driver, ms a group", "Ray's threads")
    pauses = Pauses(GROUP_S / faster, 2, 64, SPREAD, STRAGGLERS, LOAD_S / faster)
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalRay(RaySettings(2, 512), Path(folder)),
        fleets(actors, pauses, [LIGHT], options.processes) as made,
    ):
        for staleness in options.staleness:
            found = simulate(made, staleness, options.groups, options.updates, faster, Path(folder))
            table.add_row(str(staleness), f"{found.update_s:.0f}", f"{found.busy:.1%}", f"{found.driver_ms:.2f}",
                          f"{found.ray_ms:.2f}")  # fmt: skip
            console.print(table)  # also the rows so far, because each takes minutes
    for number, loss in enumerate(made[0].losses + made[1].losses):
        console.print(f"loss {number}: {loss}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["real", "simulated"])
    parser.add_argument("--actors", type=int, nargs="+", help="rollout actors; default: 1 2 4, or 256 simulated ones")
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--groups", type=int, default=256, help="groups of an update of the simulation")
    parser.add_argument("--updates", type=int, default=3, help="updates of the simulation that are measured")
    parser.add_argument("--faster", type=float, default=20.0)
    parser.add_argument("--processes", type=int, default=4, help="processes of the simulated actors")
    options = parser.parse_args()
    options.actors = options.actors or ([1, 2, 4] if options.what == "real" else [256])
    real(options) if options.what == "real" else simulated(options)


if __name__ == "__main__":
    main()
