import numpy as np
import pytest

from irg_rl.evaluate.learning import ENOUGH, learning, slope


def rows(reward, spread=0.6, step=1e-2) -> list[dict]:
    return [{"drawn/last": float(r), "drawn/spread": spread, "step/largest": step} for r in reward]


RISING = np.linspace(0.3, 0.6, 30) + 0.01 * np.sin(np.arange(30))
FLAT = 0.3 + 0.05 * np.sin(2 * np.arange(30))


def test_a_reward_that_rises_on_groups_that_differ_is_learning():
    found = learning(rows(RISING))
    assert not found.alarmed and found.sentence == "RL is learning: the drawn reward rises."
    assert found.slope.value == pytest.approx(0.3 / 29, rel=0.05) and found.slope.low > 0.009


def test_a_flat_reward_raises_the_alarm_and_says_what_to_look_at():
    found = learning(rows(FLAT))
    assert found.alarmed and found.slope.low < 0 < found.slope.high
    assert found.sentence.startswith("RL is not shown to learn: the drawn reward cannot be told from a flat line: look")


def test_a_falling_reward_is_said_to_fall():
    assert "the drawn reward falls" in learning(rows(RISING[::-1])).sentence


def test_groups_without_spread_and_small_steps_raise_the_alarm_whatever_the_reward_does():
    found = learning(rows(RISING, spread=0.1, step=1e-6))
    assert found.alarmed and found.sentence.startswith("RL learns, but only 10% of the groups have a spread in reward")
    assert "the largest step so far is 1.0e-06 of the weights' size: look at rl.optimizer.lr" in found.sentence


def test_what_was_not_logged_is_not_judged():
    found = learning([{"drawn/last": value, "step/largest": None} for value in RISING])
    assert (found.spread, found.step, found.alarmed) == (None, None, False)
    assert learning([{"loss/text": 0.1}] * 20).sentence.startswith("It cannot be told whether RL learns")


def test_a_few_updates_say_nothing():
    found = learning(rows(RISING[: ENOUGH - 1]))
    assert found.sentence == f"Too early to tell: {ENOUGH - 1} updates, {ENOUGH} are asked."
    assert np.isnan(found.slope.low) and learning([]).updates == 0


def test_the_step_is_the_last_one_logged_and_the_spread_the_mean():
    found = learning([{"drawn/spread": share, "step/largest": step} for share, step in ((0.2, 0.1), (0.6, 0.3))])
    assert (found.spread, found.step) == (pytest.approx(0.4), 0.3)


def test_the_slope_of_a_series_without_noise_is_exact():
    found = slope(0.5 + 0.01 * np.arange(20))
    assert (found.value, found.low, found.high) == pytest.approx((0.01, 0.01, 0.01))


@pytest.mark.parametrize("alike", [0.0, 0.3, 0.5])
def test_the_slope_is_covered_also_where_neighbouring_updates_are_alike(alike):
    """Noise with a correlation of `alike` between neighbours; .95 is promised, over 60 updates."""
    rng, held, trials = np.random.default_rng(0), 0, 1000
    for _ in range(trials):
        noise = rng.standard_normal(60)
        for k in range(1, 60):
            noise[k] = alike * noise[k - 1] + np.sqrt(1 - alike**2) * noise[k]
        found = slope(0.02 * np.arange(60) + noise)
        held += found.low <= 0.02 <= found.high
    assert 0.92 <= held / trials <= 0.97
