"""What an update logs of the groups that left since the last one."""

import pytest

from irg_rl.driver.critic import ScoredSummary
from irg_rl.driver.rl_loop import drawn


def group(number: int, last: float, has_spread: bool) -> ScoredSummary:
    return ScoredSummary(
        group=number, version=0, has_spread=has_spread, empty=False, counts={}, failures={}, trajectories=4, stopped=0,
        images=8, text_tokens=9, means={}, images_by_turn=[4, 4], first=0.1, last=last, scorers={},
    )  # fmt: skip


def test_the_share_of_groups_with_spread_and_the_drawn_reward_count_groups_that_are_not_trained_too():
    logged = drawn([group(0, 0.2, True), group(1, 1.0, False), group(2, float("nan"), False), group(3, 0.6, False)])
    assert logged == {
        "drawn/first": pytest.approx(0.1), "drawn/last": pytest.approx(0.6), "drawn/groups": 4.0, "drawn/spread": 0.25,
    }  # fmt: skip
