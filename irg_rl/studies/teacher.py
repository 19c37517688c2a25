"""Study: how good must a reflection be? The model first draws images. For each wrong first image, a program (the
teacher) writes a reflection. The study makes this reflection worse in a known way. Then the model refines the image
with it. The share of refined images that are right shows how much each kind of error in the reflection costs.

The teacher must recognise the objects in an image. It can do this only in the shapes world, a task with coloured shapes
in a grid of nine cells. So the study works only in this task.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from irg_rl.evaluate.intervals import Measure
from irg_rl.shapes_world.check import as_thing, judge
from irg_rl.shapes_world.edits import Edit, EditKind, plan_edits
from irg_rl.shapes_world.reading import PictureReading, read
from irg_rl.shapes_world.rows import RowMix
from irg_rl.shapes_world.scene import CELLS, COLORS, SHAPES
from irg_rl.shapes_world.teacher import reflection_text, sight_text
from irg_rl.studies import measures
from irg_rl.studies.bench import Bench, Subject, Tick
from irg_rl.studies.frame import Frame, FrameRow
from irg_rl.studies.plates import PlateLine, lines_plate
from irg_rl.studies.settings import TeacherSettings
from irg_rl.studies.study import Cell, Findings, Study, TextTable
from irg_rl.trajectory import Prompt, Trajectory
from rollouts.noise import hashed
from rollouts.request import Request, Text, never

TEACHER, OWN, REDRAW = "teacher", "model's own", "redraw"
"""Names of those conditions of the study in which no reflection is made worse on purpose. TEACHER: the images are
refined with the unchanged reflection of the teacher (a program that reads images and writes reflections). OWN: they are
refined with the model's own reflection. REDRAW: there is no reflection; a new first image is drawn."""
REACHABLE = "reachable"
NAMED = RowMix.max_fixes
"""Largest number of defects that one reflection of the teacher (a program that writes reflections) names. So an image
with more defects cannot be repaired in one turn."""
MEANING = {
    "cell": "the edit names another cell", "thing": "the edit puts another thing", "drop": "the edit is left out",
    "extra": "an edit is added that puts something into an empty cell", "sight": "what is seen belongs elsewhere",
}  # fmt: skip


@dataclass(frozen=True)
class TeacherCase:
    """A wrong first image of the model. `trajectory` contains the image. The teacher is a program that recognises the
    objects in an image and writes a reflection on it. `reading` is what the teacher has recognised in this image, and
    `edits` are the changes that it proposes. `defects` is the number of defects of the image."""

    trajectory: Trajectory
    reading: PictureReading
    edits: list[Edit]
    defects: int

    @property
    def prompt(self) -> Prompt:
        return self.trajectory.prompt


class Teacher(Study[TeacherSettings]):
    name = "teacher"
    question = "How good must a reflection be for the next image to be right?"
    settings_type = TeacherSettings
    needs_world = True

    def __init__(self, bench: Bench, settings: TeacherSettings) -> None:
        super().__init__(bench, settings)
        self._cases: tuple[str, list[TeacherCase]] | None = None

    def cells(self) -> list[Cell]:
        own = self.settings
        plain = [(arm, 0.0) for arm in (TEACHER, OWN, REDRAW)]
        places = [*plain, *((kind, amount) for kind in own.kinds for amount in own.amounts if amount > 0)]
        return [
            Cell({"subject": subject.label, "kind": kind, "amount": amount}, 3 * len(self.bench.prompts),
                 self.depends(subject.label))
            for subject in self.bench.subjects for kind, amount in places
        ]  # fmt: skip

    def measure(self, cell: Cell, tick: Tick) -> list[FrameRow]:
        bench, subject, kind = self.bench, self.bench.subject(cell.at["subject"]), cell.at["kind"]
        cases = self._cases_of(subject, tick)
        sampler = subject.sampler(is_stop=never)
        if kind == REDRAW:
            seed = hashed(bench.seed, REDRAW) % 2**63
            requests = [Request(c.prompt, 0, seed, think=c.trajectory.texts[0].ids) for c in cases]
            drawn = subject.sample(sampler, requests, 1, tick)
        else:
            said: list[Text | None] = [None] * len(cases)
            if kind != OWN:
                said = [degraded(case, cases, kind, cell.at["amount"], bench.seed) for case in cases]
            requests = [
                Request(
                    c.prompt, 0, bench.seed, think=c.trajectory.texts[0].ids, first_image=c.trajectory.images[0].pixels,
                    reflections={} if text is None else {1: text},
                )
                for c, text in zip(cases, said)
            ]  # fmt: skip
            drawn = subject.sample(sampler, requests, 2, tick)
        return [
            {
                "prompt": t.prompt.id, "correct": bool(v.correct), "score": float(v.score), "said": t.texts[-1].text,
                "reachable": case.defects <= NAMED,
            }
            for case, t, (*_, v) in zip(cases, drawn, bench.verdicts(drawn))
        ]  # fmt: skip

    def _cases_of(self, subject: Subject, tick: Tick) -> list[TeacherCase]:
        """Return the wrong first images of a checkpoint. They are sampled once and then reused for all conditions of
        the study."""
        if self._cases is None or self._cases[0] != subject.label:
            asked = [Request(p, 0, self.bench.seed) for p in self.bench.prompts]
            self._cases = subject.label, wrong_first_images(subject.sample(subject.sampler(), asked, 1, tick))
        return self._cases[1]

    def findings(self, frame: Frame) -> Findings:
        own, panels, rows = self.settings, {}, []
        for (subject,), cases in frame.groups("subject"):
            found = {key: mended(part) for key, part in cases.groups("kind", "amount")}
            found[REACHABLE, 0.0] = reachable(cases.where(kind=TEACHER))
            amounts = sorted({0.0, *(amount for amount in own.amounts)})
            lines = [
                PlateLine(kind, amounts, [found[kind if amount else TEACHER, amount] for amount in amounts])
                for kind in own.kinds
            ]
            for arm in (OWN, REDRAW, REACHABLE):
                lines.append(PlateLine(arm, (amounts[0], amounts[-1]), [found[arm, 0.0]] * 2, dashed=True))
            panels[f"{subject} (n = {found[TEACHER, 0.0].n} wrong first images)"] = lines
            rows += [
                [subject, kind, f"{amount:g}", measures.words(share)] for (kind, amount), share in found.items()
            ]  # fmt: skip
        caption = (
            "Wrong first images of the model, drawn again under the teacher's reflection. At 0 it is as the teacher "
            f"writes it: it names at most {NAMED} defects, so pictures with more, beyond the “{REACHABLE}” share, stay "
            f"wrong under it. Degraded: {'; '.join(f'{kind}: {MEANING[kind]}' for kind in own.kinds)}."
        )
        plate = lines_plate("teacher", "How good a reflection must be", caption, self.stamp(frame), panels,
                            x_label="share of the reflection that is degraded", y_label="share mended")  # fmt: skip
        told = "; ".join(f"{row[0]}, {row[1]} {row[2]}: {row[3]}" for row in rows if row[2] in ("0", "1"))
        headings = ["checkpoint", "kind", "amount", "share mended"]
        return Findings(told, [plate], [TextTable("By kind and amount", headings, rows)])


def wrong_first_images(drawn: Sequence[Trajectory]) -> list[TeacherCase]:
    """Return one TeacherCase for each wrong first image of the trajectories `drawn`. The teacher is a program that
    recognises the objects in an image and writes a reflection on it. An image is wrong if the teacher finds something
    to change in it."""
    cases = []
    for trajectory in drawn:
        reading = read(trajectory.images[0].pixels.numpy())
        rng = random.Random(hashed("teacher", trajectory.prompt.id))
        edits = plan_edits(reading, trajectory.prompt.metadata, rng, NAMED)
        if edits:
            number = len(judge(reading, trajectory.prompt.metadata).defects)
            cases.append(TeacherCase(trajectory, reading, edits, number))
    return cases


def mended(rows: Frame) -> Measure:
    return measures.share(rows["correct"].astype(bool), rows["prompt"].tolist())


def reachable(rows: Frame) -> Measure:
    """Return a share of the wrong images. An image counts if one reflection of the teacher (a program that writes
    reflections) can name all its defects. The other images have too many defects for one reflection. `rows` has one row
    per wrong image."""
    return measures.share(rows["reachable"].astype(bool), rows["prompt"].tolist())


def degraded(case: TeacherCase, cases: Sequence[TeacherCase], kind: str, amount: float, seed: int) -> str:
    """Take the teacher's reflection on the wrong image `case`, make it worse on purpose, and return it. (The teacher is
    a program that recognises the objects in an image and writes a reflection on it.) The reflection describes the image
    and proposes edits. `kind` is one of five errors. The first three can be made in every edit, in each with
    probability `amount`:
    * `cell`: the edit names a wrong cell of the grid.
    * `thing`: the edit names a wrong colour or shape of the object.
    * `drop`: the edit is left out.

    The other two can be made once in the whole reflection, with probability `amount`:
    * `extra`: a wrong edit is added. If the image has no empty cell for it, nothing is added.
    * `sight`: the description is replaced by the description of another image, chosen from `cases`, the list of all
      wrong images.

    With the same `seed`, a larger `amount` keeps all errors of a smaller amount. It can only add errors.
    """
    rng = random.Random(hashed(seed, "degrade", case.prompt.id, kind))
    sight, edits = sight_text(case.reading, case.prompt.metadata), []
    for edit in case.edits:
        hit, other = rng.random() < amount, _EDITS.get(kind, _keep)(edit, rng)
        edits += [edit] if not hit else [] if other is None else [other]
    whole = rng.random() < amount
    if kind == "extra" and whole and (empty := case.reading.empty()):
        edits.append(_invented(case, rng.choice(empty), rng))
    if kind == "sight" and whole:
        others = [one for one in cases if one.prompt.id != case.prompt.id] or [case]
        lender = rng.choice(others)
        sight = sight_text(lender.reading, lender.prompt.metadata)
    return reflection_text(sight, edits)


def _keep(edit: Edit, rng: random.Random) -> Edit | None:
    return edit


def _other_cell(edit: Edit, rng: random.Random) -> Edit | None:
    """Return the edit with another random target cell."""
    if edit.kind is EditKind.MOVE:
        return replace(edit, to=rng.choice([cell for cell in CELLS if cell not in (edit.to, edit.cell)]))
    return replace(edit, cell=rng.choice([cell for cell in CELLS if cell != edit.cell]))


def _other_thing(edit: Edit, rng: random.Random) -> Edit | None:
    """Return the edit with a wrong target. If the edit changes a shape or a colour, the new shape or colour is replaced
    by another random one. In any other edit, the colour of the object is replaced by another random one."""
    if edit.kind is EditKind.RESHAPE:
        return replace(edit, to=rng.choice([shape for shape in SHAPES if shape not in (edit.to, edit.thing.shape)]))
    if edit.kind is EditKind.RECOLOR:
        return replace(edit, to=rng.choice([color for color in COLORS if color not in (edit.to, edit.thing.color)]))
    color = rng.choice([color for color in COLORS if color != edit.thing.color])
    return replace(edit, thing=edit.thing._replace(color=color))


_EDITS: dict[str, Callable[[Edit, random.Random], Edit | None]] = {
    "cell": _other_cell, "thing": _other_thing, "drop": lambda edit, rng: None,
}  # fmt: skip


def _invented(case: TeacherCase, cell: str, rng: random.Random) -> Edit:
    """Return a wrong edit that adds an object to the cell `cell`. The object is copied from a random object that is
    already in the image. If the image is empty, the object of the first edit that the teacher (a program that writes
    reflections) proposes is used."""
    first = case.edits[0]
    assert first.defect is not None  # every edit of the teacher names the defect that it repairs
    thing = as_thing(rng.choice(case.reading.objects)) if case.reading.objects else first.thing
    return Edit(EditKind.ADD, thing, cell, None, replace(first.defect, thing=thing))
