"""The scorers trained on the spot learn something, reproducibly, and their folders open again."""

import itertools
import json

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from irg_rl.shapes_world.scorer_examples import Examples
from irg_rl.trajectory import Prompt
from rewards import openclip
from rewards.base import ScorerUnavailable
from rewards.clip import ClipScorer
from rewards.hps import HpsScorer
from rewards.training import cosines, differences, fit_scale, preference_loss, train_clip, train_hps

STEPS = 120


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    seen = []
    report = seen.append
    metrics = train_clip(folder, Examples, STEPS, batch_size=32, held_out=64, progress=lambda *told: report(told))
    return folder, metrics, seen


@pytest.fixture(scope="module")
def hps(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hps")
    return folder, train_hps(folder, clip[0], Examples, steps=5, batch_size=8, seed=0, held_out=32)


def test_after_a_few_steps_pictures_are_nearer_to_their_own_prompt_than_to_another(clip):
    images, captions = Examples(seed=99).captioned(256)
    prompts = [Prompt("p", caption) for caption in captions]
    scorer = ClipScorer(clip[0])
    own, other = scorer.score(images, prompts), scorer.score(images, prompts[2:] + prompts[:2])
    share = np.mean(np.array(own) > np.array(other))
    assert share > 0.62, f"{share:.2f} where chance is .50 with a standard error of .03"


def test_progress_is_reported_every_step_and_the_loss_falls(clip):
    steps, losses = [report[0] for report in clip[2]], [report[2]["loss"] for report in clip[2]]
    assert steps == list(range(1, STEPS + 1))
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.2


def test_equal_seeds_train_equal_weights(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_clip(tmp_path / name, Examples, steps=3, batch_size=8, seed=seed, held_out=8)
    a, b, c = (load_file(tmp_path / name / openclip.WEIGHTS) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["visual.proj"], c["visual.proj"])


def test_the_hps_reports_agreement_and_disagreement_and_scores_differently_from_its_clip(clip, hps):
    folder, metrics = hps
    assert metrics.keys() == {"held_out_agreement", "verifier_disagreement"}
    assert 0.4 < metrics["held_out_agreement"] <= 1 and 0 <= metrics["verifier_disagreement"] < 0.6
    images, captions = Examples(seed=4).captioned(4)
    prompts = [Prompt("p", caption) for caption in captions]
    before, after = ClipScorer(clip[0]).score(images, prompts), HpsScorer(folder).score(images, prompts)
    assert before != after
    assert all(-1 <= score <= 1 for score in before + after)


def test_preferences_follow_correctness_mostly_but_not_always():
    rankings = Examples(seed=5).rankings(100)
    liking, graded = (differences(torch.tensor([field(r) for r in rankings])) for field in (liking_of, graded_of))
    follows = ((liking > 0) == (graded > 0))[graded != 0].float().mean()
    assert 0.8 < follows < 0.99
    assert 0.05 < (graded == 0).float().mean() < 0.5, "where the verifier sees no difference, the painting decides"


def liking_of(ranking):
    return ranking.liking


def graded_of(ranking):
    return ranking.graded


def test_differences_are_of_all_pairs():
    assert differences(torch.tensor([[1.0, 10.0, 100.0]])).tolist() == [-9.0, -99.0, -90.0]


def test_the_preference_loss_is_the_softmax_over_two_pictures(clip):
    tower, rankings = openclip.load(clip[0]), Examples(seed=6).rankings(3)
    logits = tower.model.logit_scale.exp() * cosines(tower, rankings)
    by_hand = [
        -torch.log_softmax(logits[b, [i, j]], dim=0)[0 if r.liking[i] > r.liking[j] else 1]
        for b, r in enumerate(rankings)
        for i, j in itertools.combinations(range(len(r.images)), 2)
    ]
    torch.testing.assert_close(preference_loss(tower, rankings), torch.stack(by_hand).mean())


def test_the_fitted_scale_is_not_worse_than_the_contrastive_one(clip):
    tower, rankings = openclip.load(clip[0]), Examples(seed=6).rankings(32)
    before = preference_loss(tower, rankings)
    fit_scale(tower, rankings)
    assert preference_loss(tower, rankings) <= before


def test_the_tiny_tokenizer_cuts_known_words_as_clip_does_and_spells_out_the_rest(clip):
    tiny, full = openclip.load(clip[0]).tokenizer, open_clip.SimpleTokenizer()
    for text in ("a photo of two red circles", "the purple triangle is left of the bar", "zebra"):
        assert tiny.decode(tiny.encode(text)) == full.decode(full.encode(text))
    assert len(tiny.encode("two red circles")) == len(full.encode("two red circles")) == 3
    assert tiny.vocab_size < 2000


def test_encoding_without_padding_equals_open_clips_own(clip):
    tower = openclip.load(clip[0])
    tokens = tower.tokenizer(Examples(seed=2).captioned(40)[1])
    with torch.no_grad():
        ours = openclip.encode_text(tower.model, tokens)
        theirs = tower.model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.fixture(scope="module")
def architecture(tmp_path_factory):
    """A tiny architecture that open_clip knows by name, as it knows ViT-H-14."""
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    path = tmp_path_factory.mktemp("architectures") / "rewards-test.json"
    path.write_text(json.dumps({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(path)
    return path.stem


def test_a_checkpoint_file_opens_with_the_name_of_its_architecture(architecture, tmp_path):
    """In the form HPS_v2.1 is released in: a pickled dict with a state_dict."""
    model = open_clip.create_model(architecture)
    path = tmp_path / "checkpoint.pt"
    torch.save({"state_dict": model.state_dict()}, path)
    loaded = openclip.load(path, architecture)
    assert torch.equal(loaded.model.text_projection, model.text_projection)
    assert loaded.size == 16
    image = np.zeros((40, 30, 3), np.uint8)
    for scorer in (ClipScorer(path, model=architecture), HpsScorer(path, model=architecture, precision="bf16")):
        [score] = scorer.score([image], [Prompt("p", "a photo of a cat")])
        assert -1 <= score <= 1
    with pytest.raises(ScorerUnavailable, match="must name its open_clip architecture.*'ViT-Hall'"):
        openclip.load(path, "ViT-Hall")


@pytest.mark.parametrize("damage", ["truncated", "not tensors", "another shape", "no weights"])
def test_a_broken_model_is_refused_with_its_path(clip, tmp_path, damage):
    for name in (openclip.CONFIG, openclip.WEIGHTS, openclip.MERGES):
        (tmp_path / name).write_bytes((clip[0] / name).read_bytes())
    weights = tmp_path / openclip.WEIGHTS
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:10_000])
    elif damage == "not tensors":
        weights.write_bytes(b"hello")
    elif damage == "no weights":
        weights.unlink()
    else:
        config = json.loads((tmp_path / openclip.CONFIG).read_text())
        config["model_cfg"]["embed_dim"] = 32
        (tmp_path / openclip.CONFIG).write_text(json.dumps(config))
    with pytest.raises(ScorerUnavailable, match=str(tmp_path)):
        ClipScorer(tmp_path)


def test_a_pickle_in_place_of_weights_is_not_executed(architecture, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(ScorerUnavailable):
        openclip.load(tmp_path / "bomb.pt", architecture)
    assert not (tmp_path / "exploded").exists()
