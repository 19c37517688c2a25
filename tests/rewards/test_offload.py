"""Models of scorers go to main memory and come back as they were."""

import numpy as np
import pytest
from torch import nn

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


def weights_of(owner) -> set[int]:
    """The ids of all weights in the attributes of an object, and in the attributes of these."""
    inside = [one for value in vars(owner).values() for one in (value, *getattr(value, "__dict__", {}).values())]
    return {id(weight) for one in inside if isinstance(one, nn.Module) for weight in one.parameters()}


@pytest.mark.parametrize("made", [clip, pickscore, mllm])
def test_scores_after_it_are_those_before(tmp_path, made, monkeypatch):
    """All weights that the scorer has are moved, to main memory and back. A CPU cannot tell where they are, so this
    writes the moves down."""
    scorer, moves = made(tmp_path), []
    held = weights_of(scorer)
    assert held and held == {id(p) for model in scorer.models() for p in model.parameters()}
    for model in scorer.models():
        monkeypatch.setattr(model, "to", lambda place, model=model, to=model.to: moves.append(str(place)) or to(place))
    images = [np.full((32, 32, 3), level, dtype=np.uint8) for level in (10, 200)]
    prompts = [Prompt("a", "red circle")] * 2
    before = scorer.score(images, prompts)
    offload = Offload([scorer])
    offload.rest()
    assert [model for model, _ in offload.away] == scorer.models() and moves == ["cpu"] * len(scorer.models())
    offload.wake()
    assert len(moves) == 2 * len(scorer.models()) and not offload.away
    assert scorer.score(images, prompts) == before and None not in before
