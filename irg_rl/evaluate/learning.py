"""Whether RL is learning, from the rows that it logs: an alarm before an evaluation could say so.

Three things are asked of the rows of stage `rl` in metrics.jsonl. Do groups differ in reward by more than the judge's
noise, so that there is anything to learn from? Does the reward of all drawn groups rise? Did the weights move at all?

Shape letter: K updates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np
from jaxtyping import Float

from irg_rl.evaluate.intervals import LEVEL, Measure, t_quantile

SPREAD, DRAWN, STEP = "drawn/spread", "drawn/last", "step/largest"
"""Share of drawn groups with a spread beyond the judge's noise, as far as credit knows that noise; mean reward of the
last images of all drawn groups; largest |dw| / |w| of a parameter tensor since RL began."""
FEW_SPREAD = 0.2
"""Share of groups with spread below which an update learns from next to nothing."""
SMALL_STEP = 1e-4
"""|dw| / |w| below which no weight has moved enough to change what is drawn or said."""
ENOUGH = 8
"""Updates before a slope is judged."""

MetricsRow = Mapping[str, float | None]


@dataclass(frozen=True)
class Learning:
    """What the rows say. `slope`: reward per update; None where something was not logged."""

    updates: int
    spread: float | None
    slope: Measure
    step: float | None

    @property
    def alarmed(self) -> bool:
        """Nothing to learn from, weights that do not move, or a reward that does not rise."""
        return bool(self.reasons)

    @property
    def reasons(self) -> list[str]:
        """What speaks against learning, and what to look at."""
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
        """The verdict for a reader."""
        if self.updates < ENOUGH:
            return f"Too early to tell: {self.updates} updates, {ENOUGH} are asked."
        if not isfinite(self.slope.value):
            return "It cannot be told whether RL learns: the drawn reward was not logged."
        if not self.reasons:
            return "RL is learning: the drawn reward rises."
        head = "RL learns, but" if self.slope.low > 0 else "RL is not shown to learn:"
        return f"{head} {'; '.join(self.reasons)}."

    def to_dict(self) -> dict:
        """Plain JSON for the report; `alarmed` is null while nothing can be said."""
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
    """What the logged rows of RL say, in order of updates; rows of other stages do not belong here."""
    spread, step = _logged(rows, SPREAD), _logged(rows, STEP)
    return Learning(
        updates=len(rows),
        spread=float(np.mean(spread)) if len(spread) else None,
        slope=slope(_logged(rows, DRAWN)),
        step=float(step[-1]) if len(step) else None,
    )


def slope(values: Float[np.ndarray, "K"], level: float = LEVEL) -> Measure:
    """Least-squares slope of a series on its index, and an interval that allows for neighbours that are alike.

    With the centred index x_k, s = sum x^2, residuals e_k and their correlation r between neighbours, K values are
    worth K' independent ones (Santer et al. 2000, section 3.3; r corrected for the bias of a fitted line):

        K' = K (1 - r') / (1 + r'),   r' = r + (2 + 4 r) / K,  0 <= r' <= .95
        V = sum e^2 / ((K' - 2) s)

    Student's t takes K' - 2 degrees of freedom. Below ENOUGH values there is no interval.
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
    """The values of a scalar where it was logged and finite."""
    found = [row.get(name) for row in rows]
    return np.array([value for value in found if value is not None and isfinite(value)], dtype=float)
