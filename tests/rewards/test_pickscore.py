"""PickScore on a tiny CLIP model with random weights in the released layout."""

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from irg_rl.trajectory import Prompt
from rewards.base import ScorerUnavailable
from rewards.pickscore import PickScorer
from tests.rewards import released

TEXTS = ["a circle", "circle circle", "b"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pickscore")
    released.pickscore(path)
    return path


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((16, 16), (20, 32), (40, 24))]


def prompts(texts):
    return [Prompt(str(number), text) for number, text in enumerate(texts)]


@torch.inference_mode()
def published(scorer, image, text):
    """The released example: logit_scale.exp() * (text_features @ image_features.T) of normalised features."""
    inputs = scorer.processor(text=[text], images=[PILImage.fromarray(image)], padding=True, return_tensors="pt")
    image_feature = scorer.model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
    text_feature = scorer.model.get_text_features(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
    ).pooler_output
    image_feature, text_feature = (f / f.norm(dim=-1, keepdim=True) for f in (image_feature, text_feature))
    return float(scorer.model.logit_scale.exp() * (text_feature @ image_feature.T))


def test_the_score_is_that_of_the_released_example_in_any_batch(folder, images):
    scorer = PickScorer(folder, batch_size=2)
    expected = [published(scorer, image, text) for image, text in zip(images, TEXTS)]
    assert scorer.score(images, prompts(TEXTS)) == pytest.approx(expected, abs=1e-4)
    assert PickScorer(folder).score(images, prompts(TEXTS)) == pytest.approx(expected, abs=1e-4)
    assert np.ptp(expected) > 1e-3, "the model tells the pairs apart"


def test_texts_that_are_too_long_are_cut_and_counted(folder, images):
    scorer = PickScorer(folder)
    assert None not in scorer.score(images, prompts(["circle " * 30, "circle", "b " * 15]))
    assert scorer.counts() == {"cut_texts": 2}


def test_bf16_towers_give_nearly_the_same_score(folder, images):
    full, half = (PickScorer(folder, precision=name).score(images, prompts(TEXTS)) for name in ("fp32", "bf16"))
    assert half == pytest.approx(full, abs=0.3) and half != full


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ScorerUnavailable, match="holds no PickScore model"):
        PickScorer(tmp_path)
    with pytest.raises(ScorerUnavailable, match="no PickScore model at /no/such"):
        PickScorer("/no/such")
