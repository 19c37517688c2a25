"""Compute the means, the standard deviations and the normalisation of a group's values."""

from collections.abc import Sequence
from math import fsum, sqrt
from typing import Protocol

ROUNDING = 1e-9
"""Differences between values that are smaller than this number are treated as rounding errors. Dividing by such small
differences would give large advantages without a reason.
"""


class Normalisation(Protocol):
    """The options that the normalisation of values reads: `std_floor`, `mean_only` and `advantage_clip`. The class
    `NormalisedOptions` explains them."""

    @property
    def std_floor(self) -> float: ...
    @property
    def mean_only(self) -> bool: ...
    @property
    def advantage_clip(self) -> float | None: ...


def mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)


def moments(values: Sequence[float], ddof: int = 0) -> tuple[float, float]:
    """Return (mean, standard deviation). The standard deviation is 0 if there are at most `ddof` values, or if all
    values are equal up to rounding.
    """
    if not values:
        return 0.0, 0.0
    middle = mean(values)
    if len(values) <= ddof or max(values) - min(values) <= ROUNDING:
        return middle, 0.0
    return middle, sqrt(fsum((value - middle) ** 2 for value in values) / (len(values) - ddof))


def normalise(
    values: Sequence[float],
    *,
    floor: float = 0.0,
    eps: float = 0.0,
    ddof: int = 0,
    mean_only: bool = False,
    clip: float | None = None,
) -> list[float]:
    """Return (x - mean) / max(std + eps, floor) for each value x, clipped to [-clip, clip]. Equal values, or a single
    value, give 0. The result does not depend on the order of the values.

    `ddof` and `eps` exist because reference implementations differ (trl: ddof 1, + 1e-4; Flow-Factory: ddof 0, floor
    1e-6). With `mean_only`, the values are centred but not divided.
    """
    middle, std = moments(values, ddof)
    scale = 1.0 if mean_only else max(std + eps, floor)
    out = [(value - middle) / scale if std else 0.0 for value in values]
    return out if clip is None else [max(-clip, min(clip, value)) for value in out]


def normalised(values: Sequence[float], options: Normalisation) -> list[float]:
    """Centre the values, divide them by their standard deviation and clip them. The options say whether they are only
    centred, how small the divisor may be, and at which limit they are clipped. Return the new values."""
    return normalise(
        values, floor=options.std_floor, mean_only=options.mean_only, clip=options.advantage_clip
    )


def scaled(centred: Sequence[float], options: Normalisation) -> list[float]:
    """Do the same as `normalised`, but without centring. Use it for values from which a leave-one-out baseline was
    already subtracted, because centring would undo that.
    """
    std = moments(centred)[1]
    scale = 1.0 if options.mean_only or not std else max(std, options.std_floor)
    bound = float("inf") if options.advantage_clip is None else options.advantage_clip
    return [max(-bound, min(bound, value / scale)) for value in centred]


def slope(q: Sequence[float], y: Sequence[float]) -> float:
    """Return the least-squares slope of y on q, clipped to [0, 1]. The slope is 1 if q has fewer than 3 different
    values, or if its values differ only by rounding. With the slope 1, subtracting the prediction is the same as taking
    y - q.
    """
    if len(set(q)) < 3:
        return 1.0
    mean_q, mean_y = mean(q), mean(y)
    spread = fsum((a - mean_q) ** 2 for a in q)
    if not spread:
        return 1.0
    found = fsum((a - mean_q) * (b - mean_y) for a, b in zip(q, y)) / spread
    return max(0.0, min(1.0, found))
