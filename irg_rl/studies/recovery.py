"""Study: which errors does a model repair? The study uses the shapes world, a task with coloured shapes in a grid of
nine cells. A program draws correct images of this task. Then it adds a known number of defects of one kind, such as a
missing shape. The model first writes its think text (the plan before the first image) as usual. Then an image with
defects replaces the model's own first image. From there on, the model reflects and refines as usual."""

import random

from irg_rl.evaluate.intervals import Measure
from irg_rl.shapes_world.check import DefectKind, judge_demand
from irg_rl.shapes_world.constraints import parse_metadata
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scene import Scene
from irg_rl.shapes_world.scenes import Wreck, sample_scene
from irg_rl.studies import measures
from irg_rl.studies.bench import Tick
from irg_rl.studies.frame import Frame, FrameRow
from irg_rl.studies.plates import PlateLine, heat_plate, lines_plate
from irg_rl.studies.settings import RecoverySettings
from irg_rl.studies.study import Cell, Findings, Study, TextTable
from irg_rl.studies.tensors import as_tensor
from rollouts.noise import hashed
from rollouts.request import Request

NONE = "none"
"""Name of the condition without defects. The model is given a correct image, so this condition shows how often
refinement damages a correct image."""
TRIES = 200
"""Number of attempts to make an image with the wanted defects for a prompt. If all attempts fail, the prompt is left
out."""
ACCIDENTS = {
    DefectKind.MISSING: Wreck.lose, DefectKind.EXTRA: Wreck.add, DefectKind.COLOR: Wreck.recolor,
    DefectKind.SHAPE: Wreck.reshape, DefectKind.RELATION: Wreck.displace,
}  # fmt: skip


class Recovery(Study[RecoverySettings]):
    name = "recovery"
    question = "Which errors of a picture does the model mend, and in how many turns?"
    settings_type = RecoverySettings
    needs_world = True

    def cells(self) -> list[Cell]:
        own = self.settings
        places = [(NONE, 0), *((kind, number) for kind in own.kinds for number in own.numbers)]
        return [
            Cell(
                {"subject": subject.label, "kind": kind, "number": number}, own.turns * len(self.bench.prompts),
                self.depends(subject.label) | {"turns": own.turns},
            )
            for subject in self.bench.subjects for kind, number in places
        ]  # fmt: skip

    def measure(self, cell: Cell, tick: Tick) -> list[FrameRow]:
        bench, turns, subject = self.bench, self.settings.turns, self.bench.subject(cell.at["subject"])
        kind, number = cell.at["kind"], cell.at["number"]
        requests = []
        for prompt in bench.prompts:
            rng = random.Random(hashed(bench.seed, prompt.id, kind, number))
            scene = broken_scene(prompt.metadata, kind, number, rng)
            if scene is not None:
                requests.append(Request(prompt, 0, bench.seed, first_image=as_tensor(render(scene))))
        drawn = subject.sample(subject.sampler(), requests, turns, tick)
        drawn, table = bench.outcomes(drawn, turns, kind)
        return [
            {
                "prompt": trajectory.prompt.id, "turn": turn + 1, "correct": bool(table.correct[row, turn]),
                "score": float(table.score[row, turn]), "stopped": bool(table.stopped[row, turn]),
                "reflection_right": float(table.reflection_correct[row, turn]),
            }
            for row, trajectory in enumerate(drawn) for turn in range(turns)
        ]  # fmt: skip

    def findings(self, frame: Frame) -> Findings:
        own, rows, panels, last = self.settings, [], {}, {}
        subjects = frame.values("subject")
        for (subject, kind, number), found in frame.groups("subject", "kind", "number"):
            per_turn = recovered(found)
            panels.setdefault((subject, number), []).append(
                PlateLine(kind, range(1, own.turns + 1), per_turn, colour=[NONE, *own.kinds].index(kind))
            )
            if number:
                last.setdefault(subject, {})[number, kind] = per_turn[-1]
            said = found.where(turn=2)
            named = measures.mean(said["reflection_right"], said["prompt"].tolist())
            told = [measures.words(measure) for measure in per_turn[1:]]
            rows.append([subject, kind, str(number), measures.words(named), *told])
            if len(subjects) > 1:
                first = frame.where(subject=subjects[0], kind=kind, number=number)
                rows[-1].append(measures.words(_gained(found, first, own.turns), "+.3f"))
        stamp = self.stamp(frame)
        caption = (
            "Share of the pictures that are right after each turn; the first is given, with the defects. “none”: a "
            "right picture is given, so what falls is damage. Prompts that cannot have these defects are left out."
        )
        heat = "Share right after the last turn, of pictures with this many defects of this kind, 95 % interval."
        titled = {_title(subject, number, lines): lines for (subject, number), lines in panels.items()}
        plates = [
            lines_plate("recovery", "Recovery turn by turn", caption, stamp, titled, x_label="turn",
                        y_label="share right", whole_x=True),
            heat_plate("recovered", f"Recovered after {own.turns} turns", heat, stamp, last, x=own.numbers, y=own.kinds,
                       x_label="defects in the first image", y_label="kind of defect"),
        ]  # fmt: skip
        headings = ["checkpoint", "kind", "defects", "first reflection right", *(
            f"right at turn {turn}" for turn in range(2, own.turns + 1)
        ), *([f"last turn, less {subjects[0]}"] if len(subjects) > 1 else [])]  # fmt: skip
        note = "Checkpoints are given the same pictures: their differences are paired over prompts."
        return Findings(_headline(last), plates, [TextTable("By kind and number", headings, rows, note)])


def _title(subject: str, number: int, lines: list[PlateLine]) -> str:
    """Return the title of a panel (subplot). It contains the number of prompts. This number can differ between the
    kinds of defects, because not every prompt can have every kind; then the title gives a range."""
    counts = [line.y[0].n for line in lines]
    few, many = min(counts), max(counts)
    told = f"n = {few}" if few == many else f"n = {few} to {many} by kind"
    return f"{subject}, {number} defect{'s' * (number != 1)} ({told})"


def _gained(rows: Frame, first: Frame, turn: int) -> Measure:
    """Return a difference between two shares of correct images after turn `turn`: the share in `rows` minus the share
    in `first` (the rows of the first checkpoint). The difference is paired over prompts."""
    one, other = rows.where(turn=turn), first.where(turn=turn)
    return measures.between(one["correct"], one["prompt"].tolist(), other["correct"], other["prompt"].tolist())


def broken_scene(metadata: dict, kind: str, number: int, rng: random.Random) -> Scene | None:
    """Return a random scene (description of an image of the shapes world) with exactly `number` defects. `metadata`
    describes a prompt, and a defect is an error of the image against this prompt. All defects are of one kind, `kind`:
    `missing`, `extra`, `color`, `shape` or `relation`. If `kind` is `none`, return a correct scene instead. Return None
    if no scene with these defects was found."""
    demand = parse_metadata(metadata)
    if kind == NONE:
        return sample_scene(metadata, rng)
    if kind == DefectKind.RELATION and not demand.relations:
        return None
    for _ in range(TRIES):
        wreck = Wreck(sample_scene(metadata, rng), demand, rng)
        for _ in range(number):
            if not wreck.intact:
                break
            ACCIDENTS[DefectKind(kind)](wreck)
        defects = judge_demand(wreck.objects(), demand).defects
        if len(defects) == number and all(defect.kind == kind for defect in defects):
            return wreck.scene()
    return None


def recovered(rows: Frame) -> list[Measure]:
    """Return a list with one value per turn: the share of images that are correct after this turn. `rows` has one row
    for each trajectory and turn, with the result of the image."""
    table, lines = rows.grid("correct", ("prompt",), "turn")
    prompts = [key[0] for key in lines]
    return [measures.share(column.astype(bool), prompts) for column in table.T]


def _headline(last: dict[str, dict[tuple[int, str], Measure]]) -> str:
    told = []
    for subject, found in last.items():
        ranked = sorted(((m.value, kind) for (number, kind), m in found.items() if number == 1), reverse=True)
        told.append(f"{subject}: one defect is mended {', '.join(f'{kind} {value:.2f}' for value, kind in ranked)}")
    return "; ".join(told)
