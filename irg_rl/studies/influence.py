"""Study: what determines a refined image (an image that the model draws after a reflection on its last image)? Three
causes are examined: the reflection, the given image (the image to refine) and the random noise.

The first part of the study draws refinements again. Each time, the reflection or the given image is replaced, and
everything else stays the same, including the noise. The second part draws, for each prompt, one image for every pair of
N reflections and S seeds.

The setting `history` says what a refinement sees. With history `last`, it sees only the prompt, the think text (written
before the first image), the last image and the reflection on it. So a refinement of any turn can be drawn again as the
second image of a new trajectory, from the same image and reflection. With history `full`, a refinement sees all earlier
images and texts, so only the second image can be drawn again in this way.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from irg_rl.evaluate import intervals
from irg_rl.evaluate.intervals import Measure
from irg_rl.studies import anova, measures
from irg_rl.studies.bench import Subject, Tick
from irg_rl.studies.frame import Frame, FrameRow
from irg_rl.studies.plates import Plate, dots_plate, stacks_plate
from irg_rl.studies.settings import InfluenceSettings
from irg_rl.studies.study import Cell, Findings, Study, TextTable
from irg_rl.trajectory import Prompt, Trajectory
from rollouts.noise import hashed
from rollouts.request import Request, Text, never

OWN = "its own"
REDRAW = "plain redraw"
GREY = 128


@dataclass(frozen=True)
class Refinement:
    """One refinement in a trajectory, together with its inputs. A refinement is an image that was drawn from two
    inputs: the image before it and a reflection. `turn` is the number of the refinement; number 1 is the second image
    of the trajectory."""

    trajectory: Trajectory
    turn: int

    @property
    def prompt(self) -> Prompt:
        return self.trajectory.prompt

    @property
    def think(self) -> Tensor:
        return self.trajectory.texts[0].ids

    @property
    def image(self) -> Tensor:
        return self.trajectory.images[self.turn - 1].pixels

    @property
    def reflection(self) -> Tensor:
        return self.trajectory.texts[self.turn].ids

    @property
    def words(self) -> str:
        return self.trajectory.texts[self.turn].text

    def asked(self, seed: int, image: Tensor, reflection: Text) -> Request:
        """Return a request to the sampler that draws this refinement again, with the given random seed, input
        image and reflection."""
        return Request(
            self.prompt, self.trajectory.sample, seed, think=self.think, first_image=image, reflections={1: reflection}
        )


def refinements(trajectories: Sequence[Trajectory], turn: int) -> list[Refinement]:
    """Return refinement number `turn` of each trajectory, as a list. A refinement is an image drawn after a reflection
    on the image before it. A trajectory is left out if it has no such refinement, or if its reflection in this turn
    asks for no change."""
    asking = [t for t in trajectories if len(t.texts) > turn and not t.texts[turn].stop and t.turns >= turn]
    return [Refinement(t, turn) for t in asking]


Exchange = Callable[[Refinement, Refinement | None, Refinement], tuple[Tensor, Text] | None]
"""A function that replaces one cause of a refinement (its image or its reflection). It takes three refinements: the one
to change, one of another sample of the same prompt (may be None), and one of another prompt. It returns the image and
the reflection to use, or None if the replacement is not possible."""


def exchanges(paraphrase: Callable[[str], str | None] | None) -> dict[str, Exchange]:
    """Return a dict with all exchanges: name -> function. An exchange replaces the image or the reflection from which a
    refinement is drawn again; only the exchange OWN replaces nothing. Each function takes three refinements: the
    refinement to draw again, a refinement of the same prompt (or None), and a refinement of another prompt. It returns
    the image and the reflection to use, or None if the exchange is not possible. `paraphrase` is a function that
    rewords a reflection. If `paraphrase` is None, the exchange with a reworded reflection is never possible."""

    def reworded(own: Refinement, sibling: Refinement | None, other: Refinement):
        words = None if paraphrase is None else paraphrase(own.words)
        return None if words is None else (own.image, words)

    return {
        OWN: lambda own, sibling, other: (own.image, own.reflection),
        "reflection: paraphrased": reworded,
        "reflection: a sibling's": lambda own, sibling, other: sibling and (own.image, sibling.reflection),
        "reflection: another prompt's": lambda own, sibling, other: (own.image, other.reflection),
        "reflection: blank": lambda own, sibling, other: (own.image, ""),
        "image: a sibling's": lambda own, sibling, other: sibling and (sibling.image, own.reflection),
        "image: another prompt's": lambda own, sibling, other: (other.image, own.reflection),
        "image: grey": lambda own, sibling, other: (torch.full_like(own.image, GREY), own.reflection),
    }


class Influence(Study[InfluenceSettings]):
    name = "influence"
    question = "Does a refinement follow its reflection and its image?"
    settings_type = InfluenceSettings

    def cells(self) -> list[Cell]:
        own, prompts = self.settings, len(self.bench.prompts)
        found = []
        for subject in self.bench.subjects:
            for turn in self._turns(subject):
                depends = self.depends(subject.label) | {"siblings": own.siblings}
                work = prompts * own.siblings * (turn + 1 + 2 * (len(exchanges(None)) + 1))
                found.append(Cell({"subject": subject.label, "part": "exchange", "turn": turn + 1}, work, depends))
            for turn in (0, *self._turns(subject)):
                size = {"reflections": own.reflections, "seeds": own.seeds, "probe_prompts": own.probe_prompts}
                images = turn + (2 if turn else 1) * own.reflections * (1 + own.seeds)
                depends = self.depends(subject.label) | size | {"temperature": subject.recipe.sampling.temperature}
                work = min(prompts, own.probe_prompts) * images
                found.append(Cell({"subject": subject.label, "part": "probe", "turn": turn + 1}, work, depends))
        return found

    def measure(self, cell: Cell, tick: Tick) -> list[FrameRow]:
        subject, turn = self.bench.subject(cell.at["subject"]), cell.at["turn"] - 1
        return (self._exchange if cell.at["part"] == "exchange" else self._probe)(subject, turn, tick)

    def _turns(self, subject: Subject) -> list[int]:
        return self.settings.turns if subject.sampling.history == "last" else [1]

    def _exchange(self, subject: Subject, turn: int, tick: Tick) -> list[FrameRow]:
        bench = self.bench
        seed = hashed(bench.seed, "influence", turn) % 2**63
        asked = [Request(p, sample, bench.seed) for p in bench.prompts for sample in range(self.settings.siblings)]
        sources = refinements(subject.sample(subject.sampler(), asked, turn + 1, tick), turn)
        requests, about = [], []
        for own in sources:
            sibling, other = partners(own, sources)
            if other is None:
                continue
            for arm, exchange in exchanges(bench.paraphrase).items():
                made = exchange(own, sibling, other)
                if made is not None:
                    requests.append(own.asked(seed, *made))
                    about.append((arm, own, made[0]))
        drawn = subject.sample(subject.sampler(is_stop=never), requests, 2, tick)
        again = [Request(own.prompt, own.trajectory.sample, seed, think=own.think) for own in sources]
        drawn += subject.sample(subject.sampler(), again, 1, tick)
        about += [(REDRAW, own, own.image) for own in sources]
        before = bench.verify([own.image.numpy() for _, own, _ in about], [own.prompt for _, own, _ in about])
        rows = []
        for (arm, own, given), trajectory, (*_, now), was in zip(about, drawn, bench.verdicts(drawn), before):
            if now is None or was is None:
                continue  # the image before or the image after could not be judged
            result = trajectory.images[-1].pixels
            rows.append({
                "arm": arm, "prompt": own.prompt.id, "sample": own.trajectory.sample,
                "correct": bool(now.correct), "score": float(now.score),
                "correct_before": bool(was.correct), "score_before": float(was.score),
                "from_own": distance(result, own.image), "from_given": distance(result, given),
            })  # fmt: skip
        return rows

    def _probe(self, subject: Subject, turn: int, tick: Tick) -> list[FrameRow]:
        bench, own = self.bench, self.settings
        prompts = list(bench.prompts[: own.probe_prompts])
        texts_seed, seed = (hashed(bench.seed, f"probe {use}", turn) % 2**63 for use in ("texts", "draws"))
        base: Sequence[Trajectory | None] = [None] * len(prompts)
        if turn:
            asked = [Request(p, 0, bench.seed) for p in prompts]
            # leave out trajectories that stopped earlier: the model wants to keep their image
            drawn = [t for t in subject.sample(subject.sampler(), asked, turn, tick) if t.turns == turn]
            base, prompts = drawn, [t.prompt for t in drawn]
        given = [parts_of(trajectory, turn) for trajectory in base]
        writer = subject.sampler(temperature=subject.recipe.sampling.temperature, points=2, is_noisy=False)
        asked = [Request(p, r, texts_seed, **parts) for p, parts in zip(prompts, given) for r in range(own.reflections)]
        written = subject.sample(writer, asked, 2 if turn else 1, tick)
        pairs = [(request, said.texts[-1], s) for request, said in zip(asked, written) for s in range(own.seeds)]
        draws = [pair for pair in pairs if not pair[1].stop]
        requests = [
            replace(r, sample=s, seed=seed, **({"reflections": {1: text.ids}} if turn else {"think": text.ids}))
            for r, text, s in draws
        ]  # fmt: skip
        drawn = subject.sample(subject.sampler(is_stop=never), requests, 2 if turn else 1, tick)
        scored = iter(bench.verdicts(drawn))
        in_hand = bench.verdicts([t for t in base if t is not None])
        kept = {t.prompt.id: verdicts[-1] for t, verdicts in zip(base, in_hand) if t is not None}
        verdicts = [kept[r.prompt.id] if text.stop else next(scored)[-1] for r, text, _ in pairs]
        # leave out prompts with a missing verdict: the table of texts and seeds must be complete
        failed = {r.prompt.id for (r, _, _), verdict in zip(pairs, verdicts) if verdict is None}
        return [
            {
                "prompt": request.prompt.id, "reflection": request.sample, "draw": s, "stop": text.stop,
                "correct": bool(verdict.correct), "score": float(verdict.score),
            }
            for (request, text, s), verdict in zip(pairs, verdicts) if request.prompt.id not in failed
        ]  # fmt: skip

    def findings(self, frame: Frame) -> Findings:
        swaps, probes = frame.where(part="exchange"), frame.where(part="probe")
        stamp = self.stamp(swaps)
        tables, panels = [], {}
        for (subject, turn), own in swaps.groups("subject", "turn"):
            there = own.values("arm")
            arms = [arm for arm in (*exchanges(None), REDRAW) if arm in there]
            panels[f"{subject}, image {turn}"] = {arm: arm_of(own, arm) for arm in arms}
        probed = {
            subject: {_turn_name(turn): variance(rows) for (turn,), rows in own.groups("turn")}
            for (subject,), own in probes.groups("subject")
        }
        for panel, arms in panels.items():
            rows = [[name, *map(measures.words, (arm.accuracy, arm.gained, arm.from_own, arm.from_given))]
                    for name, arm in arms.items()]  # fmt: skip
            headings = ["what is exchanged", "share right", "score − that of its own", "pixels from its own image",
                        "pixels from the given image"]  # fmt: skip
            title = f"{panel}: one cause exchanged"
            tables.append(TextTable(title, headings, rows, "Paired over prompts, same noise."))
        rows = [[subject, turn, *(measures.words(parts[part]) for part in anova.PARTS)]
                for subject, turns in probed.items() for turn, parts in turns.items()]  # fmt: skip
        note = f"{self.settings.reflections} texts x {self.settings.seeds} seeds per prompt; within prompts."
        tables.append(TextTable("Share of the score's variance", ["checkpoint", "image", *anova.PARTS], rows, note))
        if against := _against_first(swaps, probes):
            headings = ["checkpoint", "less", "image", "what", "difference"]
            note = "Paired over the prompts that both have."
            tables.append(TextTable("Checkpoints against the first", headings, against, note))
        plates = [_exchanged(panels, stamp), _distances(panels, stamp), self._variance(probed, probes)]
        return Findings(_headline(panels, probed), [plate for plate in plates if plate is not None], tables)

    def _variance(self, probed: dict[str, dict[str, dict[str, Measure]]], probes: Frame) -> Plate | None:
        if not probed:
            return None
        own = self.settings
        caption = (
            f"{own.reflections} texts, sampled at the temperature of RL, crossed with {own.seeds} seeds of the noise "
            "for each prompt, the image before kept. The estimates are unbiased, so a share may be below 0. n: prompts "
            "whose outcomes differ at all. Pictures that the model had already decided to keep are left out."
        )
        panels = {
            subject: {f"{turn}\nn={parts['text'].n}": parts for turn, parts in turns.items()}
            for subject, turns in probed.items()
        }
        return stacks_plate("variance", "Whose doing is the outcome: text, seed or both", caption, self.stamp(probes),
                            panels, parts=anova.PARTS, y_label="share of variance")  # fmt: skip


def parts_of(trajectory: Trajectory | None, turn: int) -> dict:
    """Return a dict with two arguments for a sampling request, `think` and `first_image`. The sampler uses this think
    text and this first image instead of sampling its own. Both come from `trajectory`: its think text, and the input
    image of its refinement number `turn`. If `trajectory` is None, the dict is empty, and the sampler works from the
    prompt alone."""
    if trajectory is None:
        return {}
    return {"think": trajectory.texts[0].ids, "first_image": trajectory.images[turn - 1].pixels}


def partners(own: Refinement, sources: Sequence[Refinement]) -> tuple[Refinement | None, Refinement | None]:
    """Return two refinements from `sources`. Their image or reflection can replace the image or reflection of `own`.
    The first has the same prompt as `own`, but is from another trajectory. The second is a random refinement of another
    prompt. Each of the two is None if there is no such refinement."""
    siblings = [r for r in sources if r.prompt.id == own.prompt.id and r.trajectory is not own.trajectory]
    others = [r for r in sources if r.prompt.id != own.prompt.id]
    choice = random.Random(hashed("partners", own.prompt.id, own.trajectory.sample, own.turn))
    return (siblings[0] if siblings else None), (choice.choice(others) if others else None)


def distance(one: Tensor, other: Tensor) -> float:
    """Return the mean absolute difference between the pixels of two images, from 0 to 255. It is nan if the images have
    different sizes."""
    return float((one.float() - other.float()).abs().mean()) if one.shape == other.shape else float("nan")


@dataclass(frozen=True)
class Exchanged:
    """Results of refinements that were drawn again with one cause (image or reflection) replaced. `accuracy` is the
    share of correct images. `gained` is the score minus the score of the same refinements drawn without a replacement.
    The two pixel differences compare the result with an input image: `from_own` with the refinement's original input
    image, and `from_given` with the input image that was really used."""

    accuracy: Measure
    gained: Measure
    from_own: Measure
    from_given: Measure


def arm_of(frame: Frame, arm: str) -> Exchanged:
    rows, own = paired_with_own(frame, arm)
    prompts = rows["prompt"].tolist()
    return Exchanged(
        measures.share(rows["correct"].astype(bool), prompts), measures.gain(rows["score"], own, prompts),
        measures.mean(rows["from_own"], prompts), measures.mean(rows["from_given"], prompts),
    )  # fmt: skip


def paired_with_own(frame: Frame, arm: str) -> tuple[Frame, np.ndarray]:
    """Return two results. The first has some rows of `frame`: refinements that were drawn again with another image or
    another reflection. `arm` names what was replaced. The second is an array with the scores of the same refinements,
    drawn without a replacement. It has the same order."""
    rows, whole = frame.where(arm=arm), frame.where(arm=OWN)
    score = dict(zip(whole.keys("prompt", "sample"), whole["score"].tolist()))
    rows = rows.where(np.array([key in score for key in rows.keys("prompt", "sample")], bool))
    return rows, np.array([score[key] for key in rows.keys("prompt", "sample")])


def variance(frame: Frame) -> dict[str, Measure]:
    """Return a dict: source -> its share of the variance of the image scores. The sources are the text (the
    reflection), the random seed, and the interaction of both."""
    prompts = frame.values("prompt")
    return anova.shares(crossed(frame, prompts), prompts)


def crossed(frame: Frame, prompts: Sequence[str]) -> np.ndarray:
    """Return the image scores of the given prompts as an array [prompt, reflection, seed]. It has one score for every
    pair of a reflection and a seed."""
    return np.stack([frame.where(prompt=prompt).grid("score", ("reflection",), "draw")[0] for prompt in prompts])


def _against_first(swaps: Frame, probes: Frame) -> list[list[str]]:
    """Compare each further checkpoint with the first one. Return table rows with differences (this checkpoint minus the
    first one) of two measures. The first measure is how much the score changes when a cause, such as the reflection, is
    replaced. The second is the share of the score's variance that comes from the text."""
    rows = []
    for (turn,), own in swaps.groups("turn"):
        ((name,), first), *others = own.groups("subject")
        for (subject,), arms in others:
            for arm in (arm for arm in arms.values("arm") if arm != OWN):
                (one, whole), (other, base) = paired_with_own(arms, arm), paired_with_own(first, arm)
                lost = measures.between(
                    one["score"] - whole, one["prompt"].tolist(), other["score"] - base, other["prompt"].tolist()
                )
                what = f"{arm}: score − that of its own"
                rows.append([subject, name, str(turn), what, measures.words(lost, "+.3f")])
    for (turn,), own in probes.groups("turn"):
        ((name,), first), *others = own.groups("subject")
        for (subject,), table in others:
            both = [prompt for prompt in table.values("prompt") if prompt in first.values("prompt")]
            if both:
                mine, theirs = (anova.terms(crossed(side, both), both)["text"] for side in (table, first))
                told = measures.words(intervals.difference(mine, theirs), "+.3f")
                rows.append([subject, name, str(turn), "the text's share of the variance", told])
    return rows


def _turn_name(turn: int) -> str:
    return "image 1\n(think)" if turn == 1 else f"image {turn}"


def _arms(panels: dict[str, dict[str, Exchanged]]) -> list[str]:
    return list(dict.fromkeys(arm for arms in panels.values() for arm in arms))


def _exchanged(panels: dict[str, dict[str, Exchanged]], stamp: str) -> Plate | None:
    if not panels:
        return None
    caption = (
        "A refinement drawn again with one of its causes exchanged, all else and the noise kept; score less that of "
        "the unchanged one. If text or image did not matter, their rows would stand at 0; a plain redraw has neither. "
        "n: prompts."
    )
    found = {panel: {name: arm.gained for name, arm in arms.items()} for panel, arms in panels.items()}
    return dots_plate("exchange", "What a refinement loses when a cause is exchanged", caption, stamp, found,
                      rows=_arms(panels), x_label="change of the score", zero=True)  # fmt: skip


def _distances(panels: dict[str, dict[str, Exchanged]], stamp: str) -> Plate | None:
    if not panels:
        return None
    caption = (
        "Mean absolute pixel difference between the refinement and the image it was given. Small: the image is edited. "
        "As large as for a plain redraw: it is drawn anew. n: refinements."
    )
    found = {panel: {name: arm.from_given for name, arm in arms.items()} for panel, arms in panels.items()}
    return dots_plate("distance", "How much of the given image is kept", caption, stamp, found, rows=_arms(panels),
                      x_label="pixel difference of 255")  # fmt: skip


def _headline(panels: dict[str, dict[str, Exchanged]], probed: dict[str, dict[str, dict[str, Measure]]]) -> str:
    told = []
    for panel, arms in panels.items():
        losses = [f"{name} {measures.words(arm.gained, '+.3f')}" for name, arm in arms.items() if name != OWN]
        told.append(f"{panel}: score when exchanged: {', '.join(losses)}")
    for subject, turns in probed.items():
        parts = [f"{turn.splitlines()[0]} {measures.words(own['text'], '.2f')}" for turn, own in turns.items()]
        told.append(f"{subject}: share of the variance that is the text's: {', '.join(parts)}")
    return "; ".join(told)
