"""Study: what do stronger guidance scales improve, and what do they damage? A text guidance scale and an image guidance
scale form a pair. For every pair, the study measures the share of correct images, and signs of image artefacts such as
saturated colours."""

import numpy as np

from irg_rl.evaluate.intervals import Measure
from irg_rl.evaluate.outcomes import Pixels
from irg_rl.studies import measures
from irg_rl.studies.bench import Tick
from irg_rl.studies.frame import Frame, FrameRow
from irg_rl.studies.plates import heat_plate
from irg_rl.studies.settings import GuidanceSettings
from irg_rl.studies.study import Cell, Findings, Study, TextTable
from rollouts.request import Request

MEASURES = {"last_correct": "share right, last image", "damage": "damage, first to last image",
            "saturation": "saturation, last image", "clipped": "channels at 0 or 255, last image",
            "unclear": "unreadable cells, last image"}  # fmt: skip


class Guidance(Study[GuidanceSettings]):
    name = "guidance"
    question = "What do guidance scales buy, and what do they break?"
    settings_type = GuidanceSettings

    def cells(self) -> list[Cell]:
        own = self.settings
        return [
            Cell(
                {"subject": subject.label, "text_scale": text, "image_scale": image},
                own.turns * len(self.bench.prompts), self.depends(subject.label) | {"turns": own.turns},
            )
            for subject in self.bench.subjects for text in own.text_scales for image in own.image_scales
            if text > 1 or image == 1
        ]  # fmt: skip

    def measure(self, cell: Cell, tick: Tick) -> list[FrameRow]:
        bench, subject = self.bench, self.bench.subject(cell.at["subject"])
        scales = {name: cell.at[name] for name in ("text_scale", "image_scale")}
        sampler = subject.sampler(guidance=subject.evaluation.guidance.model_copy(update=scales))
        drawn = subject.sample(sampler, [Request(p, 0, bench.seed) for p in bench.prompts], self.settings.turns, tick)
        drawn, table = bench.outcomes(drawn, self.settings.turns, "real")
        last = [trajectory.images[-1].pixels.numpy() for trajectory in drawn]
        unclear = [float("nan")] * len(last) if bench.unclear is None else bench.unclear(last)
        return [
            {
                "prompt": trajectory.prompt.id, "first_correct": bool(table.correct[index, 0]),
                "last_correct": bool(table.correct[index, -1]), "last_score": float(table.score[index, -1]),
                "images": trajectory.turns, "saturation": saturation(last[index]), "clipped": clipped(last[index]),
                "unclear": float(unclear[index]),
            }
            for index, trajectory in enumerate(drawn)
        ]  # fmt: skip

    def findings(self, frame: Frame) -> Findings:
        own = self.settings
        found = {key: measured(rows) for key, rows in frame.groups("subject", "text_scale", "image_scale")}
        several = len(self.bench.labels) > 1
        shown = {name: label for name, label in MEASURES.items() if name != "unclear" or self.bench.in_world}
        plates = []
        for name, label in shown.items():
            panels = {
                subject if several else "": {
                    (text, image): parts[name] for (whose, text, image), parts in found.items() if whose == subject
                }
                for subject in frame.values("subject")
            }
            plates.append(heat_plate(
                name, f"Guidance: {label}", _captions(own.turns)[name], self.stamp(frame), panels,
                x=sorted(own.text_scales), y=sorted(own.image_scales), x_label="text scale", y_label="image scale",
            ))  # fmt: skip
        headings = ["checkpoint", "text scale", "image scale", "share right, first image", *shown.values()]
        rows = [
            [subject, f"{text:g}", f"{image:g}", *(measures.words(parts[name]) for name in ("first_correct", *shown))]
            for (subject, text, image), parts in found.items()
        ]
        best = max(found, key=lambda key: np.nan_to_num(found[key]["last_correct"].value, nan=-1))
        right, broken = (measures.words(found[best][name]) for name in ("last_correct", "damage"))
        told = f"{best[0]}: most right at text scale {best[1]:g} and image scale {best[2]:g}: {right}, damage {broken}"
        return Findings(told, plates, [TextTable("All scales", headings, rows)])


def measured(rows: Frame) -> dict[str, Measure]:
    prompts = rows["prompt"].tolist()
    first, last = rows["first_correct"].astype(bool), rows["last_correct"].astype(bool)
    shares = {"first_correct": measures.share(first, prompts), "last_correct": measures.share(last, prompts),
              "damage": measures.share(~last, prompts, first)}  # fmt: skip
    return shares | {name: measures.mean(rows[name], prompts) for name in ("saturation", "clipped", "unclear")}


def saturation(image: Pixels) -> float:
    """Return the mean saturation of the pixels of an image, as in HSV: (max - min) / max over the colour channels. A
    black pixel counts as 0."""
    high, low = image.max(-1).astype(float), image.min(-1).astype(float)
    return float(np.divide(high - low, high, out=np.zeros_like(high), where=high > 0).mean())


def clipped(image: Pixels) -> float:
    """Return the share of colour values of an image that are 0 or 255. Strong guidance pushes values to these
    limits."""
    return float(((image == 0) | (image == 255)).mean())


def _captions(turns: int) -> dict[str, str]:
    cells = "95 % intervals. Without text guidance there is no image guidance."
    return {
        "last_correct": f"After at most {turns} turns with the learned stop. {cells}",
        "damage": f"Wrong at the end, of those whose first image was right. {cells}",
        "saturation": f"As in HSV, 0 to 1; what lies far from the value at scale 1 is an artefact. {cells}",
        "clipped": f"Share of channel values at an end of their range. {cells}",
        "unclear": f"Cells of nine that the checker cannot read. {cells}",
    }
