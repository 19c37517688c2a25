"""`irg-rl show`: shows a group that RL trained on or that `irg-rl rollout` made. A group is several samples of one
prompt. The command prints the texts, scores and advantages of the group, and writes all its images into one PNG
file."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import Run, RunError
from irg_rl.records import FACTS, LOOKS, group_folders, load_groups, look_folder, step_folder
from irg_rl.report.strips import png, same_size, strip
from irg_rl.trajectory import Group, Statement, TextSegment, Trajectory


def show_group(folder: Path, step: int | None, group: int | None) -> None:
    """Print one group, and write its images into one PNG file. If `group` is None, print one line for each group
    instead. `group` is its number, starting at 0.

    `folder` is a run or a folder of `irg-rl rollout`. In a run, the groups are those of RL update `step`. If `step` is
    None, print which updates were dumped. If only some groups of the update were stored (`rl.look_every`), only these
    are shown. Raises RunError if no group of the update was stored, if there is no such group, or if `step` is given
    for a folder that has no updates.
    """
    if (folder / FACTS).is_file():
        _show_of_rollout(folder, step, group)
        return
    run = Run.open(folder)
    if step is None:
        console.print(f"{folder}: of the RL updates, {_dumped(run)}")
        return
    places = [step_folder(run.folder, step), look_folder(run.folder, step)]
    place = next((folder for folder in places if folder.is_dir()), None)
    if place is None:
        raise RunError(f"{folder}: step {step} was not dumped; {_dumped(run)}")
    groups = load_groups(place)
    if group is None:
        console.print(overview(f"RL update {step}", groups))
        return
    if group >= len(groups):
        raise RunError(f"{folder}: step {step} has groups 0 to {len(groups) - 1}")
    _show(groups[group], place / f"group-{group}.png")


def _show_of_rollout(folder: Path, step: int | None, group: int | None) -> None:
    if step is not None:
        raise RunError(f"{folder}: a folder of `irg-rl rollout` has no RL updates: leave --step out")
    places = group_folders(folder)
    if group is None:
        console.print(overview(str(folder), [own for place in places for own in load_groups(place)]))
        return
    if group >= len(places):
        raise RunError(f"{folder}: it has groups 0 to {len(places) - 1}")
    (chosen,) = load_groups(places[group])
    _show(chosen, places[group] / "group.png")


def _show(group: Group, picture: Path) -> None:
    """Print a group and write its images to the file `picture`."""
    console.print(f"prompt {group.prompt.id}: {group.prompt.text}", markup=False)
    for trajectory in group.trajectories:
        console.print(as_table(trajectory))
    picture.write_bytes(_strips(group))
    console.print(f"written: {picture}", soft_wrap=True, markup=False)


def overview(title: str, groups: Sequence[Group]) -> Table:
    table = Table("group", "prompt", "trajectories", "images", "largest advantage", title=title)
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
            said += "".join(f"\n{name}: {_false(segment.text, own)}" for name, own in segment.statements.items() if own)
        else:
            said = ", ".join(f"{name} {_score(values[segment.turn])}" for name, values in trajectory.rewards.items())
        if segment.scores:  # of a reflection or of an edit
            said = f"{said}\n" + ", ".join(f"{name} {_score(score)}" for name, score in segment.scores.items())
        advantage = "-" if segment.advantage is None else f"{segment.advantage:+.3f}"
        table.add_row(str(segment.turn), segment.modality, said, advantage)
    return table


def _false(text: str, statements: Sequence[Statement]) -> str:
    """Return the words of the statements that are not true, in quotes."""
    wrong = [text[one.begin : one.end].strip() for one in statements if one.score < 0.5]
    return "not true: " + ", ".join(f"“{words}”" for words in wrong) if wrong else "all statements are true"


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
