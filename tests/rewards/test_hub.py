"""The hub's promises: a failed score is never a number, failing images are retried then dropped, failing runs stop."""

import numpy as np
import pytest

from irg_rl.trajectory import Prompt
from rewards.base import ScorerUnavailable, TooManyFailures
from rewards.build import ScorerSpec
from rewards.hub import RewardHub

HERE = "tests.rewards.scorers"
PROMPT = Prompt("p", "a photo of a circle")


def flat(*levels):
    """One 4 x 4 grey image per level, and a prompt for each."""
    images = [np.full((4, 4, 3), level, dtype=np.uint8) for level in levels]
    return images, [PROMPT] * len(images)


def test_every_scorer_sees_every_image_in_order():
    hub = RewardHub([{"name": "bright", "kind": f"{HERE}:Brightness"}, {"name": "b2", "kind": f"{HERE}:Brightness"}])
    scores = hub.score(*flat(0, 51, 255))
    assert scores == {"bright": [0.0, 0.2, 1.0], "b2": [0.0, 0.2, 1.0]}


def test_a_failed_image_is_asked_again_and_only_that_image():
    hub = RewardHub([{"name": "flaky", "kind": f"{HERE}:Flaky"}], retries=1)
    assert hub.score(*flat(51, 255)) == {"flaky": [0.2, 1.0]}
    assert hub.stats["flaky"].retried == 2
    hub.score(*flat(51, 102))
    assert hub.stats["flaky"].retried == 3, "51 had been scored before and was not asked again"


def test_a_score_that_keeps_failing_is_none_and_the_others_stand():
    hub = RewardHub([{"name": "flaky", "kind": f"{HERE}:Flaky", "failures": 0}], retries=2)
    assert hub.score(*flat(51, 0, 255)) == {"flaky": [0.2, None, 1.0]}
    assert hub.stats["flaky"].failed == 1


def test_a_failing_scorer_stops_the_run_with_its_last_error():
    spec = {"name": "flaky", "kind": f"{HERE}:Flaky", "failures": 0}
    hub = RewardHub([spec], retries=0, max_failure_share=0.25, min_images=4, window=8)
    hub.score(*flat(1, 0))  # half of two images failed, but two are no evidence
    with pytest.raises(TooManyFailures, match=r"'flaky' failed on 2 of its last 4 images .*blinked"):
        hub.score(*flat(2, 0))


def test_the_failure_share_forgets_what_left_the_window():
    spec = {"name": "flaky", "kind": f"{HERE}:Flaky", "failures": 0}
    hub = RewardHub([spec], retries=0, max_failure_share=0.25, min_images=4, window=4)
    hub.score(*flat(0))
    hub.score(*flat(1, 2, 3, 4))
    hub.score(*flat(0))
    with pytest.raises(TooManyFailures):
        hub.score(*flat(0))


def test_a_scorer_at_the_allowed_share_may_go_on():
    spec = {"name": "flaky", "kind": f"{HERE}:Flaky", "failures": 0}
    hub = RewardHub([spec], retries=0, max_failure_share=0.5, min_images=2)
    assert hub.score(*flat(0, 255)) == {"flaky": [None, 1.0]}


def test_not_a_number_is_a_failure():
    hub = RewardHub([{"name": "nan", "kind": f"{HERE}:NotANumber"}], min_images=4)
    assert hub.score(*flat(1, 2)) == {"nan": [None, None]}
    with pytest.raises(TooManyFailures, match="nan is not a finite number"):
        hub.score(*flat(1, 2))


def test_a_scorer_that_loses_images_is_a_defect():
    hub = RewardHub([{"name": "short", "kind": f"{HERE}:Miscounting"}])
    with pytest.raises(ValueError, match="1 scores for 2 images"):
        hub.score(*flat(1, 2))


def test_nothing_to_score_asks_nobody():
    hub = RewardHub([{"name": "bright", "kind": f"{HERE}:Brightness"}])
    assert hub.score([], []) == {"bright": []}
    assert hub.stats["bright"].calls == 0


def test_images_must_be_rgb_bytes():
    hub = RewardHub([{"name": "bright", "kind": f"{HERE}:Brightness"}])
    with pytest.raises(ValueError, match="image 0 has dtype float64"):
        hub.score([np.zeros((4, 4, 3))], [PROMPT])
    with pytest.raises(ValueError, match="1 images for 2 prompts"):
        hub.score([np.zeros((4, 4, 3), np.uint8)], [PROMPT, PROMPT])


def test_held_out_scorers_are_named():
    hub = RewardHub(
        [
            {"name": "reward", "kind": f"{HERE}:Brightness", "weight": 2.0},
            {"name": "watch", "kind": f"{HERE}:Brightness", "held_out": True},
        ]
    )
    assert hub.held_out == ["watch"]


def test_latency_and_counts_are_logged_per_scorer():
    hub = RewardHub([{"name": "bright", "kind": f"{HERE}:Brightness"}])
    hub.score(*flat(1, 2, 3))
    log = hub.log()
    assert log["reward/bright/images"] == 3
    assert log["reward/bright/failed"] == 0
    assert 0 < log["reward/bright/seconds_per_image"] <= log["reward/bright/slowest_call_seconds"]


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"name": "x", "kind": "verifer"}, ValueError, "did you mean 'verifier'"),
        ({"name": "x", "kind": "verifier", "of": "images"}, ValueError, "of 'images' is unknown; did you mean 'image'"),
        ({"name": "x", "kind": "verifier", "wieght": 1}, ValueError, "'x' has no option 'wieght'"),
        ({"name": "x", "kind": "clip"}, ValueError, "'x' needs the option 'path'"),
        ({"name": "x", "kind": "judge", "base_ulr": "http://h"}, ValueError, "did you mean 'base_url'"),
        ({"kind": "verifier"}, ValueError, "lacks name"),
        ({"name": "a/b", "kind": "verifier"}, ValueError, "without '/'"),
        ({"name": "x", "kind": "no.such.module:Scorer"}, ScorerUnavailable, "cannot be imported"),
        ({"name": "x", "kind": "clip", "path": "/no/such/folder"}, ScorerUnavailable, "'x': no CLIP model at /no/such"),
    ],
)
def test_a_wrong_spec_is_refused_by_name(spec, error, message):
    with pytest.raises(error, match=message):
        RewardHub([spec])


def test_two_scorers_of_one_name_are_refused():
    with pytest.raises(ValueError, match="must differ"):
        RewardHub([{"name": "v", "kind": "verifier"}, ScorerSpec("v", "verifier")])
