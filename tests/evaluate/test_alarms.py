"""The alarms on metrics made by hand: each fires on its own drift, and none on noise."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from irg_rl.config.alarms import Alarm, AlarmsRecipe
from irg_rl.evaluate.alarms import SIGNALS, AlarmState, Watch, WindowDifference, beginnings, metrics_of

START = {
    "drawn/reward": (0.6, 0.03), "drawn/spread": (0.7, 0.05), "held_out/right": (0.5, 0.03),
    "drawn/dark_share": (0.3, 0.02), "drawn/edge_density": (0.25, 0.01), "drawn/colour_entropy": (2.5, 0.1),
    "drawn/sharpness": (900.0, 40.0), "drawn/text_length": (28.0, 1.0), "drawn/repetition": (0.05, 0.01),
    "drawn/prompt_copies": (0.3, 0.02), "drawn/image_diversity": (0.2, 0.01), "drawn/text_diversity": (0.8, 0.05),
}  # fmt: skip
"""Metric -> its mean and its standard deviation between updates, of a size that runs of the shapes world have."""
UPDATES = 40
Rows = list[dict[str, float]]


def noise(seed: int = 0, updates: int = UPDATES) -> Rows:
    rng = np.random.default_rng(seed)
    return [
        {"step": k} | {name: mean + sd * float(rng.standard_normal()) for name, (mean, sd) in START.items()}
        for k in range(1, updates + 1)
    ]


def drifting(change: Callable[[float], dict[str, float]], seed: int = 0) -> Rows:
    """Noise, plus `change(share)`, where the share rises from 0 after the first ten updates to 1 at update 30."""
    rows = noise(seed)
    for row in rows:
        for name, added in change(min(max((row["step"] - 10) / 20, 0.0), 1.0)).items():
            row[name] += added
    return rows


def rung(rows: Rows, **settings: Alarm) -> list[AlarmState]:
    return beginnings(rows, AlarmsRecipe(**settings))


DRIFTS = {
    "held_out": lambda s: {"held_out/right": -0.25 * s, "drawn/reward": 0.3 * s},
    "no_spread": lambda s: {"drawn/spread": -0.6 * s},
    "dark_share": lambda s: {"drawn/dark_share": 0.5 * s},
    "edge_density": lambda s: {"drawn/edge_density": -0.15 * s},
    "colour_entropy": lambda s: {"drawn/colour_entropy": -1.35 * s},
    "sharpness": lambda s: {"drawn/sharpness": -700 * s},
    "text_length": lambda s: {"drawn/text_length": 40 * s},
    "repetition": lambda s: {"drawn/repetition": 0.4 * s},
    "prompt_copies": lambda s: {"drawn/prompt_copies": 0.5 * s},
    "image_diversity": lambda s: {"drawn/image_diversity": -0.15 * s},
    "text_diversity": lambda s: {"drawn/text_diversity": -0.6 * s},
}


def test_every_alarm_has_a_drift_here_and_a_setting_in_the_recipe():
    assert list(DRIFTS) == list(AlarmsRecipe().alarms) == ["held_out", *SIGNALS]


@pytest.mark.parametrize("name", DRIFTS)
def test_an_alarm_rings_once_on_its_own_drift_while_all_others_are_silent(name):
    [state] = rung(drifting(DRIFTS[name]))
    assert state.alarm == name and 12 < state.update <= 34
    assert f"alarm at update {state.update}" in state.sentence and f"rl.alarms.{name}.threshold" in state.sentence


@pytest.mark.parametrize("name", ["held_out", "no_spread", "repetition", "prompt_copies", "image_diversity"])
def test_a_change_for_the_better_raises_no_alarm(name):
    better = {metric: -added for metric, added in DRIFTS[name](1.0).items()}
    assert rung(drifting(lambda share: {metric: share * added for metric, added in better.items()})) == []


@pytest.mark.parametrize("name", ["dark_share", "edge_density", "colour_entropy", "text_length"])
def test_what_may_change_in_both_ways_rings_in_both(name):
    turned = {metric: -0.8 * added for metric, added in DRIFTS[name](1.0).items()}
    assert [s.alarm for s in rung(drifting(lambda share: {m: share * added for m, added in turned.items()}))] == [name]


def test_a_held_out_scorer_may_fall_when_the_reward_falls_with_it():
    assert rung(drifting(lambda share: {"held_out/right": -0.25 * share, "drawn/reward": -0.3 * share})) == []
    assert rung(drifting(lambda share: {"held_out/right": -0.25 * share})) == []


def test_noise_raises_few_alarms():
    """Each run has 100 updates and eleven alarms. Fails where a single update decides: nearly every run would ring."""
    told = [state for seed in range(40) for state in rung(noise(seed, updates=100))]
    assert told == []


def test_a_large_change_that_may_be_chance_raises_no_alarm():
    """The share of dark pixels jumps by .3 in a single update, so the latest mean changes by less than its noise."""
    rows = noise()
    rows[15]["drawn/dark_share"] += 2.5
    assert rung(rows) == []


def test_an_alarm_that_is_off_has_no_state_and_a_higher_threshold_is_respected():
    rows = drifting(DRIFTS["dark_share"])
    assert rung(rows, dark_share=Alarm(threshold=0.2, do="off")) == []
    assert rung(rows, dark_share=Alarm(threshold=0.7)) == []
    early, late = (rung(rows, dark_share=Alarm(threshold=t))[0].update for t in (0.1, 0.4))
    assert early < late


def test_an_alarm_begins_again_after_it_was_silent_for_a_window():
    rows = noise(updates=80)
    for row in rows:
        row["drawn/dark_share"] += 0.5 * (20 < row["step"] <= 30 or row["step"] > 60)
    begun = [state.update for state in rung(rows)]
    assert len(begun) == 2 and 20 < begun[0] < 30 and begun[1] > 60


def test_a_watch_that_has_read_the_log_goes_on_as_one_that_never_stopped():
    """Fails where a resumed run begins with a new baseline, which the drift is already part of."""
    rows = drifting(DRIFTS["dark_share"])
    whole, resumed = Watch(AlarmsRecipe()), Watch(AlarmsRecipe())
    for row in rows[:25]:
        whole.see(row["step"], row)
        resumed.see(row["step"], json.loads(json.dumps(row | {"stage": "rl"})))
    for row in rows[25:]:
        assert whole.see(row["step"], row) == resumed.see(row["step"], row)


def test_a_value_that_is_missing_is_left_out_and_its_window_fills_later():
    rows = drifting(DRIFTS["dark_share"])
    for row in rows[::2]:
        row["drawn/dark_share"] = float("nan") if row["step"] % 4 == 1 else None
    assert [state.alarm for state in rung(rows)] == ["dark_share"]
    assert rung([{"step": k} for k in range(1, 30)]) == []


def test_the_logged_numbers_are_multiples_of_the_threshold():
    watch = Watch(AlarmsRecipe(baseline=4, window=4))
    for step in range(1, 9):
        late = step > 4
        row = {"drawn/dark_share": 0.3 + 0.4 * late, "drawn/reward": float(step), "held_out/right": 0.5 + 0.1 * step}
        states = watch.see(step, row)
        assert bool(states) == (step == 8)
    logged = metrics_of(states)
    assert logged["alarm/dark_share"] == pytest.approx(2.0) and logged["alarm/ringing"] == 1
    assert logged["alarm/held_out/right"] < 0  # it rises with the reward


def test_the_difference_of_two_windows_is_welch_s():
    """Variances 4/3 and 32/3 of four values each: s^2 = 1/3 + 8/3 = 3, df = 9 / ((1/9 + 64/9) / 3) = 3.7."""
    found = WindowDifference.between([1.0, 1.0, 3.0, 3.0], [0.0, 4.0, 4.0, 8.0])
    assert (found.before, found.now, found.change) == (2.0, 4.0, 2.0)
    assert (found.error, found.df) == (pytest.approx(3**0.5), 3)
    equal = WindowDifference.between([0.5] * 4, [0.5] * 4)
    assert (equal.errors, equal.is_clear(0.99)) == (0.0, False)
    assert WindowDifference.between([0.5] * 4, [0.25] * 4).errors == -np.inf
