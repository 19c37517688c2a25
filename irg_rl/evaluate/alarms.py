"""The alarms of RL, computed from its logged metrics. They need nothing else. So a run that resumes and the report get
the same alarms from metrics.jsonl.

An alarm compares two windows of updates: the first ones of the run, and the latest ones. The unit is the update. All
groups of an update count as one number, because they share weights. With the values x_1..x_B of the first window and
y_1..y_W of the latest one (Welch 1947, "The generalization of Student's problem"):

    d = mean(y) - mean(x),   s^2 = var(x) / B + var(y) / W
    df = s^4 / ((var(x) / B)^2 / (B - 1) + (var(y) / W)^2 / (W - 1))

A drift rings if |d| reaches the threshold and the interval d -+ t(LEVEL, df) s does not contain 0. A held-out scorer
rings if -d / s reaches the threshold and is above t(LEVEL_HELD_OUT, df), while d / s of the reward is at least RISEN.

Letters in shapes: B first updates, W latest updates.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite, sqrt
from typing import Any, Literal

import numpy as np

from irg_rl.config.alarms import FEWEST, Alarm, AlarmsRecipe
from irg_rl.evaluate.intervals import t_quantile
from irg_rl.evaluate.learning import SPREAD

LEVEL = 0.999
"""Confidence level of the interval of a drift. It is high because every update looks again."""
LEVEL_HELD_OUT = 0.99
"""The same for a held-out scorer, whose threshold counts standard errors."""
RISEN = 2.0
"""Smallest rise of the reward, in standard errors, that counts as a rise."""
ROUNDING = 1e-9
"""A difference that is not larger than this is a rounding error."""
HELD_OUT = "held_out/"
"""Beginning of the names of the metrics with the scores of held-out scorers."""
REWARD = "drawn/reward"
"""Name of the metric with the mean reward of all drawn groups."""

LoggedRow = Mapping[str, Any]


@dataclass(frozen=True)
class Signal:
    """What an alarm watches. `metric` is the name of a logged number, and `words` says what it is. `way` is the
    direction of a change that matters. If `relative` is true, the change is divided by the value at the beginning.
    `advice` says what a person should do."""

    metric: str
    words: str
    way: Literal["rise", "fall", "both"]
    relative: bool
    advice: str


_LOOK = "look at drawn images of early and late updates (rl.dump_every and `irg-rl show`), and at what the reward likes"
_READ = "read drawn texts of early and late updates (rl.dump_every and `irg-rl show`)"
_NARROW = "the policy narrows: a smaller learning rate, rl.kl_image or rl.kl_text, or stop here"
SIGNALS: Mapping[str, Signal] = {
    "no_spread": Signal(
        SPREAD, "the share of groups without spread", "rise", False,
        "choose prompts of other difficulty, larger groups, or a finer reward",
    ),
    "dark_share": Signal("drawn/dark_share", "the dark share of images", "both", False, _LOOK),
    "edge_density": Signal("drawn/edge_density", "the edge density of images", "both", True, _LOOK),
    "colour_entropy": Signal("drawn/colour_entropy", "the colour entropy of images", "both", True, _LOOK),
    "sharpness": Signal("drawn/sharpness", "the sharpness of images", "both", True, _LOOK),
    "text_length": Signal("drawn/text_length", "the length of texts in tokens", "both", True, _READ),
    "repetition": Signal("drawn/repetition", "the repeated share of texts", "rise", False, _READ),
    "prompt_copies": Signal("drawn/prompt_copies", "the share of texts copied from the prompt", "rise", False, _READ),
    "image_diversity": Signal("drawn/image_diversity", "the distance between siblings' images", "fall", True, _NARROW),
    "text_diversity": Signal("drawn/text_diversity", "the share of different reflections", "fall", False, _NARROW),
}  # fmt: skip
"""Name of each alarm in `rl.alarms` -> what it watches. Not here is `held_out`, which watches several metrics."""
_HACKED = (
    "the reward may be hacked: look at drawn images and texts, keep an earlier checkpoint, and give the held-out "
    "scorer a part in the reward"
)


@dataclass(frozen=True)
class AlarmState:
    """An alarm after an update. `before` and `now` are the means of the metric over the first and the latest updates.
    `value` is their difference in the unit of the threshold. `rings` says whether the alarm rings. `begins` says
    whether it has not rung for a window of updates before. `advice` says what a person should do."""

    alarm: str
    metric: str
    words: str
    update: int
    before: float
    now: float
    value: float
    settings: Alarm
    rings: bool
    advice: str
    begins: bool = False

    @property
    def sentence(self) -> str:
        """One sentence that says what happened, and what to do."""
        way = "rose" if self.now > self.before else "fell"
        unit = " standard errors" if self.alarm == "held_out" else ""
        return (
            f"alarm at update {self.update}: {self.words} {way} from {self.before:.3g} to {self.now:.3g} "
            f"({self.value:+.2f}{unit}, rl.alarms.{self.alarm}.threshold is {self.settings.threshold:g}): {self.advice}"
        )


@dataclass(frozen=True)
class WindowDifference:
    """The difference of the means of two windows of updates, with its standard error and its degrees of freedom. The
    docstring of this module has the formulas."""

    before: float
    now: float
    error: float
    df: int

    @classmethod
    def between(cls, first: Sequence[float], latest: Sequence[float]) -> "WindowDifference":
        """Return the difference between the values `first` and the values `latest`, with at least two values each."""
        x, y = np.asarray(first, float), np.asarray(latest, float)
        parts = float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)
        squares = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (x, y)))
        df = sum(parts) ** 2 / squares if squares > 0 else len(x) + len(y) - 2
        return cls(float(x.mean()), float(y.mean()), sqrt(sum(parts)), max(int(df), 1))

    @property
    def change(self) -> float:
        return self.now - self.before

    @property
    def errors(self) -> float:
        """Return the change in standard errors. It is 0 if the change is a rounding error."""
        if abs(self.change) <= ROUNDING:
            return 0.0
        return self.change / self.error if self.error > 0 else inf * self.change

    def is_clear(self, level: float) -> bool:
        """Return whether the confidence interval of the change does not contain 0."""
        return abs(self.errors) > t_quantile(level, self.df)


class Watch:
    """All alarms of a run. Call `see` with the metrics of every update, in their order. It depends on nothing else."""

    def __init__(self, settings: AlarmsRecipe):
        self.settings = settings
        self.first: dict[str, list[float]] = {}  # metric -> its first values
        self.latest: dict[str, deque[float]] = {}  # metric -> its latest values; the first ones are not among them
        self.rang: dict[tuple[str, str], int] = {}  # alarm and metric -> last update after which it rang

    def see(self, update: int, row: LoggedRow) -> list[AlarmState]:
        """Take the metrics of update number `update`. Return the states of all alarms that have enough values. Alarms
        with `do: off` have no state. A value that is missing, null or nan is left out."""
        watched = {signal.metric for signal in SIGNALS.values()} | {REWARD}
        for metric, value in row.items():
            if (metric in watched or metric.startswith(HELD_OUT)) and value is not None and isfinite(value):
                self._add(metric, float(value))
        found = [state for name in self.settings.alarms for state in self._states(name, update)]
        return [self._with_begin(state) for state in found]

    def _add(self, metric: str, value: float) -> None:
        first = self.first.setdefault(metric, [])
        latest = self.latest.setdefault(metric, deque(maxlen=self.settings.window))
        (first if len(first) < self.settings.baseline else latest).append(value)

    def _states(self, name: str, update: int) -> list[AlarmState]:
        settings = self.settings.alarms[name]
        if settings.do == "off":
            return []
        if name == "held_out":
            metrics = sorted(metric for metric in self.first if metric.startswith(HELD_OUT))
            return [state for metric in metrics if (state := self._held_out(metric, update, settings)) is not None]
        state = self._drift(name, SIGNALS[name], update, settings)
        return [] if state is None else [state]

    def _difference(self, metric: str) -> WindowDifference | None:
        """Return the difference between the two windows of a metric, or None if there are too few values."""
        if len(self.latest.get(metric, ())) < FEWEST:
            return None
        return WindowDifference.between(self.first[metric], list(self.latest[metric]))

    def _held_out(self, metric: str, update: int, settings: Alarm) -> AlarmState | None:
        found, reward = self._difference(metric), self._difference(REWARD)
        if found is None or reward is None:
            return None
        falls = -found.errors >= settings.threshold and found.is_clear(LEVEL_HELD_OUT)
        words = f"the reward rose from {reward.before:.3g} to {reward.now:.3g}, but the held-out scorer "
        return AlarmState(
            "held_out", metric, words + metric.removeprefix(HELD_OUT), update, found.before, found.now, found.errors,
            settings, falls and reward.errors >= RISEN, _HACKED,
        )  # fmt: skip

    def _drift(self, name: str, signal: Signal, update: int, settings: Alarm) -> AlarmState | None:
        found = self._difference(signal.metric)
        if found is None:
            return None
        if name == "no_spread":  # the share itself matters, whatever it was at the beginning
            before, now = 1 - found.before, 1 - found.now
            value, rings = now, now >= settings.threshold
        else:
            before, now, value = found.before, found.now, found.change
            if signal.relative:
                value = value / abs(before) if abs(before) > ROUNDING else 0.0
            size = {"rise": value, "fall": -value, "both": abs(value)}[signal.way]
            rings = size >= settings.threshold and found.is_clear(LEVEL)
        return AlarmState(
            name, signal.metric, signal.words, update, before, now, value, settings, rings, signal.advice
        )

    def _with_begin(self, state: AlarmState) -> AlarmState:
        """Return the state with `begins` filled in. If the alarm rings, remember it."""
        if not state.rings:
            return state
        key = state.alarm, state.metric
        begins = state.update - self.rang.get(key, -self.settings.window - 1) > self.settings.window
        self.rang[key] = state.update
        return replace(state, begins=begins)


def metrics_of(states: Sequence[AlarmState]) -> dict[str, float]:
    """Return what is logged about the alarms after an update: `alarm/NAME`, the change as a multiple of its threshold,
    and `alarm/ringing`, the number of alarms that ring. The change of a held-out scorer is positive if it falls."""
    logged = {}
    for state in states:
        name = state.metric if state.alarm == "held_out" else state.alarm
        sign = -1.0 if state.alarm == "held_out" else 1.0
        logged[f"alarm/{name}"] = sign * state.value / state.settings.threshold
    return logged | {"alarm/ringing": float(sum(state.rings for state in states))} if states else {}


def beginnings(rows: Sequence[LoggedRow], settings: AlarmsRecipe) -> list[AlarmState]:
    """Return the states in which an alarm began to ring, in the order of the updates. `rows` are the lines of
    metrics.jsonl of stage `rl`."""
    watch = Watch(settings)
    return [state for row in rows for state in watch.see(row["step"], row) if state.begins]
