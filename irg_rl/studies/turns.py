"""Study: what is gained by n turns (one first image and n - 1 refinements)? All n turns of every trajectory are
sampled, even if a reflection says "nothing to change". These samples answer several questions:
* How good are the results if every trajectory has exactly k turns, for every k <= n?
* How good are the results with the learned stop? The learned stop ends a trajectory at the first reflection that says
  "nothing to change", and keeps the image before this reflection.
* How good could any other stopping rule be?
* How much does an image change if it is drawn again after "nothing to change"?

Every random number depends only on prompt, sample and turn. So sampling with the learned stop would give the same
trajectories, up to their first "nothing to change".

Shape letters: N trajectories, T turns.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from irg_rl import flow
from irg_rl.config import GuidanceRecipe, SamplingRecipe
from irg_rl.evaluate.intervals import Measure
from irg_rl.studies import measures
from irg_rl.studies.bench import Tick
from irg_rl.studies.frame import Frame, FrameRow
from irg_rl.studies.plates import Plate, PlateLine, lines_plate
from irg_rl.studies.settings import TurnsSettings
from irg_rl.studies.study import Cell, Findings, Study, TextTable
from irg_rl.trajectory import Trajectory, score_images
from rollouts.request import Request, StopPhrase, never

SCORED = "scored/"
"""Prefix of some column names in the table of results. A column with this prefix has the scores of one scorer. The
verdict (whether the image is right) has a column without this prefix."""
ArmKey = tuple[str, str, str]
"""Key of an arm (one checkpoint with one history): (label of the checkpoint, how it was trained, history). The history
says which earlier images and texts a refinement sees."""


class Turns(Study[TurnsSettings]):
    name = "turns"
    question = "What do n turns buy, and when should a model stop?"
    settings_type = TurnsSettings

    def cells(self) -> list[Cell]:
        own = self.settings
        return [
            Cell(
                {"subject": subject.label, "training": subject.training, "history": history},
                own.turns * own.samples * len(self.bench.prompts),
                self.depends(subject.label) | {"turns": own.turns, "samples": own.samples, "scorers": own.scorers},
            )
            for subject in self.bench.subjects
            for history in dict.fromkeys(subject.sampling.history if h == "own" else h for h in own.histories)
        ]

    def measure(self, cell: Cell, tick: Tick) -> list[FrameRow]:
        bench, own, subject = self.bench, self.settings, self.bench.subject(cell.at["subject"])
        sampler = subject.sampler(history=cell.at["history"], is_stop=never)
        requests = [Request(p, sample, bench.seed) for p in bench.prompts for sample in range(own.samples)]
        drawn = subject.sample(sampler, requests, own.turns, tick)
        if bench.score is not None:
            score_images(drawn, bench.score)
        drawn, table = bench.outcomes(drawn, own.turns, "always")
        passes = [draw_passes(subject.sampling, subject.evaluation.guidance, turn) for turn in range(own.turns)]
        said = StopPhrase(subject.sampling.stop_phrase)
        rows = []
        for index, trajectory in enumerate(drawn):
            texts, images = trajectory.texts, [image.pixels.numpy().astype(float) for image in trajectory.images]
            for turn in range(own.turns):
                row = {
                    "prompt": trajectory.prompt.id, "sample": trajectory.sample, "turn": turn + 1,
                    "task": table.tasks[index], "constraints": constraints_of(trajectory),
                    "correct": bool(table.correct[index, turn]), "score": float(table.score[index, turn]),
                    "stops": turn > 0 and said(texts[turn].text),
                    "reflection_right": float(table.reflection_correct[index, turn]),
                    "text_passes": len(texts[turn].ids) + 1, "image_passes": passes[turn],
                    "change": float(np.abs(images[turn] - images[turn - 1]).mean()) if turn else float("nan"),
                }  # fmt: skip
                scored = {SCORED + name: float(values[index, turn]) for name, values in table.rewards.items()}
                rows.append(row | scored)
        return rows

    def findings(self, frame: Frame) -> Findings:
        places = {key: Arm(own) for key, own in frame.groups("subject", "training", "history")}
        arms = {_label(*key): arm for key, arm in places.items()}
        stamp = self.stamp(frame, self.settings.samples)
        prices = self.settings.prices
        plates = [
            _compared(arms, stamp), _accuracy(arms, stamp), _best(arms, stamp), _anytime(arms, stamp),
            _regret(arms, prices, stamp), _transitions(arms, stamp), _drift(arms, stamp), _by_constraints(arms, stamp),
        ]  # fmt: skip
        told = []
        for label, arm in arms.items():
            first, last, stop = arm.accuracy(0), arm.accuracy(-1), share_at(arm, arm.kept)
            told.append(
                f"{label}: {first.value:.3f} after 1 turn, {last.value:.3f} after {arm.turns}; with its own stop "
                f"{stop.value:.3f} at {arm.renders:.2f} images"
            )
        tables = [_by_turn(arms), *_compared_in_pairs(places), _priced(arms, prices)]
        return Findings("; ".join(told), [plate for plate in plates if plate is not None], tables)


def draw_passes(sampling: SamplingRecipe, guidance: GuidanceRecipe, turn: int) -> int:
    """Return the number of forward passes of the model that are needed to draw the image of turn `turn` (from 0).
    `sampling` says how many denoising steps an image has, and `guidance` says in which of these steps guidance needs
    additional passes. The passes for the text before the image are not counted."""
    return guidance.model_calls(flow.bagel_grid(sampling.points, sampling.shift).tolist()[:-1], turn)


def constraints_of(trajectory: Trajectory) -> int:
    """Return the number of constraints (conditions on the image) in the metadata of the trajectory's prompt. Return 0
    if the metadata has none."""
    return int(trajectory.prompt.metadata.get("constraints", len(trajectory.prompt.metadata.get("include", []))))


@dataclass(frozen=True)
class Arm:
    """One arm of the study: the results of one checkpoint with one history. The history says which earlier images and
    texts a refinement sees. `frame` has one row for each trajectory and turn. From its columns, this class makes arrays
    of the shape [N, T]: trajectories, turns."""

    frame: Frame

    def table(self, column: str) -> np.ndarray:
        return self.frame.grid(column, ("prompt", "sample"), "turn")[0]

    @cached_property
    def prompts(self) -> list[str]:
        return [key[0] for key in self.frame.grid("turn", ("prompt", "sample"), "turn")[1]]

    @cached_property
    def correct(self) -> Bool[np.ndarray, "N T"]:
        return self.table("correct").astype(bool)

    @cached_property
    def score(self) -> Float[np.ndarray, "N T"]:
        return self.table("score")

    @cached_property
    def stops(self) -> Bool[np.ndarray, "N T"]:
        """Return a boolean for each trajectory and turn. It is True if the text of this turn says "nothing to
        change"."""
        return self.table("stops").astype(bool)

    @property
    def turns(self) -> int:
        return self.correct.shape[1]

    @cached_property
    def kept(self) -> Int[np.ndarray, "N"]:
        """Return one image index (from 0) per trajectory: the image that the learned stop keeps. This is the last image
        before the model first says "nothing to change". If the model never says this, the learned stop keeps the last
        image of the trajectory."""
        return last_before_stop(self.stops)

    @cached_property
    def stopped(self) -> Bool[np.ndarray, "N T"]:
        """Return a boolean for each trajectory and turn: whether the learned stop has ended the trajectory. It is True
        if the model has said "nothing to change" in this turn or in an earlier turn."""
        return np.arange(self.turns)[None] > self.kept[:, None]

    @cached_property
    def learned(self) -> Bool[np.ndarray, "N T"]:
        """Return a boolean for each trajectory and turn: whether the trajectory has a right image after this turn, with
        the learned stop. The learned stop ends a trajectory when the model first says "nothing to change". In this and
        all later turns, the trajectory keeps the last image before that."""
        kept = np.stack([self.kept_by(turn) for turn in range(self.turns)], axis=1)
        return np.take_along_axis(self.correct, kept, 1)

    @cached_property
    def passes(self) -> Float[np.ndarray, "N T"]:
        """Return one number for each trajectory and turn: the forward passes of the model from the start up to the
        image of this turn. Texts after this image are not counted. For example, the next text may say "nothing to
        change" and end the trajectory. The passes for this text are counted only by the method `spent`."""
        return (self.table("text_passes") + self.table("image_passes")).cumsum(1).astype(float)

    @property
    def renders(self) -> float:
        """Return the mean number of images per trajectory with the learned stop. This stop ends a trajectory when the
        model first says "nothing to change". Images that were sampled after that do not count."""
        return float((self.kept + 1).mean())

    @property
    def scorers(self) -> list[str]:
        return [name for name in self.frame.columns if name.startswith(SCORED)]

    def accuracy(self, turn: int) -> Measure:
        return measures.share(self.correct[:, turn], self.prompts)

    def kept_by(self, turn: int) -> Int[np.ndarray, "N"]:
        """Return one image index (from 0) per trajectory: the image that the trajectory has after turn `turn` (from 0)
        with the learned stop. The learned stop ends a trajectory when the model first says "nothing to change". The
        trajectory then keeps its last image before that."""
        return np.minimum(self.kept, turn)

    def spent(self, turn: int) -> Float[np.ndarray, "N"]:
        """Return one number per trajectory: the forward passes of the model up to the end of turn `turn` (from 0), with
        the learned stop. The learned stop ends a trajectory when the model first says "nothing to change". The passes
        for this last text of the model are counted."""
        rows, kept = np.arange(len(self.kept)), self.kept_by(turn)
        stop_text = self.table("text_passes")[rows, np.minimum(kept + 1, self.turns - 1)]
        return self.passes[rows, kept] + np.where(self.kept < turn, stop_text, 0)


def last_before_stop(stops: Bool[np.ndarray, "N T"]) -> Int[np.ndarray, "N"]:
    """Return one turn per trajectory, as an index from 0. `stops` is True in the turns in which the model stops. If the
    model stops in a trajectory, the result is the turn before its first stop. Otherwise, the result is the last turn.
    """
    return np.where(stops.any(1), stops.argmax(1) - 1, stops.shape[1] - 1)


def best_so_far(values: Float[np.ndarray, "N T"]) -> Int[np.ndarray, "N T"]:
    """For each trajectory and turn, find the best image up to and including this turn. Return the index (from 0) of the
    turn of this best image. `values` has the value of each image. If several images are equally good, the first of them
    counts as the best. A value that is not finite is worse than any other."""
    ranked = np.where(np.isfinite(values), values, -np.inf)
    return np.stack([ranked[:, : turn + 1].argmax(1) for turn in range(values.shape[1])], axis=1)


def regret(
    score: Float[np.ndarray, "N T"], kept: Int[np.ndarray, "N"], price: float
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """Return how much value each trajectory loses because it stops at turn `kept` (from 0) instead of at its best turn.
    The value of turn k (from 0) is the score of its image minus k times `price`, the price of one refinement. The best
    turn is the turn with the highest value.

    The result is a pair of arrays, each with one number per trajectory. The first has the loss of each trajectory. The
    second has only losses from stopping too early. Its number is 0 for every trajectory that did not stop before its
    best turn.
    """
    value = score - price * np.arange(score.shape[1])
    rows = np.arange(len(kept))
    lost = value.max(1) - value[rows, kept]
    return lost, np.where(value.argmax(1) > kept, lost, 0.0)


def share_at(arm: Arm, columns: Int[np.ndarray, "N"], of: Bool[np.ndarray, "N"] | None = None) -> Measure:
    return measures.share(arm.correct[np.arange(len(columns)), columns], arm.prompts, of)


def best_shares(arm: Arm, values: Float[np.ndarray, "N T"]) -> list[Measure]:
    """For each trajectory and turn, take the best image up to this turn. Return one share per turn: how many of these
    best images are right. `values` has one value for each image of `arm`, for example the score of a scorer. The image
    with the highest value is the best. `arm` has the results of one checkpoint. If a trajectory has no finite value up
    to a turn, it is left out of the share of this turn."""
    best, known = best_so_far(values), np.maximum.accumulate(np.isfinite(values), axis=1)
    return [share_at(arm, best[:, turn], known[:, turn]) for turn in range(arm.turns)]


def repair_and_damage(
    right: Bool[np.ndarray, "N T"], draws: Bool[np.ndarray, "N T"], prompts: Sequence[str]
) -> tuple[list[Measure], list[Measure]]:
    """Return two lists, repair and damage, each with one share for every turn after the first. `right[i, k]` is True if
    trajectory i has a right image after turn k. `draws[i, k]` is True if it draws a new image in turn k. `prompts` has
    the prompt id of each trajectory, which the intervals of the shares need.

    Repair is computed over the trajectories that were wrong before the turn and draw a new image in it. It is the share
    of them that is right after the turn. Damage is computed over all trajectories that were right before the turn. It
    is the share of them that is wrong after the turn. Trajectories that have stopped keep their right image. They are
    included, so stopping lowers the damage.
    """
    turns = range(1, right.shape[1])
    mended = [measures.share(right[:, k], prompts, ~right[:, k - 1] & draws[:, k]) for k in turns]
    broken = [measures.share(~right[:, k], prompts, right[:, k - 1]) for k in turns]
    return mended, broken


def _label(subject: str, training: str, history: str) -> str:
    return f"{subject} ({training and f'{training}, '}history {history})"


def _axis(arm: Arm) -> range:
    return range(1, arm.turns + 1)


def _compared(arms: dict[str, Arm], stamp: str) -> Plate | None:
    """Draw the accuracy by turn of all arms (checkpoint and history) in one panel (subplot). Return None if there is
    only one arm."""
    if len(arms) < 2:
        return None
    lines = [
        PlateLine(label, _axis(arm), [share_at(arm, arm.kept_by(turn)) for turn in range(arm.turns)])
        for label, arm in arms.items()
    ]
    caption = "With the learned stop: the image in hand after at most n turns, the same prompts and noise for all."
    return lines_plate("train-test", "Trained n against tested n", caption, stamp, {"": lines},
                       x_label="tested turns n at most", y_label="share right", whole_x=True)  # fmt: skip


def _accuracy(arms: dict[str, Arm], stamp: str) -> Plate:
    panels = {
        label: [
            PlateLine("always n turns", _axis(arm), [arm.accuracy(turn) for turn in range(arm.turns)]),
            PlateLine("learned stop", _axis(arm), [share_at(arm, arm.kept_by(turn)) for turn in range(arm.turns)]),
        ]
        for label, arm in arms.items()
    }
    told = "; ".join(f"{label} stops after {arm.renders:.2f} images on average" for label, arm in arms.items())
    caption = f"Turn 1 is the first image. {told}."
    return lines_plate("accuracy", "Accuracy by number of turns", caption, stamp, panels,
                       x_label="turns n (images per trajectory)", y_label="share right", whole_x=True)  # fmt: skip


def _best(arms: dict[str, Arm], stamp: str) -> Plate:
    panels = {}
    for label, arm in arms.items():
        lines = [PlateLine("last image", _axis(arm), [arm.accuracy(turn) for turn in range(arm.turns)])]
        ranked = {"best so far, verdict (oracle)": arm.score}
        ranked |= {f"best so far, {name.removeprefix(SCORED)}": arm.table(name) for name in arm.scorers}
        for number, (name, values) in enumerate(ranked.items(), 1):
            lines.append(PlateLine(name, _axis(arm), best_shares(arm, values), dashed=number == 1))
        panels[label] = lines
    caption = (
        "Always n turns; of the images so far the last is kept, or the one that the verdict itself (which nobody has) "
        "or a scorer ranks highest. The distance to the oracle is what a better choice would save."
    )
    return lines_plate("best-so-far", "Last image or the best so far", caption, stamp, panels,
                       x_label="turns n (images per trajectory)", y_label="share right", whole_x=True)  # fmt: skip


def _anytime(arms: dict[str, Arm], stamp: str) -> Plate:
    panels = {}
    for label, arm in arms.items():
        always = [measures.mean(arm.score[:, turn], arm.prompts) for turn in range(arm.turns)]
        rows = np.arange(len(arm.kept))
        learned = [measures.mean(arm.score[rows, arm.kept_by(turn)], arm.prompts) for turn in range(arm.turns)]
        panels[label] = [
            PlateLine("always n turns", arm.passes.mean(0), always),
            PlateLine("learned stop", [arm.spent(turn).mean() for turn in range(arm.turns)], learned),
        ]
    caption = (
        "Each point is one more turn. Passes: one per token and per denoising step, guidance branches counted; a stop "
        "costs the text that says it. Not counted: what is read and not drawn, the prompt and the "
        "image before each refinement."
    )
    return lines_plate("anytime", "Quality against compute", caption, stamp, panels,
                       x_label="forward passes per trajectory (mean)", y_label="mean score")  # fmt: skip


def _regret(arms: dict[str, Arm], prices: Sequence[float], stamp: str) -> Plate:
    panels = {}
    for label, arm in arms.items():
        lost = [regret(arm.score, arm.kept, price) for price in prices]
        always = [regret(arm.score, np.full(len(arm.kept), arm.turns - 1), price)[0] for price in prices]
        once = [regret(arm.score, np.zeros(len(arm.kept), int), price)[0] for price in prices]
        panels[label] = [
            PlateLine("learned stop", prices, [measures.mean(all_, arm.prompts) for all_, _ in lost]),
            PlateLine(
                "of it: stopped too early", prices, [measures.mean(early, arm.prompts) for _, early in lost], True, 0
            ),
            PlateLine(f"always {arm.turns} turns", prices, [measures.mean(values, arm.prompts) for values in always]),
            PlateLine("first image only", prices, [measures.mean(values, arm.prompts) for values in once]),
        ]
    caption = (
        "Score less the price of every edit, against the stop that knows all later images. 0 is perfect; the oracle "
        "gains from luck too, so it bounds every stop that could be learned."
    )
    return lines_plate("stop-regret", "What a stop gives away, by the price of an edit", caption, stamp, panels,
                       x_label="price of an edit (units of the score)", y_label="regret in units of the score",
                       from_zero=True)  # fmt: skip


def _transitions(arms: dict[str, Arm], stamp: str) -> Plate:
    panels = {}
    for label, arm in arms.items():
        lines = []
        for name, right, draws in (
            ("always", arm.correct, np.ones_like(arm.stops)), ("learned stop", arm.learned, ~arm.stopped),
        ):  # fmt: skip
            mended, broken = repair_and_damage(right, draws, arm.prompts)
            dashed, axis = name != "always", range(2, arm.turns + 1)
            lines.append(PlateLine(f"repair, {name}", axis, mended, dashed, 0))
            lines.append(PlateLine(f"damage, {name}", axis, broken, dashed, 1))
        panels[label] = lines
    caption = (
        "Repair: right after this turn, of the images that were wrong before it and were drawn again. Damage: wrong "
        "after this turn, of all images that were right before it, which a stop protects."
    )
    return lines_plate("repair-damage", "Repair and damage of each turn", caption, stamp, panels, x_label="turn",
                       y_label="share", whole_x=True, from_zero=True)  # fmt: skip


def _drift(arms: dict[str, Arm], stamp: str) -> Plate | None:
    panels = {}
    for label, arm in arms.items():
        lines = []
        change = arm.table("change")
        for name, asked in (("nothing to change", arm.stops), ("a change", ~arm.stops)):
            turns = range(1, arm.turns)
            found = [measures.mean(change[:, turn], arm.prompts, asked[:, turn]) for turn in turns]
            lines.append(PlateLine(f"drawn again under “{name}”", range(2, arm.turns + 1), found))
        panels[label] = lines
    right = [
        (label, measures.share(~arm.correct[:, 1:].ravel(), np.repeat(arm.prompts, arm.turns - 1).tolist(),
                               (arm.stops[:, 1:] & arm.correct[:, :-1]).ravel()))
        for label, arm in arms.items()
    ]  # fmt: skip
    told = "; ".join(f"{label}: {measures.words(measure)}" for label, measure in right)
    caption = (
        "Mean absolute difference to the image before, when the model draws again whatever it said. Right images that "
        f"a redrawing under “nothing to change” breaks: {told}."
    )
    return lines_plate("drift", "Drift under “nothing to change”", caption, stamp, panels, x_label="turn",
                       y_label="pixel change of 255", whole_x=True, from_zero=True)  # fmt: skip


def _by_constraints(arms: dict[str, Arm], stamp: str) -> Plate:
    panels = {}
    for label, arm in arms.items():
        number = arm.table("constraints")[:, 0]
        lines = []
        for count in sorted(set(number.tolist())):
            own = number == count
            found = [measures.share(arm.correct[:, turn], arm.prompts, own) for turn in range(arm.turns)]
            lines.append(PlateLine(f"{count} (n={int(own.sum())})", _axis(arm), found))
        panels[label] = lines
    caption = "Always n turns, by the number of constraints that the prompt names."
    return lines_plate("constraints", "Accuracy by number of constraints", caption, stamp, panels,
                       x_label="turns n (images per trajectory)", y_label="share right", whole_x=True)  # fmt: skip


def _by_turn(arms: dict[str, Arm]) -> TextTable:
    rows = []
    for label, arm in arms.items():
        over = range(arm.turns)
        own, first = arm.learned, arm.correct[:, 0]
        lines = {
            "always n: right": [arm.accuracy(turn) for turn in over],
            f"learned stop: right ({arm.renders:.2f} images)": [measures.share(own[:, k], arm.prompts) for k in over],
            "learned stop: images": [measures.mean(arm.kept_by(turn) + 1.0, arm.prompts) for turn in over],
            "always n: damage to a right first image": [
                measures.share(~arm.correct[:, turn], arm.prompts, first) for turn in over
            ],
            "learned stop: damage to a right first image": [
                measures.share(~own[:, turn], arm.prompts, first) for turn in over
            ],
        }
        rows += [[label, name, *map(measures.words, found)] for name, found in lines.items()]
        _, broken = repair_and_damage(own, ~arm.stopped, arm.prompts)
        name = "learned stop: damage of the turn, of all right before it"
        rows.append([label, name, "–", *map(measures.words, broken)])
        gained = [measures.gain(own[:, turn], arm.correct[:, turn], arm.prompts) for turn in over]
        rows.append([label, "learned stop − always n", *(measures.words(one, "+.3f") for one in gained)])
    note = "95 % intervals; the difference is paired over prompts."
    return TextTable("Train-n x test-n", ["checkpoint", "", *_headings(arms.values())], rows, note)


def _headings(arms: Iterable[Arm]) -> list[str]:
    return [f"n={turn + 1}" for turn in range(max(arm.turns for arm in arms))]


def _compared_in_pairs(places: dict[ArmKey, Arm]) -> list[TextTable]:
    """Return a list with one table: the differences in the share of right images between pairs of arms (checkpoint and
    history). The list is empty if there is only one arm."""
    rows = []
    for one, other in pairs(list(places)):
        mine, theirs = places[one], places[other]
        for name, right in (("always n", lambda arm: arm.correct), ("learned stop", lambda arm: arm.learned)):
            found = [
                measures.between(right(mine)[:, turn], mine.prompts, right(theirs)[:, turn], theirs.prompts)
                for turn in range(mine.turns)
            ]
            rows.append([_label(*one), _label(*other), name, *(measures.words(gain, "+.3f") for gain in found)])
    headings = ["share right of", "less that of", "", *_headings(places.values())]
    note = "Paired over the prompts that both have, 95 % bootstrap."
    return [TextTable("Differences", headings, rows, note)] if rows else []


def pairs(places: Sequence[ArmKey]) -> list[tuple[ArmKey, ArmKey]]:
    """Return the pairs of arms to compare. An arm is one checkpoint with one history (which earlier images and texts a
    refinement sees). `places` has the keys of all arms: (label of the checkpoint, how it was trained, history). The
    first checkpoint is the checkpoint in `places[0]`. There are two kinds of pairs:
    * For every checkpoint that has an arm with history `full` and an arm with history `last`: these two arms.
    * For every arm of a checkpoint other than the first: this arm, and the first checkpoint's arm with the same
      history. If there is no such arm, `places[0]` is used instead.
    """
    known = {(subject, history): (subject, training, history) for subject, training, history in places}
    first = places[0][0]
    found = [(place, known[place[0], "last"]) for place in places if place[2] == "full" and (place[0], "last") in known]
    further = [place for place in places if place[0] != first]
    return found + [(place, known.get((first, place[2]), places[0])) for place in further]


def _priced(arms: dict[str, Arm], prices: Sequence[float]) -> TextTable:
    turns = max(arm.turns for arm in arms.values())
    rows = []
    for label, arm in arms.items():
        for price in prices:
            value = arm.score - price * np.arange(arm.turns)
            kept = value[np.arange(len(arm.kept)), arm.kept]
            best = int(value.mean(0).argmax())
            rows.append([
                label, f"{price:g}", measures.words(measures.mean(kept, arm.prompts)),
                measures.words(measures.mean(value[:, -1], arm.prompts)),
                f"n={best + 1}: {measures.words(measures.mean(value[:, best], arm.prompts))}",
                measures.words(measures.mean(value.max(1), arm.prompts)),
            ])  # fmt: skip
    columns = ["checkpoint", "price of an edit", "learned stop", f"always {turns}", "best fixed n", "oracle stop"]
    return TextTable("Score less the price of edits", columns, rows, "Bootstrap over prompts.")
