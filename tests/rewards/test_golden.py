"""Preprocessing, tokens and scores equal those of HPSv2 and open_clip."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from rewards import openclip
from rewards.clip import ClipScorer
from rewards.hps import HpsScorer, letterbox
from tests.rewards import golden


@pytest.fixture(scope="module")
def reference():
    return golden.tensors()


def assert_same_pixels(ours, reference, case):
    """`full` is the whole image (32 px), `grid16` every sixteenth pixel from 8 (224 px), `stats` the sum of all pixels,
    of their magnitudes and squares, the extremes and the channel means."""
    for key, pixels in (("full", ours), ("grid16", ours[:, 8::16, 8::16])):
        if f"{case}/{key}" in reference:
            torch.testing.assert_close(pixels, reference[f"{case}/{key}"], atol=2e-5, rtol=0)
    x = ours.double()
    stats = torch.stack([x.sum(), x.abs().sum(), x.square().sum(), x.min(), x.max(), *x.mean(dim=(1, 2))])
    torch.testing.assert_close(stats, reference[f"{case}/stats"], atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("name", golden.IMAGES)
def test_letterbox_is_hpsv2s_transform(reference, name, size):
    assert_same_pixels(letterbox(golden.image(name), size), reference, f"preprocess/hpsv2_val/{size}/{name}")


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("name", golden.IMAGES)
def test_clip_preprocess_is_open_clips_transform(reference, name, size):
    ours = openclip.clip_preprocess(size)(golden.image(name))
    assert_same_pixels(ours, reference, f"preprocess/open_clip_val/{size}/{name}")


def test_the_two_transforms_differ_on_a_portrait(reference):
    """Guards the tests above: a crop and a letterbox of the same image are far apart."""
    image = golden.image("b_portrait_300x212")
    assert (letterbox(image, 24) - openclip.clip_preprocess(24)(image)).abs().max() > 1


def test_tokens_equal_hpsv2s(reference):
    prompts = json.loads((golden.FOLDER / "7_clip_hps.index.json").read_text())["cases"]["tokens"]["params"]["prompts"]
    ours = open_clip.SimpleTokenizer(context_length=77)(prompts)
    assert torch.equal(ours, reference["tokens/hpsv2"])


@pytest.fixture
def tiny_hps(reference, tmp_path):
    """The reference's tiny model as an open_clip folder, and its weights."""
    config = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 97, "width": 16, "heads": 2, "layers": 2},
    }
    prefix = next(k for k in reference if k.endswith("positional_embedding") and "visual" not in k)
    prefix = prefix.removesuffix("positional_embedding")
    weights = {k.removeprefix(prefix): v for k, v in reference.items() if k.startswith(prefix)}
    save_file(weights, tmp_path / openclip.WEIGHTS)
    (tmp_path / openclip.CONFIG).write_text(json.dumps({"model_cfg": config}))
    return openclip.load(tmp_path)


def test_the_score_is_hpsv2s_cosine_without_logit_scale(reference, tiny_hps):
    tiny_hps.tokenizer = lambda texts: reference["tiny_clip/text"]
    scores = tiny_hps.cosine(reference["tiny_clip/images"], ["a", "b", "c"])
    torch.testing.assert_close(scores, reference["tiny_clip/hps_score"], atol=1e-6, rtol=0)


def test_the_cosine_of_raw_features_is_the_published_clip_score(reference):
    """DiffusionNFT and Flow-Factory: plain cosine; the flow_grpo fork: 100 * cosine / 30."""
    cosine = torch.cosine_similarity(reference["in/raw_image_features"], reference["in/raw_text_features"], dim=-1)
    torch.testing.assert_close(cosine, reference["scores/clip_nft"], atol=1e-6, rtol=0)
    torch.testing.assert_close(cosine, reference["scores/clip_flow_factory"], atol=1e-6, rtol=0)
    torch.testing.assert_close(cosine * 100 / 30, reference["scores/clip_flow_grpo_fork"], atol=1e-5, rtol=0)


def test_clip_and_hps_scorers_use_their_own_transform(tmp_path):
    openclip.save(tmp_path, openclip.create_tiny(tmp_path, ["circle"], seed=0))
    image = golden.image("b_portrait_300x212")
    assert torch.equal(HpsScorer(tmp_path).preprocess(image), letterbox(image, 24))
    assert torch.equal(ClipScorer(tmp_path).preprocess(image), openclip.clip_preprocess(24)(image))
