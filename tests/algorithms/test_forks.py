"""Siblings of a fork in one row are what each of them would be in a row of its own: log-probabilities and gradients."""

from dataclasses import replace

import pytest
import torch

from irg_rl.algorithms.joint import JointLoss
from irg_rl.algorithms.old_policy import sampled
from irg_rl.learner.ratio_check import check
from irg_rl.records import load_groups, save_groups
from irg_rl.trajectory import Group, ImageSegment, TextSegment
from tests.learner.test_replay import assert_equal_gradients, largest_gaps, scored
from tests.learner.world import SAMPLING, grpo

FORKS = [{1: 3}, {2: 3}, {1: 3, 2: 2}]


def draw(world, forks, history="last", count=6):
    return world.sample(count, SAMPLING.model_copy(update={"history": history}), forks=forks)


def alone(trajectories):
    """The naive rows: copies that share nothing; what an earlier sibling trains is context in the later ones."""
    seen, copies = set(), []
    for trajectory in trajectories:
        segments = [given(s) if id(s) in seen else replace(s) for s in trajectory.segments]
        seen |= set(map(id, trajectory.segments))
        copies.append(replace(trajectory, segments=segments))
    return copies


def given(segment):
    if isinstance(segment, TextSegment):
        return replace(segment, logprobs=torch.full_like(segment.logprobs, torch.nan))
    steps = ("x", "x_next", "mean", "t", "t_next", "logprobs")
    return replace(segment, **{name: vars(segment)[name][:0] for name in steps})


def values(trajectories, replays, scores):
    """Log-probabilities by (sample, place, step)."""
    found = {}
    for replay, score in zip(replays, scores):
        for ref, own in zip(replay.texts, score.texts):
            found[ref.trajectory, ref.segment, None] = own.logprobs
        for ref, own in zip(replay.images, score.images):
            found |= {(ref.trajectory, ref.segment, s): own.logprobs[i] for i, s in enumerate(ref.steps)}
    return found


def gradients(world, trajectories, replays, context_grad="full"):
    model = world.copy().train()
    joint = JointLoss(grpo(clip_image=0.5), world.law(), replays, trajectories, sampled(trajectories))
    totals = joint.denominators()
    terms = {"text": 0.0, "image": 0.0}
    for index, replay in enumerate(replays):
        loss = joint(model(replay.pack, context_grad=context_grad), index, totals)
        terms = {name: terms[name] + float(loss.terms[name].detach()) for name in terms}
        loss.total().backward()
    return {name: p.grad for name, p in model.named_parameters()}, terms, totals


def segments(trajectories, kind):
    return list({id(s): s for t in trajectories for s in t.segments if isinstance(s, kind)}.values())


@pytest.mark.parametrize("history", ["last", "full"])
@pytest.mark.parametrize("forks", FORKS, ids=str)
def test_the_replay_is_the_policy_that_sampled_and_scores_every_segment_once(world, forks, history):
    trajectories = draw(world, forks, history)
    replays = world.replay().packs(trajectories)
    gaps, counts = largest_gaps(trajectories, replays, scored(world, trajectories, replays, world.law()))
    assert max(gaps.values()) < 2e-5, gaps
    for turn in range(3):
        texts = [s for s in segments(trajectories, TextSegment) if s.turn == turn]
        images = [s for s in segments(trajectories, ImageSegment) if s.turn == turn]
        assert counts["text", turn] == sum(len(s.ids) for s in texts)
        assert counts["image", turn] == sum(len(s.x) for s in images)
        assert len(texts) < 6 or turn >= max(forks)


@pytest.mark.parametrize("history", ["last", "full"])
@pytest.mark.parametrize("forks", FORKS, ids=str)
def test_shared_rows_give_the_log_probabilities_and_gradients_of_naive_ones(world, forks, history):
    trajectories = draw(world, forks, history)
    naive = alone(trajectories)
    shared, rows = world.replay().packs(trajectories), world.replay().packs(naive)
    assert sum(r.pack.rows for r in shared) == 6 // 3 // (2 if len(forks) > 1 else 1)
    assert sum(r.pack.rows for r in rows) == 6
    assert sum(r.pack.tokens for r in shared) < sum(r.pack.tokens for r in rows)
    own = values(trajectories, shared, scored(world, trajectories, shared, world.law()))
    expected = values(naive, rows, scored(world, naive, rows, world.law()))
    assert own.keys() == expected.keys()
    for place, logprobs in expected.items():
        torch.testing.assert_close(own[place], logprobs, atol=1e-5, rtol=1e-5)
    for context_grad in ("full", "detached"):
        one, terms, totals = gradients(world, trajectories, shared, context_grad)
        many, naive_terms, naive_totals = gradients(world, naive, rows, context_grad)
        assert totals == naive_totals
        assert terms == pytest.approx(naive_terms, rel=1e-4)
        assert_equal_gradients(one, many)


@pytest.mark.parametrize("forks", FORKS, ids=str)
@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
def test_trees_split_over_packs_give_the_gradient_of_one_row(world, forks, share):
    trajectories = draw(world, forks, "full")
    whole = world.replay().packs(trajectories)
    size = int(share * max(max(r.pack.lengths) for r in whole))
    split = world.replay(max_pack_tokens=size).packs(trajectories)
    assert sum(r.pack.rows for r in split) > sum(r.pack.rows for r in whole)
    assert all(r.pack.rows * max(r.pack.lengths) <= size for r in split)
    places = [sorted((r.trajectory, r.segment, s) for pack in packs for r in pack.images for s in r.steps)
              for packs in (whole, split)]  # fmt: skip
    assert places[0] == places[1] and len(set(places[1])) == len(places[1])
    one, terms, totals = gradients(world, trajectories, whole)
    many, split_terms, split_totals = gradients(world, trajectories, split)
    assert split_totals == totals and split_terms == pytest.approx(terms, rel=1e-4)
    assert_equal_gradients(one, many)


def test_siblings_go_together_into_as_few_rows_as_hold_them(world):
    """Half of the siblings in each of two rows, which both repeat the trunk."""
    trajectories = draw(world, {1: 6})
    (whole,) = world.replay().packs(trajectories)
    trunk = whole.pack.views[0].own.stop
    size = trunk + (whole.pack.tokens - trunk) // 2 + 10
    split = world.replay(max_pack_tokens=size).packs(trajectories)
    assert [r.pack.rows for r in split] == [1, 1] and [len(r.pack.views) for r in split] == [4, 4]


def test_what_siblings_share_stands_in_a_row_once(world):
    trajectories = draw(world, {1: 3, 2: 2}, "full")
    (replay,) = world.replay().packs(trajectories)
    clean = int((replay.pack.times == 0).sum())
    assert clean == 1 + 3, "the first image and those of the three branches; the last images are nobody's context"
    assert len(replay.pack.patch_lengths) == clean
    assert len(replay.pack.text_ids) == sum(
        len(s.ids) + 2 - s.finished for s in segments(trajectories, TextSegment)
    ) + len(world.tokenizer.encode(trajectories[0].prompt.text)) + 2 + 2 * (len(replay.pack.times) + clean)
    assert len(replay.texts) == len(replay.images) == 1 + 3 + 6


def test_branches_cannot_see_each_other(world):
    """Another reflection in one branch leaves the numbers of its siblings, but not its own, as they were."""
    trajectories = draw(world, {1: 2}, count=2)
    (replay,) = world.replay().packs(trajectories)
    before = values(trajectories, [replay], scored(world, trajectories, [replay], world.law()))
    reflection = trajectories[0].segments[2]
    reflection.ids = reflection.ids.clone()
    reflection.ids[0] = reflection.ids[0] % 5 + 40
    (replay,) = world.replay().packs(trajectories)
    after = values(trajectories, [replay], scored(world, trajectories, [replay], world.law()))
    changed = {key[:2] for key in before if float((before[key] - after[key]).abs().max()) > 1e-6}
    assert {place for number, place in changed if number == 0} >= {2, 3}
    assert not any(number == 1 or place < 2 for number, place in changed)


def test_groups_with_forks_come_back_from_disk_with_all_that_they_share(world, tmp_path):
    trajectories = draw(world, {1: 3, 2: 2}, count=12)
    group = Group(7, trajectories[0].prompt, trajectories, 3)
    save_groups(tmp_path / "step", [group])
    (again,) = load_groups(tmp_path / "step")
    assert len(again.segments) == len(group.segments) < sum(len(t.segments) for t in trajectories)
    assert again.tokens() == group.tokens()
    for one, other in zip(world.replay().packs(trajectories), world.replay().packs(again.trajectories), strict=True):
        assert (one.texts, one.images) == (other.texts, other.images)
        assert torch.equal(one.pack.text_ids, other.pack.text_ids) and torch.equal(one.pack.latents, other.pack.latents)
        assert [v.own for v in one.pack.views] == [v.own for v in other.pack.views]


def test_the_ratio_check_names_the_place_of_a_shared_segment_once(world):
    trajectories = draw(world, {1: 3})
    replays = world.replay().packs(trajectories)

    class Forward:
        def evaluate(self, packs, read):
            with torch.no_grad():
                return [read(world.model(pack), index) for index, pack in enumerate(packs)]

    table = check(Forward(), replays, trajectories, world.law(), 1e-3)
    tokens = {d.turn: d.count for d in table if d.modality == "text"}
    assert tokens[0] == sum(len(s.ids) for s in segments(trajectories, TextSegment) if s.turn == 0)
    assert all(d.largest <= 1e-4 for d in table)
