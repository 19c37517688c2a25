"""The joint loss: hand-worked numbers, separate normalisers, the reference, and the metrics."""


import pytest
import torch

from irg_rl.algorithms.joint import JointLoss, finish
from irg_rl.algorithms.old_policy import recompute, sampled
from irg_rl.learner.policy import evaluate
from tests.learner.test_replay import assert_equal_gradients, gradients
from tests.learner.world import grpo


class Plain:
    """The part of the engine that reading scores needs."""

    def __init__(self, model):
        self.model = model

    @torch.no_grad()
    def evaluate(self, packs, read):
        return [read(self.model(pack), index) for index, pack in enumerate(packs)]


def loss_of(world, trajectories, settings, model=None, **options):
    replays = world.replay().packs(trajectories)
    joint = JointLoss(settings, world.law(), replays, trajectories, sampled(trajectories), **options)
    model = model or world.model
    return [joint(model(r.pack), i, joint.denominators()) for i, r in enumerate(replays)], joint


def test_on_policy_the_loss_is_minus_the_mean_advantage(world):
    """Every ratio is 1, so text = -sum A T / sum T and image = -sum A S / sum S."""
    trajectories = world.sample(3)
    losses, joint = loss_of(world, trajectories, grpo(text_weight=0.5, image_weight=2.0))
    texts = [s for t in trajectories for s in t.texts]
    images = [s for t in trajectories for s in t.images]
    tokens, steps = sum(len(s.ids) for s in texts), sum(s.x.shape[0] for s in images)
    assert joint.denominators() == {"text": tokens, "image": steps}
    text = -sum(s.advantage * len(s.ids) for s in texts) / tokens
    image = -sum(s.advantage * s.x.shape[0] for s in images) / steps
    assert sum(v.terms["text"].item() for v in losses) == pytest.approx(0.5 * text, rel=1e-3)
    assert sum(v.terms["image"].item() for v in losses) == pytest.approx(2.0 * image, rel=1e-3)


def test_a_segment_without_advantage_takes_no_part(world):
    trajectories = world.sample(3)
    for segment in trajectories[2].segments:
        segment.advantage = None
    without, terms, totals = gradients(world, trajectories, world.replay().packs(trajectories))
    alone, expected, expected_totals = gradients(world, trajectories[:2], world.replay().packs(trajectories[:2]))
    assert totals == expected_totals
    assert terms == pytest.approx(expected, rel=1e-5)
    assert_equal_gradients(alone, without)


def test_trajectories_of_different_length_packed_apart_give_the_gradient_of_one_big_batch(world):
    """Invariant 10: numbers of turns vary, and denominators are global."""
    trajectories = world.sample(4)
    trajectories[1].segments = trajectories[1].segments[:2]  # one turn only
    together, terms, _ = gradients(world, trajectories, world.replay().packs(trajectories))
    apart, split_terms, _ = gradients(world, trajectories, world.replay(max_pack_tokens=260).packs(trajectories))
    assert split_terms == pytest.approx(terms, rel=1e-4)
    assert_equal_gradients(together, apart)


@pytest.mark.parametrize("kind", ["grpo", "dapo", "dr_grpo"])
def test_text_denominators_follow_the_loss_type(world, kind):
    trajectories = world.sample(2)
    _, joint = loss_of(world, trajectories, grpo(text_loss=kind, max_text_tokens=6))
    texts = [s for t in trajectories for s in t.texts]
    expected = {"grpo": len(texts), "dapo": sum(len(s.ids) for s in texts), "dr_grpo": 6 * len(texts)}
    assert joint.denominators()["text"] == expected[kind]


def shifted(world):
    """A model that is not the sampler's."""
    model = world.copy()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
    return model


@pytest.mark.parametrize("space", ["velocity", "mean"])
def test_the_kl_terms_pull_towards_the_reference(world, space):
    trajectories = world.sample(2)
    for trajectory in trajectories:
        for segment in trajectory.segments:
            segment.advantage = 0.0
    settings = grpo(kl_text=0.1, kl_image=0.1, kl_space=space)
    model, reference = shifted(world), world.model
    start = None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        losses, _ = loss_of(world, trajectories, settings, model, reference=reference)
        total = sum(v.total() for v in losses)
        metrics = finish(losses[0].sums, losses[0].maxima)
        start = start or metrics
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    for name in ("text/turn1/kl", "image/turn2/kl"):
        assert 0 < metrics[name] < start[name]


def test_each_kl_weight_scales_the_loss_of_its_own_modality(world):
    """Fails where `kl_text` or `kl_image` is ignored: without advantages, the KL terms are the whole loss."""
    trajectories, model = world.sample(2), shifted(world)
    for trajectory in trajectories:
        for segment in trajectory.segments:
            segment.advantage = 0.0

    def terms(**weights: float) -> dict[str, float]:
        losses, _ = loss_of(world, trajectories, grpo(**weights), model, reference=world.model)
        return {name: sum(float(loss.terms[name].detach()) for loss in losses) for name in ("text", "image")}

    plain = terms(kl_text=0.1, kl_image=0.1)
    assert min(plain.values()) > 1e-6
    assert terms(kl_text=0.2, kl_image=0.1) == pytest.approx(plain | {"text": 2 * plain["text"]}, rel=1e-5)
    assert terms(kl_text=0.1, kl_image=0.3) == pytest.approx(plain | {"image": 3 * plain["image"]}, rel=1e-5)


def test_a_kl_weight_without_a_reference_is_refused(world):
    with pytest.raises(ValueError, match="kl_text 0.1 and kl_image 0.0 need a reference"):
        loss_of(world, world.sample(1), grpo(kl_text=0.1))


def test_metrics_per_turn_say_how_far_the_policy_has_moved(world):
    trajectories = world.sample(3)
    on_policy, _ = loss_of(world, trajectories, grpo())
    still = finish(on_policy[0].sums, on_policy[0].maxima)
    assert still["text/turn0/ratio_mean"] == pytest.approx(1.0, abs=1e-5)
    assert still["image/turn2/log_ratio_max"] < 2e-5
    moved, _ = loss_of(world, trajectories, grpo(clip_image=1e-6), shifted(world))
    now = finish(moved[0].sums, moved[0].maxima)
    assert now["image/turn1/clipfrac"] > 0.9 and now["text/turn1/log_ratio_max"] > 1e-3
    assert 0 < now["text/turn0/entropy"] < 6
    assert now["text/turn2/count"] == sum(len(s.ids) for t in trajectories for s in t.texts if s.turn == 2)


def test_ratio_norm_uses_the_sampler_s_means_and_is_neutral_on_policy(world):
    losses, _ = loss_of(world, world.sample(2), grpo(ratio_norm=True))
    metrics = finish(losses[0].sums, losses[0].maxima)
    assert metrics["image/turn0/log_ratio_max"] < 2e-5
    moved, _ = loss_of(world, world.sample(2), grpo(ratio_norm=True), shifted(world))
    raw, _ = loss_of(world, world.sample(2), grpo(), shifted(world))
    assert finish(moved[0].sums, {})["image/turn0/approx_kl"] != finish(raw[0].sums, {})["image/turn0/approx_kl"]


def test_recomputed_old_log_probabilities_replace_the_sampler_s_and_correct_the_mismatch(world):
    trajectories = world.sample(2)
    model = shifted(world)
    replays = world.replay().packs(trajectories)
    old = recompute(Plain(model), replays, trajectories, world.law())
    joint = JointLoss(grpo(mismatch_cap=1.0), world.law(), replays, trajectories, old)
    loss = joint(model(replays[0].pack), 0, joint.denominators())
    metrics = finish(loss.sums, loss.maxima)
    assert metrics["text/turn1/log_ratio_max"] < 1e-6 and metrics["image/turn1/log_ratio_max"] < 1e-6
    weights = 0.0
    scores = evaluate(model(replays[0].pack), replays[0], trajectories, world.law())
    for ref, score in zip(replays[0].texts, scores.texts):
        segment = trajectories[ref.trajectory].segments[ref.segment]
        weights += float((score.logprobs.detach() - segment.logprobs).exp().clamp(max=1.0).sum()) * segment.advantage
    assert float(loss.terms["text"].detach()) == pytest.approx(-weights / joint.denominators()["text"], rel=1e-4)


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="'ppo'"):
        grpo(text_loss="ppo")
    with pytest.raises(ValueError, match="'velocity' or 'mean'"):
        grpo(kl_space="pixels")
    with pytest.raises(ValueError, match="max_text_tokens"):
        grpo(text_loss="dr_grpo")
