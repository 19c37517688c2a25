"""CLIP and its options on texts and settings from outside."""

import numpy as np
import pytest

from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt
from rewards import openclip
from rewards.base import ScorerUnavailable
from rewards.build import ScorerSpec, check_spec
from rewards.clip import ClipScorer
from rewards.hub import RewardHub

WORDS = ["a", "red", "bar"]


@pytest.fixture
def tiny(tmp_path):
    openclip.save(tmp_path / "clip", openclip.create_tiny(tmp_path / "clip", WORDS, seed=0))
    return tmp_path / "clip"


def test_a_text_beyond_the_context_is_said_and_counted(tiny, caplog):
    """All prompts with one beginning had one score, and nothing said so."""
    hub = RewardHub([{"name": "clip", "kind": "clip", "path": str(tiny)}])
    image = np.zeros((24, 24, 3), np.uint8)
    fits, cut = "a " * 46, "a " * 47
    hub.score([image, image, image], [Prompt("1", fits), Prompt("2", cut), Prompt("3", cut + "red bar")])
    assert hub.log()["reward/clip/cut_texts"] == 2
    assert len(caplog.messages) == 1 and "clip reads only the first 48 tokens of 'a a a" in caplog.text


@pytest.mark.parametrize(("option", "value"), [
    ("precision", "float16"), ("precision", "fp8"), ("batch_size", 0), ("batch_size", "many"), ("device", 3),
])  # fmt: skip
def test_an_option_with_a_value_that_it_cannot_have_is_named(tiny, option, value):
    """precision: float16 ran in fp32."""
    spec = ScorerSpec("clip", "clip", options={"path": str(tiny), option: value})
    with pytest.raises(InputError, match=f"scorer 'clip': option {option}: .*given: "):
        check_spec(spec)


def test_a_judge_with_a_timeout_that_is_no_number_is_named():
    spec = ScorerSpec("judge", "judge", options={"base_url": "http://127.0.0.1:1/v1", "timeout": "soon"})
    with pytest.raises(InputError, match="option timeout: "):
        check_spec(spec)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_cfg": null}', '{"model_cfg": {"vision_cfg": 3}}'])
def test_a_configuration_that_is_none_names_its_file(tiny, text):
    (tiny / openclip.CONFIG).write_text(text)
    with pytest.raises(ScorerUnavailable, match=f"{openclip.CONFIG} is no configuration of a CLIP"):
        ClipScorer(tiny)
