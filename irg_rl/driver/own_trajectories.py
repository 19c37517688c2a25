"""Rejection sampling between SFT stages 1 and 2. The model draws trajectories of two turns, and a judge compares the
two images of each in both orders. Trajectories whose refined image is preferred become training rows of stage 2.

The trajectories are drawn and judged in parts. Each finished part is a file, so an interrupted run draws no part twice.
"""

from collections import Counter
from pathlib import Path

import torch

from irg_rl.config import OWN_REFINED, OwnTrajectories
from irg_rl.driver.prepare import load_model, prompts_of
from irg_rl.driver.progress import bar, console
from irg_rl.driver.run_folder import Run, RunError, write_json
from irg_rl.driver.scorers import reward_hub
from irg_rl.text_in import read_json
from irg_rl.trajectory import Trajectory
from rewards.judge import JudgeScorer
from rollouts.evaluation import evaluation_sampler, evaluation_sampling
from rollouts.noise import hashed
from rollouts.request import Request
from sft.own_rows import is_whole, refined_row, write_parquet

KEPT = "preferred"
TURNS = 2
SILENCE = 3
"""If the judge answers about none of so many pairs of one part, it is taken to be out of order, and the run stops."""


def draw_refined(run: Run, start: str, facts: dict) -> None:
    """Let the model in the folder `start` of the run draw `sft.own.count` trajectories, and write those whose refined
    image the judge prefers as training rows. What became of the trajectories is counted in `facts`.

    Raises RunError if so few are kept that nothing would be left to train on beside the validation rows, and
    ScorerUnavailable if the judge cannot answer at all.
    """
    recipe = run.recipe
    sft = recipe.require_sft()
    assert sft.own is not None and sft.stage2 is not None
    torch.set_num_threads(recipe.engine.threads)
    paths = _draw_parts(run, start, sft.own)
    counts = Counter()
    for path in paths:
        counts.update(_read_part(path)["counts"])
    facts.update({"trajectories": sft.own.count, **counts})
    told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    console.print(f"own trajectories: {told}")
    held_out = -(-sft.validation_rows // len(sft.stage2.sources))
    if counts[KEPT] <= held_out:
        raise RunError(
            f"only {counts[KEPT]} of {sft.own.count} trajectories became rows ({told}), and {held_out} are kept for "
            "validation: raise sft.own.count, or sampling.max_text_tokens if many were cut off, or train stage 1 longer"
        )
    write_parquet(run.path("world", "rows") / OWN_REFINED, (row for path in paths for row in _read_part(path)["rows"]))


def _draw_parts(run: Run, start: str, own: OwnTrajectories) -> list[Path]:
    """Draw and judge those parts of the trajectories that are not on the disk. Return the files of all parts. A part
    has training rows and counts."""
    size = run.recipe.evaluation.batch_size
    begins = range(0, own.count, size)
    paths = [_part_file(run, number) for number in range(len(begins))]
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    if missing:
        train, seed = prompts_of(run, "train"), hashed(run.recipe.seed, "own trajectories") % 2**31
        settings, folder = run.recipe.evaluation, load_model(run, start)
        sampler = evaluation_sampler(folder, evaluation_sampling(run.recipe.sampling, settings), settings)
        with reward_hub(run.recipe, run.path("scorers"), [own.judge]) as hub, bar(
            "own trajectories", len(paths), len(paths) - len(missing)
        ) as progress:
            assert hub is not None
            judge = hub.scorers[own.judge]
            assert isinstance(judge, JudgeScorer), f"{own.judge} is no judge"  # the recipe has checked it
            judge.check()
            for number in missing:
                samples = range(begins[number], min(begins[number] + size, own.count))
                requests = [Request(train[n % len(train)], sample=n, seed=seed) for n in samples]
                write_json(paths[number], _judged(sampler.sample(requests, TURNS), judge))
                progress.advance()
    return paths


def _judged(trajectories: list[Trajectory], judge: JudgeScorer) -> dict:
    """Return the training rows of those trajectories whose refined image the judge prefers, and how many trajectories
    there are of each kind. Raises RunError if the judge seems to be out of order (see SILENCE)."""
    whole = [trajectory for trajectory in trajectories if is_whole(trajectory)]
    images = [[image.pixels.cpu().numpy() for image in trajectory.images] for trajectory in whole]
    prompts = [trajectory.prompt for trajectory in whole]
    answers = judge.prefer(prompts, [drawn[1] for drawn in images], [drawn[0] for drawn in images])
    if len(answers) >= SILENCE and all(answer is None for answer in answers):
        raise RunError(f"own trajectories: the judge answered about none of {len(answers)} pairs: {judge.last_error}")
    kinds = {None: "without an answer", 1.0: KEPT, 0.5: "tied", 0.0: "worse"}
    found = [kinds[None if answer is None else answer.first] for answer in answers]
    stopped = sum(trajectory.turns < TURNS for trajectory in trajectories)
    counts = Counter(found) + Counter({"stopped": stopped, "cut off": len(trajectories) - len(whole) - stopped})
    rows = [refined_row(trajectory) for trajectory, kind in zip(whole, found, strict=True) if kind == KEPT]
    return {"counts": dict(counts), "rows": rows}


def _part_file(run: Run, number: int) -> Path:
    return run.path("world", "own_trajectories", f"part-{number:05d}.json")


def _read_part(path: Path) -> dict:
    part = read_json(path)
    if not isinstance(part, dict) or not {"counts", "rows"} <= part.keys():
        raise RunError(f"{path} holds no trajectories: remove it and resume the run")
    return part
