"""Models of scorers go to main memory and come back as they were."""

import numpy as np
import pytest

from irg_rl.trajectory import Prompt
from rewards import openclip
from rewards.clip import ClipScorer
from rewards.jpeg import JpegScorer
from rewards.mllm import MllmScorer
from rewards.offload import Offload
from rewards.pickscore import PickScorer
from tests.rewards import released
from tests.rewards.scorers import Moving


def test_models_are_moved_once_each_way_and_scorers_without_models_are_left_alone():
    scorer = Moving("m")
    offload = Offload([JpegScorer(), scorer])
    offload.wake()
    assert scorer.went == []
    for move in (offload.rest, offload.rest, offload.wake, offload.wake):
        move()
    assert scorer.went == ["cpu", "cpu"]


def clip(folder):
    openclip.save(folder, openclip.create_tiny(folder, ["red", "circle"], seed=0))
    return ClipScorer(folder)


def pickscore(folder):
    released.pickscore(folder)
    return PickScorer(folder)


def mllm(folder):
    released.qwen_vl(folder, answers=("yes", "no"))
    return MllmScorer(folder, precision="fp32", max_tokens=1)


@pytest.mark.parametrize("made", [clip, pickscore, mllm])
def test_scores_after_it_are_those_before(tmp_path, made):
    scorer = made(tmp_path)
    images = [np.full((32, 32, 3), level, dtype=np.uint8) for level in (10, 200)]
    prompts = [Prompt("a", "red circle")] * 2
    before = scorer.score(images, prompts)
    offload = Offload([scorer])
    offload.rest()
    assert [model for model, _ in offload.away] == scorer.models()
    offload.wake()
    assert scorer.score(images, prompts) == before and None not in before
