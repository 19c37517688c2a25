"""`irg-rl show`: shows a group on which RL trained. A group is several samples of one prompt. The command prints the
texts, scores and advantages of the group, and writes all its images into one PNG file."""

from pathlib import Path

from rich.table import Table

from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import Run, RunError
from irg_rl.records import LOOKS, load_groups, look_folder, step_folder
from irg_rl.report.strips import png, same_size, strip
from irg_rl.trajectory import Group, TextSegment, Trajectory


def show_group(folder: Path, step: int, group: int | None) -> None:
    """Print one group of RL update `step`, and write its images into one PNG file. `group` is the number of the group
    in this update, starting at 0. If it is None, print one line for each group of the update instead. If only some
    groups of the update were stored (`rl.look_every`), only these are shown. Raises RunError if no group of the update
    was stored or there is no such group."""
    run = Run.open(folder)
    places = [step_folder(run.folder, step), look_folder(run.folder, step)]
    place = next((folder for folder in places if folder.is_dir()), None)
    if place is None:
        raise RunError(f"{folder}: step {step} was not dumped; {_dumped(run)}")
    groups = load_groups(place)
    if group is None:
        console.print(overview(step, groups))
        return
    if not 0 <= group < len(groups):
        raise RunError(f"{folder}: step {step} has groups 0 to {len(groups) - 1}")
    chosen = groups[group]
    console.print(f"prompt {chosen.prompt.id}: {chosen.prompt.text}", markup=False)
    for trajectory in chosen.trajectories:
        console.print(as_table(trajectory))
    path = place / f"group-{group}.png"
    path.write_bytes(_strips(chosen))
    console.print(f"written: {path}", soft_wrap=True, markup=False)


def overview(step: int, groups: list[Group]) -> Table:
    table = Table("group", "prompt", "trajectories", "images", "largest advantage", title=f"RL update {step}")
    for number, group in enumerate(groups):
        images = sum(t.turns for t in group.trajectories)
        known = [abs(s.advantage) for t in group.trajectories for s in t.segments if s.advantage is not None]
        largest = f"{max(known):.2f}" if known else "-"
        table.add_row(str(number), group.prompt.text, str(len(group.trajectories)), str(images), largest)
    return table


def as_table(trajectory: Trajectory) -> Table:
    """Return a table of a trajectory with one row per segment (a text or an image), in the order of sampling."""
    ending = "stopped by itself" if trajectory.stopped else f"{trajectory.turns} images"
    table = Table("turn", "what", "said or scored", "advantage", title=f"sample {trajectory.sample}: {ending}")
    for segment in trajectory.segments:
        if isinstance(segment, TextSegment):
            said = segment.text if segment.finished else f"{segment.text} (never ended)"
        else:
            said = ", ".join(f"{name} {_score(values[segment.turn])}" for name, values in trajectory.rewards.items())
        if segment.scores:  # of a reflection or of an edit
            said = f"{said}\n" + ", ".join(f"{name} {_score(score)}" for name, score in segment.scores.items())
        advantage = "-" if segment.advantage is None else f"{segment.advantage:+.3f}"
        table.add_row(str(segment.turn), segment.modality, said, advantage)
    return table


def _score(value: float | None) -> str:
    return "failed" if value is None else f"{value:.3f}"


def _strips(group: Group) -> bytes:
    """Return a PNG with the images of all trajectories of the group. Each trajectory is one line of images. A green
    frame around an image means that the verifier's score is 1."""
    import numpy as np

    rows = []
    for trajectory in group.trajectories:
        scores = trajectory.rewards.get("verifier")
        verdicts = None if scores is None else [None if score is None else score == 1 for score in scores]
        rows.append(strip([image.pixels.numpy() for image in trajectory.images], verdicts))
    return png(np.concatenate(same_size(rows)))


def _dumped(run: Run) -> str:
    folders = [path for place in ("rollouts", LOOKS) for path in run.path(place).glob("step-*[0-9]")]
    names = {path.name.removeprefix("step-") for path in folders}
    steps = sorted(int(name) for name in names if name.isdecimal())
    if not steps:
        return f"nothing was: set rl.dump_every or rl.look_every, as in `irg-rl fork {run.folder} rl.dump_every=1`"
    return f"steps {steps[0]} to {steps[-1]} were, {len(steps)} of them"
