"""Scores of a group from comparisons of two images."""

from itertools import combinations

import numpy as np
import pytest

from irg_rl.trajectory import Prompt
from rewards.base import Preference, ScorerUnavailable
from rewards.hub import RewardHub
from rewards.pairwise import win_rates

HERE = "tests.rewards.scorers"
PROMPT = Prompt("p", "a circle")


def images(*levels):
    return [np.full((4, 4, 3), level, np.uint8) for level in levels]


def group_hub(kind: str, **more) -> RewardHub:
    return RewardHub([{"name": "rank", "kind": f"{HERE}:{kind}", "of": "group"}], **more)


def test_the_score_is_the_mean_probability_of_being_better():
    """Image 0 beats 1 for sure and 2 with .6; 1 beats 2 with .3."""
    found = win_rates(3, [Preference(1.0, 1.0), Preference(0.7, 0.5), Preference(0.3, 0.3)])
    assert found == pytest.approx([(1.0 + 0.6) / 2, (0.0 + 0.3) / 2, (0.4 + 0.7) / 2])
    assert sum(value for value in found if value is not None) == pytest.approx(3 / 2)


def test_a_failed_comparison_is_left_out_and_too_few_leave_no_score():
    sure, failed = Preference(1.0, 1.0), None
    assert win_rates(3, [sure, failed, sure]) == [1.0, 0.5, 0.0]
    assert win_rates(4, [sure, failed, failed, sure, sure, sure]) == [None, 2 / 3, 0.5, 0.0]
    assert win_rates(2, [failed]) == [None, None]


def test_a_judge_that_compares_two_images_scores_a_group():
    hub = group_hub("Comparing")
    assert hub.score_siblings(images(10, 200, 100), PROMPT) == {"rank": [0.0, 1.0, 0.5]}
    assert hub.scorers["rank"].asked == len(list(combinations(range(3), 2)))
    assert hub.score_siblings(images(10), PROMPT) == {"rank": [0.5]}
    assert hub.score([], []) == {} and hub.names("group") == ["rank"]


def test_a_group_is_asked_for_again_as_a_whole():
    """The scorer misses the darkest image at first."""
    hub = group_hub("FlakyRanks")
    assert hub.score_siblings(images(10, 200), PROMPT) == {"rank": [0.0, 1.0]}
    assert hub.log()["reward/rank/retried"] == 2 and hub.log()["reward/rank/images"] == 2
    assert group_hub("FlakyRanks", retries=0).score_siblings(images(10, 200), PROMPT) == {"rank": [None, 1.0]}


def test_a_scorer_that_compares_nothing_is_no_scorer_of_groups():
    with pytest.raises(ScorerUnavailable, match="cannot score a group"):
        group_hub("Brightness")
