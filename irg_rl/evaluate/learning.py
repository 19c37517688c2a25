"""Decides from logged metrics whether RL learns, earlier than an evaluation could.

It checks the rows of stage `rl` in metrics.jsonl for three things. Do the rewards in a group differ by more than the
judge's noise, so that there is something to learn? Does the reward of all drawn groups rise? Do the weights change?

Shape letter: K updates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np
from jaxtyping import Float

from irg_rl.evaluate.intervals import LEVEL, Measure, t_quantile

SPREAD, DRAWN, STEP = "drawn/spread", "drawn/last", "step/largest"
"""Names of three scalars: share of drawn groups whose spread exceeds the judge's noise, if credit knows that noise;
mean reward of the last images of all drawn groups; largest |dw| / |w| of a parameter tensor since RL began."""
FEW_SPREAD = 0.2
"""With a smaller share of groups with spread, an update has almost nothing to learn from."""
SMALL_STEP = 1e-4
"""With a smaller |dw| / |w|, no weight has changed enough to change images or texts."""
ENOUGH = 8
"""Number of updates before a slope is judged."""

MetricsRow = Mapping[str, float | None]


@dataclass(frozen=True)
class Learning:
    """Results from the rows. `slope`: change of the reward per update. None: it was not logged."""

    updates: int
    spread: float | None
    slope: Measure
    step: float | None

    @property
    def alarmed(self) -> bool:
        """True if there is nothing to learn from, if weights do not change, or if the reward does not rise."""
        return bool(self.reasons)

    @property
    def reasons(self) -> list[str]:
        """Reasons for the alarm, and what to check."""
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
        """The result as a sentence."""
        if self.updates < ENOUGH:
            return f"Too early to tell: {self.updates} updates, {ENOUGH} are asked."
        if not isfinite(self.slope.value):
            return "It cannot be told whether RL learns: the drawn reward was not logged."
        if not self.reasons:
            return "RL is learning: the drawn reward rises."
        head = "RL learns, but" if self.slope.low > 0 else "RL is not shown to learn:"
        return f"{head} {'; '.join(self.reasons)}."

    def to_dict(self) -> dict:
        """Plain JSON for the report; `alarmed` is null if there are too few updates."""
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
    """Results from the logged rows of RL, in the order of updates. They must not contain rows of other stages."""
    spread, step = _logged(rows, SPREAD), _logged(rows, STEP)
    return Learning(
        updates=len(rows),
        spread=float(np.mean(spread)) if len(spread) else None,
        slope=slope(_logged(rows, DRAWN)),
        step=float(step[-1]) if len(step) else None,
    )


def slope(values: Float[np.ndarray, "K"], level: float = LEVEL) -> Measure:
    """Least-squares slope of a series on its index, with an interval that allows for autocorrelation.

    With the centred index x_k, s = sum x^2, residuals e_k and their correlation r between neighbours, K values count as
    K' independent ones (Santer et al. 2000, section 3.3; r corrected for the bias of a fitted line):

        K' = K (1 - r') / (1 + r'),   r' = r + (2 + 4 r) / K,  0 <= r' <= .95
        V = sum e^2 / ((K' - 2) s)

    Student's t has K' - 2 degrees of freedom. With fewer than ENOUGH values there is no interval.
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
    """All logged finite values of a scalar."""
    found = [row.get(name) for row in rows]
    return np.array([value for value in found if value is not None and isfinite(value)], dtype=float)
