"""The measures of an evaluation, such as accuracy, repair and damage. They are computed from a table of outcomes. Each
function returns a measure as `Terms`, a ratio of two sums. Its value and its interval can be computed from these sums.
`summarize` returns all measures as JSON for the report.

A table has the outcomes of one arm. An arm is one way to continue from the same first images: the model's own
refinement, or a control. Turn 0 is the first image. `repair` and `damage` at turn k compare the image at turn k with
the first image. Always compare them with the same measures of the controls. A plain new draw also repairs some images,
because it is right as often as any first image.
"""

from collections.abc import Callable

import numpy as np

from irg_rl.evaluate import intervals
from irg_rl.evaluate.intervals import Terms
from irg_rl.evaluate.outcomes import Outcomes

Metric = Callable[[Outcomes, int], Terms]


def accuracy(outcomes: Outcomes, turn: int) -> Terms:
    """Return the share of images that are right at turn `turn` (0: first image), as a ratio of two sums (`Terms`).
    Images without a verdict are left out."""
    return _terms(outcomes, outcomes.correct[:, turn], outcomes.known[:, turn])


def balanced_accuracy(outcomes: Outcomes, turn: int) -> Terms:
    """Return the mean over tasks (kinds of prompt) of the accuracy at turn `turn`, as a ratio of two sums (`Terms`).
    Every task has the same weight, however many prompts it has. Images without a verdict are left out. Tasks with fewer
    than two sets of constraints are left out, too, because the error of their accuracy cannot be estimated.

    The tasks are fixed, so differences between tasks must not count as random errors. Therefore each verdict (1 right,
    0 wrong) is changed in two ways. The accuracy of the image's task is subtracted, and the mean accuracy of all tasks
    is added. The balanced accuracy does not change, and its error contains only differences within tasks
    (stratification).
    """
    known, correct = outcomes.known[:, turn], outcomes.correct[:, turn]
    weights, own = np.zeros(len(outcomes)), np.zeros(len(outcomes))
    for task in sorted(set(outcomes.tasks)):
        rows = known & np.array([name == task for name in outcomes.tasks])
        if len({outcomes.sets[row] for row in np.flatnonzero(rows)}) > 1:
            weights[rows], own[rows] = 1.0 / rows.sum(), correct[rows].mean()
    overall = float((weights * correct).sum() / weights.sum()) if weights.any() else 0.0
    return Terms(weights * (correct - own + overall), weights, outcomes.sets)


def missing(outcomes: Outcomes, turn: int) -> Terms:
    """Return the share of images at turn `turn` that have no verdict (right or wrong), as a ratio of two sums
    (`Terms`)."""
    return _terms(outcomes, ~outcomes.known[:, turn], np.ones(len(outcomes)))


def score(outcomes: Outcomes, turn: int) -> Terms:
    """Return the mean score of the images at turn `turn`, as a ratio of two sums (`Terms`). Images without a verdict
    are left out."""
    return _terms(outcomes, np.nan_to_num(outcomes.score[:, turn]), outcomes.known[:, turn])


def repair(outcomes: Outcomes, turn: int) -> Terms:
    """Return P(image right at turn `turn` | first image wrong), as a ratio of two sums (`Terms`)."""
    wrong = ~outcomes.correct[:, 0] & outcomes.known[:, 0] & outcomes.known[:, turn]
    return _terms(outcomes, wrong & outcomes.correct[:, turn], wrong)


def damage(outcomes: Outcomes, turn: int) -> Terms:
    """Return P(image wrong at turn `turn` | first image right), as a ratio of two sums (`Terms`)."""
    right = outcomes.correct[:, 0] & outcomes.known[:, turn]
    return _terms(outcomes, right & ~outcomes.correct[:, turn], right)


def stop_rate(outcomes: Outcomes, turn: int) -> Terms:
    """Return the share of trajectories that ended with "nothing to change" at or before turn `turn`, as a ratio of two
    sums (`Terms`)."""
    return _terms(outcomes, outcomes.stopped[:, turn], np.ones(len(outcomes)))


def stop_when_right(outcomes: Outcomes, turn: int) -> Terms:
    """Return P(model stops at turn `turn` | previous image right, not stopped before), as a ratio of two sums
    (`Terms`). In these cases it is right to stop."""
    return _stops(outcomes, turn, outcomes.correct[:, turn - 1])


def stop_when_wrong(outcomes: Outcomes, turn: int) -> Terms:
    """Return P(model stops at turn `turn` | previous image wrong, not stopped before), as a ratio of two sums
    (`Terms`). In these cases the model overlooks defects."""
    return _stops(outcomes, turn, ~outcomes.correct[:, turn - 1] & outcomes.known[:, turn - 1])


def reflection_accuracy(outcomes: Outcomes, turn: int) -> Terms:
    """Return the share of reflections at turn `turn` that state the defects of the previous image correctly, as a ratio
    of two sums (`Terms`)."""
    said = np.isfinite(outcomes.reflection_correct[:, turn])
    return _terms(outcomes, np.nan_to_num(outcomes.reflection_correct[:, turn]), said)


def reward(outcomes: Outcomes, turn: int, name: str) -> Terms:
    """Return the mean score that the scorer `name` gave to the images at turn `turn`, as a ratio of two sums (`Terms`).
    Images for which the scorer failed are left out."""
    values = outcomes.rewards[name][:, turn]
    return _terms(outcomes, np.nan_to_num(values), np.isfinite(values))


def preference(outcomes: Outcomes) -> Terms:
    """Return the judge's mean preference for the last image of a trajectory over the first image, as a ratio of two
    sums (`Terms`). 1 means that the judge always prefers the last image, 0 that it always prefers the first. The judge
    has compared each pair in both orders. Trajectories with only one image are left out."""
    return _terms(outcomes, np.nan_to_num(outcomes.preference), np.isfinite(outcomes.preference))


def order_consistency(outcomes: Outcomes) -> Terms:
    """Return the share of image pairs for which the judge chose the same image in both orders, as a ratio of two sums
    (`Terms`). If this share is high, the order of the images hardly matters, and the judge's preference is reliable."""
    return _terms(outcomes, np.nan_to_num(outcomes.consistent), np.isfinite(outcomes.consistent))


def summarize(outcomes: Outcomes) -> dict:
    """Return all measures of one arm of an evaluation, as a dict that can be written as JSON. An arm is one way to
    continue from the same first images: the model's own refinement, or a control. Lists have one entry per turn."""
    turns = range(outcomes.turns)
    later = range(1, outcomes.turns)

    def share(metric: Metric, over: range) -> list[dict]:
        return [intervals.proportion(metric(outcomes, turn)).to_dict() for turn in over]

    def average(terms: Terms) -> dict:
        return intervals.mean(terms).to_dict()

    return {
        "arm": outcomes.arm,
        "seed": outcomes.seed,
        "n": len(outcomes),
        "prompts": len(set(outcomes.prompt_ids)),
        "sets": len(set(outcomes.sets)),
        "turns": outcomes.turns,
        "renders": outcomes.renders,
        "missing": [] if outcomes.known.all() else share(missing, turns),
        "accuracy": share(accuracy, turns),
        "balanced_accuracy": [average(balanced_accuracy(outcomes, turn)) for turn in turns],
        "score": [average(score(outcomes, turn)) for turn in turns],
        "repair": [None, *share(repair, later)],
        "damage": [None, *share(damage, later)],
        "stop_rate": [None, *share(stop_rate, later)],
        "stop_when_right": [None, *share(stop_when_right, later)],
        "stop_when_wrong": [None, *share(stop_when_wrong, later)],
        "reflection_accuracy": [None, *share(reflection_accuracy, later)],
        "preference": average(preference(outcomes)),
        "order_consistency": intervals.proportion(order_consistency(outcomes)).to_dict(),
        "rewards": {name: [average(reward(outcomes, turn, name)) for turn in turns] for name in outcomes.rewards},
        "tasks": {task: _task(outcomes, task) for task in sorted(set(outcomes.tasks))},
    }


def _task(outcomes: Outcomes, task: str) -> dict:
    rows = outcomes.take(np.array([t == task for t in outcomes.tasks]))
    last = rows.turns - 1

    return {
        "n": len(rows),
        "sets": len(set(rows.sets)),
        "accuracy": [intervals.proportion(accuracy(rows, turn)).to_dict() for turn in range(rows.turns)],
        "score": [intervals.mean(score(rows, turn)).to_dict() for turn in range(rows.turns)],
        "repair": intervals.proportion(repair(rows, last)).to_dict(),
        "damage": intervals.proportion(damage(rows, last)).to_dict(),
    }


def _stops(outcomes: Outcomes, turn: int, in_hand: np.ndarray) -> Terms:
    asked = in_hand & ~outcomes.stopped[:, turn - 1]
    return _terms(outcomes, asked & outcomes.stopped[:, turn], asked)


def _terms(outcomes: Outcomes, top: np.ndarray, bottom: np.ndarray) -> Terms:
    return Terms(np.asarray(top, dtype=float), np.asarray(bottom, dtype=float), outcomes.sets)
