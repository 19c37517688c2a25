"""Decides from the logged metrics whether RL learns. This is known earlier than the result of an evaluation.

It checks three things in the rows of stage `rl` of metrics.jsonl. Do the rewards within a group of samples differ by
more than the judge's noise, so that there is something to learn? Does the mean reward of all sampled groups rise? Do
the weights change?

Letter in shapes: K updates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np
from jaxtyping import Float

from irg_rl.evaluate.intervals import LEVEL, Measure, t_quantile

SPREAD, DRAWN, STEP = "drawn/spread", "drawn/last", "step/largest"
"""Names of three logged scalars. A group has several samples of one prompt. `drawn/spread`: the share of sampled groups
whose rewards differ by more than the judge's noise, if this noise is known. `drawn/last`: the mean reward of the last
images of all sampled groups. `step/largest`: the largest |dw| / |w| of a parameter tensor since RL began."""
FEW_SPREAD = 0.2
"""If the share of groups with different rewards is smaller than this, an update has almost nothing to learn from."""
SMALL_STEP = 1e-4
"""If the largest |dw| / |w| is smaller than this, no weight has changed enough to change images or texts."""
ENOUGH = 8
"""Smallest number of updates from which a slope of the reward is trusted."""

MetricsRow = Mapping[str, float | None]


@dataclass(frozen=True)
class Learning:
    """What the logged metrics of RL show. `updates` is the number of logged updates. `spread` is the mean share of
    groups in which the rewards differ. (A group has several samples of one prompt.) `slope` is the change of the mean
    reward per update, with its confidence interval. `step` is the largest relative change of a weight tensor since
    training began. A field is None (or nan) if it was not logged."""

    updates: int
    spread: float | None
    slope: Measure
    step: float | None

    @property
    def alarmed(self) -> bool:
        """True if there is a reason to doubt that RL learns: the samples of a prompt hardly differ in reward, the
        weights hardly change, or the reward does not rise."""
        return bool(self.reasons)

    @property
    def reasons(self) -> list[str]:
        """The reasons to doubt that RL learns, one text each. Each text also says what to check."""
        found = []
        if self.spread is not None and self.spread < FEW_SPREAD:
            found.append(
                f"only {self.spread:.0%} of the groups have a spread in reward beyond the judge's noise: look at "
                "prompts of other difficulty, larger groups, a judge with less noise"
            )
        if self.step is not None and self.step < SMALL_STEP:
            found.append(
                f"the largest step so far is {self.step:.1e} of the weights' size: look at rl.optimizer.lr, its "
                "warm-up and schedule, rl.ema_decay and the clipping of gradients"
            )
        if self.updates >= ENOUGH and isfinite(self.slope.high) and self.slope.high <= 0:
            found.append("the drawn reward falls: look at a smaller rate, at KL and at the rewards' shares")
        elif self.updates >= ENOUGH and isfinite(self.slope.low) and self.slope.low <= 0:
            found.append("the drawn reward cannot be told from a flat line: look at more updates and a larger rate")
        return found

    @property
    def sentence(self) -> str:
        """One sentence that says whether RL is learning and, if not, why."""
        if self.updates < ENOUGH:
            return f"Too early to tell: {self.updates} updates, {ENOUGH} are asked."
        if not isfinite(self.slope.value):
            return "It cannot be told whether RL learns: the drawn reward was not logged."
        if not self.reasons:
            return "RL is learning: the drawn reward rises."
        head = "RL learns, but" if self.slope.low > 0 else "RL is not shown to learn:"
        return f"{head} {'; '.join(self.reasons)}."

    def to_dict(self) -> dict:
        """Return all findings as a dict that can be written as JSON, for the report. `alarmed` is null if there are too
        few updates or if the reward was not logged."""
        told = self.updates >= ENOUGH and isfinite(self.slope.value)
        return {
            "kind": "learning",
            "updates": self.updates,
            "spread": self.spread,
            "slope": self.slope.to_dict(),
            "step": self.step,
            "alarmed": self.alarmed if told else None,
            "sentence": self.sentence,
        }


def learning(rows: Sequence[MetricsRow]) -> Learning:
    """Return what the logged metrics of RL show: whether samples of one prompt differ in reward, whether the reward
    rises, and whether the weights change. `rows` are lines of metrics.jsonl, in the order of the updates. They must not
    contain lines of other stages than RL."""
    spread, step = _logged(rows, SPREAD), _logged(rows, STEP)
    return Learning(
        updates=len(rows),
        spread=float(np.mean(spread)) if len(spread) else None,
        slope=slope(_logged(rows, DRAWN)),
        step=float(step[-1]) if len(step) else None,
    )


def slope(values: Float[np.ndarray, "K"], level: float = LEVEL) -> Measure:
    """Return the least-squares slope of the series `values` over its index 0, 1, 2, ..., as a value with a confidence
    interval. The interval allows for autocorrelation.

    Let x_k be the centred index, s = sum_k x_k^2, e_k the residuals, and r the correlation between neighbouring
    residuals. The K values count as K' independent ones (Santer et al. 2000, section 3.3; r is corrected for the bias
    of a fitted line):

        K' = K (1 - r') / (1 + r'),   r' = r + (2 + 4 r) / K,  0 <= r' <= .95
        V = sum_k e_k^2 / ((K' - 2) s)

    V is the variance of the slope. Student's t has K' - 2 degrees of freedom. With fewer than ENOUGH values there is no
    interval.
    """
    count = len(values)
    if count < 2:
        return Measure(float("nan"), count)
    x = np.arange(count) - (count - 1) / 2
    size = float(x @ x)
    value = float(x @ values) / size
    if count < ENOUGH:
        return Measure(value, count)
    left = values - values.mean() - value * x
    squares = float(left @ left)
    alike = float(left[1:] @ left[:-1]) / squares if squares > 0 else 0.0
    alike = min(max(alike + (2 + 4 * alike) / count, 0.0), 0.95)
    worth = max(count * (1 - alike) / (1 + alike), 3.0)
    half = t_quantile(level, int(worth) - 2) * sqrt(squares / ((worth - 2) * size))
    return Measure(value, count, value - half, value + half)


def _logged(rows: Sequence[MetricsRow], name: str) -> Float[np.ndarray, "K"]:
    """Return the values of the scalar `name` in the order of the rows. Rows in which it is missing or not finite are
    left out."""
    found = [row.get(name) for row in rows]
    return np.array([value for value in found if value is not None and isfinite(value)], dtype=float)
