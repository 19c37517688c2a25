"""Study: how much of the policy gradient of each credit scheme is signal, and how much is noise? A credit scheme is a
rule that turns the scores of images into advantages. Nothing is trained.

All schemes are compared at one checkpoint on the same samples. Batches of groups (several trajectories of one prompt)
are sampled once, as in RL. Each scheme computes its own advantages for these trajectories. From the advantages, the
gradient of the joint loss (text and image) is computed in the same way as in training.

To imitate a noisy judge, noise is added to the true score q of every image. The noisy score is q + s z, where s is the
noise level and z is a standard normal number. z is drawn once per image and is the same for all schemes and all s. If
two images have the same true score, the difference of their noisy scores is normally distributed with standard
deviation sqrt(2) s. If the recipe has scorers of reflections and edits, their scores get such noise, too.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from irg_rl.algorithms.base import algorithm_of, segment_weights, statement_weights
from irg_rl.algorithms.learner import Learner
from irg_rl.config import RLRecipe
from irg_rl.credit import SCHEMES, CreditScheme, assign, carried, scheme_named
from irg_rl.errors import InputError
from irg_rl.evaluate.intervals import Measure
from irg_rl.learner.parts import ModelPart, part_of
from irg_rl.records import load_groups, save_groups
from irg_rl.studies import measures, sketch
from irg_rl.studies.bench import Bench, Subject, Tick
from irg_rl.studies.frame import Frame, FrameRow
from irg_rl.studies.plates import Plate, PlateLine, lines_plate
from irg_rl.studies.settings import CreditStudySettings
from irg_rl.studies.study import Cell, Findings, Study, TextTable
from irg_rl.trajectory import Group
from rollouts.noise import hashed
from rollouts.request import Request
from rollouts.sampler import Sampler

JUDGE = "judge"
TERMS = ("text", "image")
REFERENCE = "trajectory"
"""Name of the credit scheme that all other schemes are compared with. It rewards only the final image of a trajectory.
The gradient directions of all schemes are compared with the gradient of this scheme at the lowest noise level."""


class Credit(Study[CreditStudySettings]):
    name = "credit"
    question = "How much of the gradient of a credit scheme is signal?"
    settings_type = CreditStudySettings
    unit = "groups"

    def __init__(self, bench: Bench, settings: CreditStudySettings) -> None:
        super().__init__(bench, settings)
        self._loaded: tuple[str, Learner] | None = None

    def cells(self) -> list[Cell]:
        own, prompts = self.settings, len(self.bench.prompts)
        if own.batches % 2:
            raise InputError(f"study.batches is {own.batches}: halves are compared, so give an even number")
        found = [
            Cell(
                {"subject": subject.label, "scheme": scheme, "noise": noise}, own.batches * own.groups,
                self._drawn(subject) | {"batches": own.batches},
            )
            for subject in self.bench.subjects for scheme in self._schemes(subject) for noise in own.noises
        ]  # fmt: skip
        if prompts < own.needed:
            raise InputError(
                f"study.batches={own.batches} x study.groups={own.groups} ask for {own.needed} prompts, and there are "
                f"{prompts}; the own noise of a repeated prompt would count as signal: give study.prompts=FILE with "
                "more, study.split=train, or fewer batches"
            )
        return found

    def measure(self, cell: Cell, tick: Tick) -> list[FrameRow]:
        subject = self.bench.subject(cell.at["subject"])
        learning, rows, scheme = self.bench.learning_of(subject), [], scheme_named(cell.at["scheme"])
        options = carried(learning.options, scheme)
        weights = segment_weights(subject.recipe) if scheme.uses_segment_scores else None
        for number in range(self.settings.batches):
            groups = self._batch(subject, number)
            alive = False
            for group in groups:
                disturb(group, cell.at["noise"], self.settings.seed)
                assign(group, scheme, {JUDGE: 1.0}, options=options, segment_weights=weights)
                alive |= any(segment.advantage for t in group.trajectories for segment in t.segments)
            gradients = {}
            if alive:
                gradients = self._learner(subject, groups).gradients(*groups)
            rows += [{"batch": number, "alive": alive} | row for row in rows_of(gradients)]
            tick(self.settings.groups)
        return rows

    def findings(self, frame: Frame) -> Findings:
        tables = {key: Gradients(own) for key, own in frame.groups("subject", "scheme", "noise")}
        subjects, schemes = frame.values("subject"), frame.values("scheme")
        noises = sorted(frame.values("noise"))
        own = self.settings
        stamp = (
            f"{own.batches} batches of {own.groups} group(s), the same for all | seed {own.seed} | {self.origin(frame)}"
        )
        plates = [
            _plate(term, tables, subjects, schemes, noises, stamp) for term in (*TERMS, "joint")
        ] + [_alignment_plate(tables, subjects, schemes, noises, stamp)]  # fmt: skip
        rows = []
        for (subject, scheme, noise), found in tables.items():
            reference = tables.get((subject, REFERENCE, noises[0]))
            aligned = "–" if reference is None else measures.words(found.alignment(reference), ".2f")
            ratios = [measures.words(found.ratio(term)) for term in (*TERMS, "joint")]
            parts = [measures.words(found.ratio("joint", part)) for part in (ModelPart.UND, ModelPart.GEN)]
            sizes = [f"{found.size(term):.2g}" for term in TERMS]
            halves = f"{found.halves('joint'):.2f}"
            rows.append(
                [subject, scheme, f"{noise:g}", *ratios, *sizes, *parts, halves, aligned, f"{found.alive:.2f}"]
            )
        headings = ["checkpoint", "scheme", "judge noise", *(f"SNR {term}" for term in (*TERMS, "joint")),
                    *(f"|g| {term}" for term in TERMS), "SNR joint, und", "SNR joint, gen", "cosine of halves",
                    "cosine to the reference", "alive"]  # fmt: skip
        note = (
            "SNR: |E g|^2 over the trace of the covariance, per batch, unbiased, 95 % jackknife over batches; in "
            f"proportion to the groups of a batch. Reference: {REFERENCE} with the least noise. Alive: batches that "
            "have any advantage. |g|: root mean square over batches."
        )
        found = [TextTable("By scheme", headings, rows, note), *_against_reference(tables)]
        return Findings(_headline(tables, noises), [plate for plate in plates if plate is not None], found)

    def _rl(self, subject: Subject) -> RLRecipe:
        rl, name = subject.recipe.rl, subject.label
        if rl is None:
            raise InputError(f"{name}: its recipe has no `rl`, which says how groups are drawn: give rl.groups=8")
        if not algorithm_of(subject.recipe).records_steps:
            raise InputError(
                f"{name}: rl.algorithm {rl.algorithm} trains no denoising steps here, and this study compares their "
                "gradients: give rl.algorithm=grpo rl.image_weight=1"
            )
        return rl

    def _schemes(self, subject: Subject) -> list[str]:
        """Return the names of the schemes to compare: those of the settings, or all that suit the recipe."""
        asked = self.settings.schemes
        reasons = {name: self._unsuitable(subject, scheme_named(name)) for name in (asked or SCHEMES)}
        if asked and (wrong := [name for name in asked if reasons[name]]):
            raise InputError(f"{subject.label}: study.schemes: {wrong[0]} {reasons[wrong[0]]}")
        return [name for name, reason in reasons.items() if not reason]

    def _unsuitable(self, subject: Subject, scheme: CreditScheme) -> str | None:
        """Return why the scheme cannot be compared at this checkpoint, or None if it can."""
        forks = self._rl(subject).forks
        if forks and scheme.whole_trajectories:
            return f"judges whole trajectories, and rl.forks {forks} makes siblings share segments: give rl.forks={{}}"
        if scheme.uses_segment_scores and self.bench.score_segments is None:
            return "uses scores of reflections and edits: give a scorer with `of: reflection` or `of: edit`"
        if scheme.uses_segment_scores and (others := sorted(statement_weights(subject.recipe))):
            return f"uses scores of single statements, which this study has not: leave {', '.join(others)} out"
        return None

    def _drawn(self, subject: Subject) -> dict:
        """Return, as JSON data, everything that affects the sampled groups of a checkpoint: the prompts, the number of
        groups, the seed, and the settings of RL and sampling. A group is several trajectories of one prompt."""
        own, recipe = self.settings, subject.recipe
        scorers = [s for s in recipe.rewards.scorers if s.name in segment_weights(recipe)]
        return self.depends(subject.label) | {
            "groups": own.groups, "seed": own.seed, "rl": self._rl(subject).model_dump(mode="json"),
            "segment_scorers": [scorer.model_dump(mode="json") for scorer in scorers],
            "drawn": recipe.rl_sampling.model_dump(mode="json"),
        }  # fmt: skip

    def _learner(self, subject: Subject, groups: Sequence[Group]) -> Learner:
        """Return the learner of a checkpoint. It is created once and then reused for this checkpoint. When it is
        created, it is checked with `groups`: the learner must compute the same probabilities as the sampler recorded
        (ratio check, invariant 1)."""
        if self._loaded is None or self._loaded[0] != subject.label:
            learner = Learner(self.bench.learning_of(subject).learner)
            learner.setup()
            learner.check_ratio(*groups)
            self._loaded = subject.label, learner
        return self._loaded[1]

    def _batch(self, subject: Subject, number: int) -> list[Group]:
        """Return the groups of batch `number`, with the judge's scores. A group is several trajectories of one prompt.
        The first call samples the groups and saves them to disk; later calls read them from there."""
        own = self.settings
        made = Cell({"subject": subject.label}, 0, self._drawn(subject))
        assert self.bench.scratch is not None, "this bench was made without a folder for groups"
        folder = self.bench.scratch / "groups" / made.digest(self.name) / f"batch-{number:04d}"
        if not folder.is_dir():
            save_groups(folder, [self._group(subject, number * own.groups + k) for k in range(own.groups)])
        return load_groups(folder)

    def _group(self, subject: Subject, number: int) -> Group:
        prompt, recipe, rl = self.bench.prompts[number], subject.recipe, self._rl(subject)
        parts = subject.take()
        sampler = Sampler(
            parts.model.eval(), parts.autoencoder, parts.tokenizer, recipe.rl_sampling, noise=rl.noise
        )
        seed = hashed(self.settings.seed, "credit", number) % 2**63
        drawn = sampler.sample([Request(prompt, sample, seed, forks=rl.forks) for sample in range(rl.group_size)])
        for trajectory, verdicts in zip(drawn, self.bench.verdicts(drawn)):
            trajectory.rewards = {JUDGE: [None if verdict is None else float(verdict.score) for verdict in verdicts]}
        group = Group(number, prompt, drawn)
        if self.bench.score_segments is not None:
            self.bench.score_segments(group)
        return group


def disturb(group: Group, noise: float, seed: int) -> None:
    """Add normal noise of standard deviation `noise` to the judge's score of every image in the group (several
    trajectories of one prompt), and to the scores of reflections and edits. The scores are changed in place. A score
    that is None, because the judge failed, stays None. An image or text that trajectories share gets the same noise in
    all of them. `seed` determines the noise."""
    drawn: dict[int, float] = {}
    for trajectory in group.trajectories:
        own = np.random.default_rng(hashed(seed, JUDGE, group.id, trajectory.sample))
        for image, z in zip(trajectory.images, own.standard_normal(trajectory.turns)):
            drawn.setdefault(id(image), float(z))
        scores = trajectory.rewards[JUDGE]
        trajectory.rewards[JUDGE] = [
            _noisy(score, noise, drawn[id(image)]) for score, image in zip(scores, trajectory.images, strict=True)
        ]
    segments = {id(segment): segment for trajectory in group.trajectories for segment in trajectory.segments}
    for number, segment in enumerate(segments.values()):
        own = np.random.default_rng(hashed(seed, "segment", group.id, number))
        segment.scores = {name: _noisy(score, noise, own.standard_normal()) for name, score in segment.scores.items()}


def _noisy(score: float | None, noise: float, z: float) -> float | None:
    return None if score is None else float(score + noise * z)


def rows_of(gradients: dict[str, dict[str, torch.Tensor]]) -> list[FrameRow]:
    """Return table rows that describe the gradients of one batch. `gradients` maps a loss term (text or image) to a
    dict: parameter name -> gradient. There is one row for each pair of a loss term and a part of the model
    (understanding or generation). Each row has the exact squared norm of the gradient and a sketch of the gradient (a
    short random projection). Norm and sketch are zero if there is no gradient."""
    rows = []
    for term, part in itertools.product(TERMS, ModelPart):
        own = {name: g for name, g in gradients.get(term, {}).items() if part_of(name) == part}
        square = sum(float(g.double().square().sum()) for g in own.values())
        rows.append({
            "term": term, "part": str(part), "square": square, "sketch": sketch.sketch(own).astype(np.float32),
        })  # fmt: skip
    return rows


class Gradients:
    """The gradients of one credit scheme (a rule that turns scores into advantages), one gradient per batch. They are
    stored as sketches (short random projections)."""

    def __init__(self, frame: Frame) -> None:
        self.tables: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
        for (term, part), own in frame.groups("term", "part"):
            order = np.argsort(own["batch"])
            self.tables[term, part] = np.stack([own["sketch"][i] for i in order]).astype(float), own["square"][order]
        self.alive = float(np.mean(frame["alive"]))

    def sketches(self, term: str, part: str | None = None) -> np.ndarray:
        """Return an array with one row per batch: the sketch (short random projection) of the gradient of that batch.
        `term` is one loss term (text or image), or `joint` for the sum of both. `part` is one part of the model; None
        means the whole model. Sketches of different parts can be added, because no parameter belongs to two parts."""
        return np.sum([small for key, (small, _) in self.tables.items() if _chosen(key, term, part)], axis=0)

    def gram(self, term: str, part: str | None = None) -> np.ndarray:
        """Return the matrix of the inner products of the gradients of all pairs of batches. `term` is one loss term
        (text or image), or `joint` for the sum of both. `part` is one part of the model; None means the whole model.

        The entries are estimated from sketches, but the diagonal (the squared norms) is exact for one loss term. For
        `joint`, the diagonal also contains the inner product of the two terms, which is estimated.
        """
        squares = np.sum([square for key, (_, square) in self.tables.items() if _chosen(key, term, part)], axis=0)
        if term == "joint":
            for one in {key[1] for key in self.tables if _chosen(key, term, part)}:
                squares = squares + 2 * np.prod([self.tables[name, one][0] for name in TERMS], axis=0).sum(1)
        return sketch.gram(self.sketches(term, part), squares)

    def ratio(self, term: str, part: str | None = None) -> Measure:
        return sketch.jackknifed(sketch.signal_to_noise, self.gram(term, part))

    def size(self, term: str) -> float:
        """Return the root mean square, over the batches, of the gradient norm of the loss term `term`."""
        return float(np.sqrt(max(np.diag(self.gram(term)).mean(), 0.0)))

    def gained(self, reference: "Gradients", term: str) -> Measure:
        """Return the signal-to-noise ratio of these gradients, minus the ratio of the gradients `reference` of another
        credit scheme. `term` is one loss term (text or image), or `joint` for the sum of both. Both ratios are computed
        on the same batches."""
        return sketch.jackknifed(
            lambda own, other: sketch.signal_to_noise(own) - sketch.signal_to_noise(other),
            self.gram(term), reference.gram(term),
        )  # fmt: skip

    def halves(self, term: str) -> float:
        return sketch.half_cosine(self.gram(term))

    def alignment(self, reference: "Gradients") -> Measure:
        across = self.sketches("joint") @ reference.sketches("joint").T
        return sketch.jackknifed(sketch.alignment, self.gram("joint"), reference.gram("joint"), across)


def _chosen(key: tuple[str, str], term: str, part: str | None) -> bool:
    return term in (key[0], "joint") and part in (key[1], None)


Tables = dict[tuple[str, str, float], Gradients]


def _plate(term: str, tables: Tables, subjects: Sequence[str], schemes: Sequence[str], noises: Sequence[float],
           stamp: str) -> Plate:  # fmt: skip
    panels = {
        subject: [
            PlateLine(scheme, noises, [tables[subject, scheme, noise].ratio(term) for noise in noises])
            for scheme in schemes
        ]
        for subject in subjects
    }
    whose = {"text": "text term", "image": "image term", "joint": "joint loss"}[term]
    caption = (
        "|E g|^2 over the trace of the covariance, per batch at equal renders, by the standard deviation of the noise "
        "added to each image's score. A ratio of r means that 1 / r batches average to a gradient that is half signal."
    )
    return lines_plate(f"snr-{term}", f"Signal to noise of the gradient: {whose}", caption, stamp, panels,
                       x_label="judge noise (units of the score)", y_label="signal-to-noise ratio")  # fmt: skip


def _alignment_plate(tables: Tables, subjects: Sequence[str], schemes: Sequence[str], noises: Sequence[float],
                     stamp: str) -> Plate | None:  # fmt: skip
    if REFERENCE not in schemes:
        return None
    panels = {}
    for subject in subjects:
        reference = tables[subject, REFERENCE, noises[0]]
        if not reference.ratio("joint").low > 0:  # the reference gradient has no signal
            continue
        panels[subject] = [
            PlateLine(scheme, noises, [tables[subject, scheme, noise].alignment(reference) for noise in noises])
            for scheme in schemes
        ]
    if not panels:
        return None
    caption = (
        f"Cosine between the expected gradient of a scheme and that of {REFERENCE} at noise {noises[0]:g}, from "
        "different batches. A high ratio with a low cosine is a clear gradient of something else."
    )
    return lines_plate("alignment", "Does a scheme point where the final reward does?", caption, stamp, panels,
                       x_label="judge noise (units of the score)", y_label="cosine")  # fmt: skip


def _against_reference(tables: Tables) -> list[TextTable]:
    """Return a list with one table: the signal-to-noise ratio of every other scheme minus that of the reference scheme
    (see REFERENCE). The list is empty if the reference scheme was not measured, or if no other scheme was."""
    rows = []
    for (subject, scheme, noise), found in tables.items():
        reference = tables.get((subject, REFERENCE, noise))
        if reference is not None and scheme != REFERENCE:
            gains = [measures.words(found.gained(reference, term), "+.3f") for term in (*TERMS, "joint")]
            rows.append([subject, scheme, f"{noise:g}", *gains])
    headings = ["checkpoint", "scheme", "judge noise", *(f"SNR {term}" for term in (*TERMS, "joint"))]
    note = "On the same batches with the same noise of the judge, 95 % jackknife over batches."
    return [TextTable(f"SNR less that of {REFERENCE}", headings, rows, note)] if rows else []


def _headline(tables: Tables, noises: Sequence[float]) -> str:
    told = []
    for subject, term in itertools.product(dict.fromkeys(subject for subject, _, _ in tables), TERMS):
        own = {key[1]: found for key, found in tables.items() if (key[0], key[2]) == (subject, noises[0])}
        ratios = {scheme: found.ratio(term) for scheme, found in own.items()}
        ranked = sorted(ratios, key=lambda scheme: -np.nan_to_num(ratios[scheme].value, nan=-np.inf))
        words = [f"{scheme} {measures.words(ratios[scheme])} at |g| {own[scheme].size(term):.2g}" for scheme in ranked]
        told.append(f"{subject}, {term}: {', '.join(words)}")
    return f"Signal-to-noise per batch by term, judge noise {noises[0]:g}: {'; '.join(told)}"
