"""The packed replay is the sampler's policy, whatever the history, and splitting a row changes no gradient."""

import pytest
import torch

from irg_rl.algorithms.joint import JointLoss
from irg_rl.algorithms.old_policy import sampled
from irg_rl.config import NoiseRecipe
from irg_rl.learner.policy import evaluate
from irg_rl.learner.replay import idle_pack, open_ids
from irg_rl.trajectory import ImageSegment, TextSegment
from tests.learner.world import SAMPLING, grpo


def scored(world, trajectories, replays, law):
    with torch.no_grad():
        return [evaluate(world.model(r.pack), r, trajectories, law) for r in replays]


def largest_gaps(trajectories, replays, scores):
    """{(modality, turn): max |replayed - sampled|} and how many values were compared."""
    gaps, counts = {}, {}
    for replay, score in zip(replays, scores):
        for ref, found in zip(replay.texts, score.texts):
            segment = trajectories[ref.trajectory].segments[ref.segment]
            enter(gaps, counts, ("text", segment.turn), found.logprobs - segment.logprobs)
        for ref, found in zip(replay.images, score.images):
            segment = trajectories[ref.trajectory].segments[ref.segment]
            enter(gaps, counts, ("image", segment.turn), found.logprobs - segment.logprobs[list(ref.steps)])
    return gaps, counts


def enter(gaps, counts, key, difference):
    gaps[key] = max(gaps.get(key, 0.0), float(difference.abs().max()))
    counts[key] = counts.get(key, 0) + difference.numel()


@pytest.mark.parametrize("history", ["last", "full"])
@pytest.mark.parametrize("kind", ["flow_sde", "cps"])
@pytest.mark.parametrize("system", ["", "a red circle"])
def test_the_replay_is_the_policy_that_sampled_for_every_turn_and_modality(world, history, kind, system):
    sampling = SAMPLING.model_copy(update={"history": history, "system_prompt": system})
    noise = NoiseRecipe(kind=kind, noise_level=0.7, window="all")
    trajectories = world.sample(4, sampling, noise)
    replays = world.replay(sampling).packs(trajectories)
    gaps, counts = largest_gaps(trajectories, replays, scored(world, trajectories, replays, world.law(sampling, noise)))
    assert set(gaps) == {(m, turn) for m in ("text", "image") for turn in range(3)}
    assert max(gaps.values()) < 2e-5, gaps
    assert counts["text", 1] == sum(len(s.ids) for t in trajectories for s in t.texts if s.turn == 1)
    assert counts["image", 2] == sum(s.x.shape[0] for t in trajectories for s in t.images if s.turn == 2)


def test_the_wrong_history_is_another_policy(world):
    """The comparison above is able to fail: contexts of the other kind give other numbers."""
    trajectories = world.sample(2)
    for trajectory in trajectories:
        trajectory.history = "full"
    replays = world.replay().packs(trajectories)
    gaps, _ = largest_gaps(trajectories, replays, scored(world, trajectories, replays, world.law()))
    assert gaps["text", 1] < 2e-5
    assert gaps["text", 2] > 1e-3 and gaps["image", 2] > 1e-4


def test_a_finished_text_scores_its_eos_and_an_unfinished_one_does_not(world):
    trajectories = world.sample(8)
    texts = [segment for t in trajectories for segment in t.texts]
    assert {segment.finished for segment in texts} == {True, False}
    eos = world.model.special.eos
    for segment in texts:
        assert len(open_ids(segment, eos)) == len(segment.ids) - segment.finished
    for replay in world.replay().packs(trajectories):
        for ref in replay.texts:
            segment = trajectories[ref.trajectory].segments[ref.segment]
            targets = replay.pack.logit_targets[replay.pack.logit_slices[ref.block]]
            assert targets.tolist() == segment.ids.tolist()


def test_a_given_text_is_context_and_is_not_scored(world):
    trajectories = world.sample(2, think="a red circle")
    (replay,) = world.replay().packs(trajectories)
    assert {trajectories[r.trajectory].segments[r.segment].turn for r in replay.texts} == {1, 2}
    gaps, _ = largest_gaps(trajectories, [replay], scored(world, trajectories, [replay], world.law()))
    assert max(gaps.values()) < 2e-5


def test_a_trajectory_that_stopped_ends_with_its_reflection(world):
    trajectories = world.sample(2, reflections={1: "nothing to change"})
    assert all(t.stopped and t.turns == 1 for t in trajectories)
    (replay,) = world.replay().packs(trajectories)
    assert sorted((r.trajectory, r.segment) for r in replay.images) == [(0, 1), (1, 1)]


def gradients(world, trajectories, replays, settings=None):
    """Gradient of the joint loss over all packs, and its two terms."""
    model = world.copy().train()
    joint = JointLoss(
        settings or grpo(clip_image=0.5), world.law(), replays, trajectories, sampled(trajectories)
    )
    totals = joint.denominators()
    terms = {"text": 0.0, "image": 0.0}
    for index, replay in enumerate(replays):
        loss = joint(model(replay.pack), index, totals)
        terms = {name: terms[name] + float(loss.terms[name].detach()) for name in terms}
        loss.total().backward()
    return {name: p.grad for name, p in model.named_parameters()}, terms, totals


def assert_equal_gradients(first, second):
    for name, gradient in first.items():
        scale = float(gradient.abs().max())
        assert float((gradient - second[name]).abs().max()) <= 1e-4 * scale + 1e-7, name


def test_noise_blocks_split_over_packs_give_the_gradient_of_one_pack(world):
    trajectories = world.sample(3)
    whole = world.replay().packs(trajectories)
    longest = max(max(r.pack.lengths) for r in whole)
    limit = longest - 20  # too small for a row with all its noise blocks
    split = world.replay(max_pack_tokens=limit).packs(trajectories)
    assert len(split) > len(whole)
    assert all(r.pack.rows * max(r.pack.lengths) <= limit for r in split)
    steps = [(r.trajectory, r.segment, s) for pack in split for r in pack.images for s in r.steps]
    assert sorted(steps) == sorted(
        (i, place, s)
        for i, t in enumerate(trajectories)
        for place, segment in enumerate(t.segments)
        if isinstance(segment, ImageSegment)
        for s in range(segment.x.shape[0])
    )
    one, terms, totals = gradients(world, trajectories, whole)
    many, split_terms, split_totals = gradients(world, trajectories, split)
    assert split_totals == totals
    assert split_terms == pytest.approx(terms, rel=1e-4)
    assert_equal_gradients(one, many)


def test_texts_of_a_split_row_are_trained_once(world):
    trajectories = world.sample(2)
    whole = world.replay().packs(trajectories)
    limit = max(max(r.pack.lengths) for r in whole) - 20
    split = world.replay(max_pack_tokens=limit).packs(trajectories)
    found = sorted((ref.trajectory, ref.segment) for pack in split for ref in pack.texts)
    assert found == [
        (index, place)
        for index, trajectory in enumerate(trajectories)
        for place, segment in enumerate(trajectory.segments)
        if isinstance(segment, TextSegment)
    ]


def test_a_context_that_fits_no_pack_names_the_setting_and_the_size(world):
    with pytest.raises(ValueError, match=r"sample 0 of prompt 'p0' needs \d+ tokens .* max_pack_tokens is 30"):
        world.replay(max_pack_tokens=30).packs(world.sample(1))


def test_the_ranks_share_the_packs_of_one_rank(world):
    trajectories = world.sample(5)
    replay = world.replay(max_pack_tokens=400)
    alone = replay.packs(trajectories)
    assert len(alone) > 2
    shared = [replay.packs(trajectories, rank, 2) for rank in (0, 1)]
    assert [p.images for p in alone[0::2]] == [p.images for p in shared[0]]
    assert [p.images for p in alone[1::2]] == [p.images for p in shared[1]]


def test_the_image_loss_reaches_what_encodes_the_reflection_unless_the_context_is_detached(world):
    trajectories = world.sample(2)
    (replay,) = world.replay().packs(trajectories)
    for context_grad in ("full", "detached"):
        model = world.copy()
        output = model(replay.pack, context_grad=context_grad)
        score = evaluate(output, replay, trajectories, world.law())
        sum(s.logprobs.sum() for s in score.images).backward()
        reached = float(model.language_model.model.embed_tokens.weight.grad[world.tokenizer.encode("red")].abs().max())
        assert (reached > 0) is (context_grad == "full")


def test_the_idle_pack_touches_every_parameter(world):
    model = world.copy()
    output = model(idle_pack(model.config, model.special))
    (output.logits.sum() + output.velocity.sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_entropy_is_that_of_the_sampling_distribution(world):
    trajectories = world.sample(1)
    (replay,) = world.replay().packs(trajectories)
    with torch.no_grad():
        output = world.model(replay.pack)
        score = evaluate(output, replay, trajectories, world.law())
    probabilities = torch.softmax(output.logits / SAMPLING.temperature, -1)
    expected = -(probabilities * probabilities.log()).sum(-1)
    torch.testing.assert_close(torch.cat([t.entropy for t in score.texts]), expected, rtol=1e-4, atol=1e-5)
