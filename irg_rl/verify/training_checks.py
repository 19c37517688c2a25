"""Checks of training: one packed step of SFT, scores, one update of RL with adapters, and what is saved."""

import math
import shutil
from pathlib import Path

import torch

from irg_rl.config import adapters_of
from irg_rl.driver.critic import CriticSettings
from irg_rl.driver.prepare import write_trained
from irg_rl.driver.run_folder import Run
from irg_rl.driver.scorers import reward_hub
from irg_rl.driver.sft import StageRank
from irg_rl.learner import checkpoint
from irg_rl.learner.checkpoint import Snapshot
from irg_rl.learner.update import StepResult
from irg_rl.model.files import stored_tensors, weight_files
from irg_rl.model.folder import TABLES
from irg_rl.verify.bench import Workbench, fact
from irg_rl.verify.finding import GIB, Finding, NotPossibleError
from irg_rl.verify.sampling_checks import LEARNING, SFT, differences, draw_group, require_parity, timed
from irg_rl.verify.settings import STAGE
from rewards.segments import score_group

FP32 = 4
ROOM = 1.3
"""Free memory and free disk that saving a model needs, as a multiple of its size in fp32."""


def sft_step(bench: Workbench, finding: Finding) -> None:
    """Train one pack with the stage of a run: rows of parquet, packing, loss, optimizer, validation, checkpoint."""
    bench.release()
    recipe = bench.recipe
    run, stage = Run.create(recipe), recipe.require_sft().stages[STAGE]
    rank = StageRank(run, "sft1", "base", stage, recipe.seed)
    rank.setup()
    try:
        told = timed(bench, SFT, rank.advance) or []
        rejected = len(rank.rejections.seen)
    finally:
        del rank.trainer  # its callbacks refer to the rank, and this cycle would keep the engine in memory
    results = [said[0] for what, said in told if what == "step"]
    validations = [said[1] for what, said in told if what == "validation"]
    finding.require("rows that were rejected", rejected, "none", rejected == 0)
    finding.require("steps", len(results), "1", len(results) == 1)
    for result in results:
        _require_step(result, finding)
    for metrics in validations:
        finding.facts |= fact({f"validation {name}": value for name, value in metrics.items()})


def _require_step(result: StepResult, finding: Finding) -> None:
    finding.require("the step was applied", result.applied, "True", result.applied)
    norms = {part: norm for part, norm in result.grad_norms.items() if part in ("und", "gen")}
    shown = ", ".join(f"{part} {norm:.3g}" for part, norm in norms.items())
    trains = len(norms) == 2 and all(0 < norm < math.inf for norm in norms.values())
    finding.require("gradients of both experts", shown, "finite and above 0", trains)
    finding.facts |= fact(result.terms)


def score(bench: Workbench, finding: Finding) -> None:
    """Score every image of the drawn group with every scorer of the recipe."""
    group = bench.drawn()
    with reward_hub(bench.recipe, None) as hub:
        if hub is None:
            raise NotPossibleError("there is no scorer: name one in rewards.scorers")
        hub.check()
        score_group(group, hub)
    for name in sorted({name for t in group.trajectories for name in t.rewards}):
        values = [value for t in group.trajectories for value in t.rewards[name]]
        got = [value for value in values if value is not None]
        what, complete = f"images that {name} has scored", len(got) == len(values)
        finding.require(what, f"{len(got)} of {len(values)}", "all", complete)
        if got:
            finding.facts[name] = f"{min(got):.4g} to {max(got):.4g}"


def update(bench: Workbench, finding: Finding) -> None:
    """Assign credit to the drawn group and make one update of the adapters."""
    group = bench.drawn()
    if not all(t.rewards for t in group.trajectories):
        raise NotPossibleError("the group has no scores: see the check of scores")
    selection = CriticSettings.of(bench.recipe).assign(group)
    if selection.empty or not selection.has_spread:
        raise NotPossibleError("all samples have the same score, so there is nothing to learn: name another scorer")
    learner = bench.learner()
    before = learner.publish(0)
    metrics = timed(bench, LEARNING, lambda: learner.train(group))
    after = learner.publish(learner.updates)
    assert before is not None and after is not None  # not None, because a single rank has all weights
    bench.publication = after
    seconds = [name for name in before.arrays if ".lora_B." in name]  # the first matrices begin to change in update 2
    changed = sum(not (after.arrays[name] == before.arrays[name]).all() for name in seconds)
    norm = metrics.get("grad_norm/total", math.nan)
    finding.require("the step was applied", metrics.get("skipped") == 0, "True", metrics.get("skipped") == 0)
    finding.require("norm of the gradient", f"{norm:.3g}", "finite and above 0", 0 < norm < math.inf)
    finding.require("adapters that changed", f"{changed} of {len(seconds)}", "at least half of them",
                    2 * changed >= len(seconds) > 0)  # fmt: skip
    shown = [name for name in metrics if name.startswith(("loss/", "grad_norm/")) or name.endswith("/ratio_max")]
    finding.facts |= fact({name: metrics[name] for name in shown})


def save_and_reload(bench: Workbench, finding: Finding) -> None:
    """Save a checkpoint, load it into a new learner, and check the learner against samples that were drawn with the
    published adapters."""
    publication = bench.publication
    if publication is None:
        raise NotPossibleError("there was no update: see the check of the update")
    learner = bench.learner()
    if learner.updates != publication.version:
        raise NotPossibleError("the updated learner is gone: see the check of the update")
    path = learner.save(str(bench.scratch / "checkpointed"), Snapshot(learner.updates, {}), keep_last=1)
    step = checkpoint.describe(Path(path)).step
    del learner
    drawn = draw_group(bench, iteration=1)
    fresh = bench.learner()
    problems = fresh.load(path)
    again = fresh.publish(fresh.updates)
    assert again is not None
    finding.require("step of the checkpoint", step, str(publication.version), step == publication.version)
    finding.require("what could not be restored", "; ".join(problems) or "nothing", "nothing", not problems)
    finding.require("digest of the published adapters", again.digest[:12], publication.digest[:12],
                    again.digest == publication.digest)  # fmt: skip
    require_parity(bench.recipe, differences(bench, drawn), finding, " after the update")


def model_folder(bench: Workbench, finding: Finding) -> None:
    """Merge the adapters into the weights, write a model folder, and read it again."""
    publication, lora = bench.publication, adapters_of(bench.recipe.require_rl())
    if publication is None:
        raise NotPossibleError("there was no update: see the check of the update")
    bench.release()
    need = ROOM * FP32 * sum(t.numel() for t in bench.parts.model.state_dict().values()) / GIB
    for what, free in (("disk", shutil.disk_usage(bench.scratch).free / GIB), ("memory", free_memory() / GIB)):
        if free < need:
            raise NotPossibleError(f"a model in fp32 needs {need:.0f} GiB of free {what}, and there are {free:.0f}")
    adapters = {name: torch.from_numpy(array) for name, array in publication.arrays.items()}
    path = bench.scratch / "merged"
    write_trained(bench.folder, adapters, path, lora)
    seconds = [name for name, matrix in adapters.items() if ".lora_B." in name and matrix.any()]
    trained = {name.partition(".lora_")[0] + ".weight" for name in seconds}
    changed: set[str] = set()
    with stored_tensors(weight_files(bench.folder)) as old, stored_tensors(weight_files(path)) as new:
        names = set(new.names)
        for name in names & set(old.names):
            if not name.endswith(TABLES) and not torch.equal(new.read(name), old.read(name).float()):
                changed.add(name)
        missing = sorted(set(old.names) - names)
    shutil.rmtree(path)
    finding.require("weights that are missing", len(missing), "none", not missing)
    finding.require("weights that changed without a trained adapter", len(changed - trained), "none",
                    not changed - trained)  # fmt: skip
    finding.require("weights with a trained adapter that changed", f"{len(changed & trained)} of {len(trained)}",
                    "at least half of them", 2 * len(changed & trained) >= len(trained) > 0)  # fmt: skip


def free_memory() -> int:
    """Return the free main memory of the machine in bytes. Raises NotPossibleError if the system does not tell it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise NotPossibleError("the free memory is read from /proc/meminfo, which is not there") from error
    words = next(line.split() for line in lines if line.startswith("MemAvailable:"))
    return int(words[1]) * 1024
