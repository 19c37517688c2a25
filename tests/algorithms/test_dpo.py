"""DPO on trajectories: what a pair shares cancels, its two sides see the same noise, and the reference stays."""

from dataclasses import replace

import pytest
import torch

from irg_rl.algorithms.base import Shared
from irg_rl.algorithms.dpo import (
    DPO,
    DPOSettings,
    PairLoss,
    PairPack,
    fits,
    minibatches,
    pair_packs,
    prepared,
    reference_scores,
)
from irg_rl.algorithms.joint import finish
from irg_rl.algorithms.learner import EMPTY_UPDATES, Learner, LearnerSettings
from irg_rl.config import LoraRecipe
from irg_rl.errors import InputError
from irg_rl.learner.checkpoint import Snapshot
from irg_rl.learner.engine import EngineSettings
from irg_rl.learner.parts import OptimizerSettings
from irg_rl.learner.policy import PackScores, evaluate_texts, velocities
from irg_rl.learner.ratio_check import RatioError
from irg_rl.learner.replay import ReplayPack
from irg_rl.losses import preference
from irg_rl.model.folder import save_folder
from irg_rl.pairs import Pair, mark
from irg_rl.trajectory import Group, TextSegment
from tests.algorithms.test_joint import shifted
from tests.algorithms.test_noising import Fixed
from tests.learner.test_replay import assert_equal_gradients
from tests.test_credit import PROMPT, sample

SETTINGS = DPOSettings(times_per_image=2, beta_text=0.5, beta_image=3.0, malformed_penalty=0.0)
PREFERENCES = DPO(SETTINGS, Shared(reward_weights={"verifier": 1.0}))


@pytest.fixture(scope="module")
def groups(world):
    """Two groups of three; in the second they part after the first turn, and its last one stops early."""
    drawn = world.sample(6, noise=None, record_steps=False)
    for trajectory in drawn[4:]:
        trajectory.segments[:2] = drawn[3].segments[:2]
    drawn[5].segments = drawn[5].segments[:4]
    for trajectory, value in zip(drawn, (0.0, 1.0, 0.5, 0.9, 0.2, 0.1)):
        trajectory.rewards = {"verifier": [value] * trajectory.turns}
    made = [Group(3, drawn[0].prompt, drawn[:3]), Group(4, drawn[0].prompt, drawn[3:])]
    for group in made:
        mark(group, PREFERENCES.pairs([group]).found)
    return made


def pairs_of(groups):
    return PREFERENCES.pairs(groups).found


def loss_of(world, pairs, model, limit=8192, settings=SETTINGS, **weights):
    """Packs and losses of `pairs` under `model`; the reference is the world's."""
    sides = [prepared(pair, settings, 1.0, seed=0, update=0) for pair in pairs]
    packs = pair_packs(world.replay(max_pack_tokens=limit), sides, limit)
    law = world.law(noise=None)
    reference = reference_scores(Fixed(world.model), {}, packs, law)
    joint = PairLoss(settings, law, packs, reference, **weights)
    totals = joint.denominators()
    return packs, [joint(model(part.replay.pack), index, totals) for index, part in enumerate(packs)]


def test_the_pair_of_a_group_is_its_best_against_its_worst_where_they_part(groups):
    one, other = pairs_of(groups)
    assert (one.fork, one.chosen.sample, one.rejected.sample) == (0, 1, 0)
    assert (other.fork, other.chosen.sample, other.rejected.sample) == (2, 3, 5)


def test_both_sides_of_a_pair_are_noised_alike_and_each_turn_apart(groups):
    chosen, rejected = prepared(pairs_of(groups)[0], SETTINGS, 1.0, seed=0, update=0)
    noises = []
    for one, other in zip(chosen.images, rejected.images):
        assert torch.equal(one.t, other.t) and not torch.equal(one.x, other.x)
        noise, same = ((i.x - (1 - i.t)[:, None, None] * i.drawn) / i.t[:, None, None] for i in (one, other))
        torch.testing.assert_close(noise, same, rtol=1e-4, atol=1e-4)
        noises.append(noise)
    assert (noises[0] - noises[1]).abs().max() > 0.1  # recovered noise is never equal to the last bit
    again = prepared(pairs_of(groups)[0], SETTINGS, 1.0, seed=0, update=1)[0]
    assert not torch.equal(again.images[0].t, chosen.images[0].t)


def test_what_comes_before_the_fork_carries_no_loss_and_would_cancel_exactly(world, groups):
    """The same pair with the prefix trained on both sides has the same loss, and the same gradient."""
    pair = pairs_of(groups)[1]
    results = []
    for fork in (2, 0):
        model = shifted(world)
        (part,), (loss,) = loss_of(world, [replace(pair, fork=fork)], model)
        loss.total().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        trained = {ref.segment for ref in [*part.replay.texts, *part.replay.images]}
        results.append((trained, {name: float(term.detach()) for name, term in loss.terms.items()}, gradients))
    (after, terms, gradients), (all_of_it, expected, whole) = results
    assert min(after) == 2 and min(all_of_it) == 0
    assert terms["text"] == pytest.approx(expected["text"], abs=1e-6)
    # times of a turn have the turn's name, so images after the fork are noised as they were; those before it cancel
    assert terms["image"] == pytest.approx(expected["image"], abs=1e-6)
    assert_equal_gradients(gradients, whole)


def test_the_loss_is_token_dpo_and_flow_dpo_of_every_pair(world, groups):
    model = shifted(world)
    (part,), (loss,) = loss_of(world, pairs_of(groups)[:1], model, text_weight=0.5, image_weight=2.0)
    law, replay = world.law(noise=None), part.replay
    text = image = 0.0
    outputs = [model(replay.pack), world.model(replay.pack)]
    logps = [[s.logprobs.sum() for s in evaluate_texts(output, replay, law)] for output in outputs]
    for ref, own, first in zip(replay.texts, *logps):
        text += (1 if ref.trajectory == 0 else -1) * (own - first)
    for ref, v, v_ref in zip(replay.images, *(velocities(output, replay) for output in outputs)):
        drawn = part.trajectories[ref.trajectory].segments[ref.segment]
        target = (drawn.x - drawn.drawn) / drawn.t[:, None, None]
        gap = ((v - target) ** 2 - (v_ref - target) ** 2).mean()
        image += (-0.5 if ref.trajectory == 0 else 0.5) * gap
    expected = 0.5 * preference.preference_loss(text, 0.5) + 2.0 * preference.preference_loss(image, 3.0)
    assert float(loss.total().detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    metrics = finish(loss.sums, loss.maxima)
    assert metrics["dpo_text/margin"] == pytest.approx(float(text.detach()), rel=1e-3, abs=1e-5)
    assert metrics["dpo_image/margin"] == pytest.approx(float(image.detach()), rel=1e-3, abs=1e-6)


def test_an_image_whose_sibling_has_stopped_has_no_loss(world, groups):
    pair = pairs_of(groups)[1]
    (part,), _ = loss_of(world, [pair], world.model)
    sides = part.trajectories
    turns = {(ref.trajectory, sides[ref.trajectory].segments[ref.segment].turn) for ref in part.replay.images}
    assert turns == {(0, 1), (1, 1)} and pair.chosen.turns == 3


def test_pairs_in_one_pack_or_in_several_have_one_gradient_and_a_rank_has_its_share(world, groups):
    drawn = groups[0].trajectories + groups[1].trajectories[:2]
    pairs = [Pair(drawn[i], drawn[j], 0, 3, 1.0) for i, j in ((0, 1), (1, 2), (3, 4))]
    small, found = room(world, pairs), []
    for limit in (8192, small):
        model = shifted(world)
        packs, losses = loss_of(world, pairs, model, limit)
        sum(loss.total() for loss in losses).backward()
        found.append((len(packs), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    assert found[0][0] == 1 < found[1][0]
    assert_equal_gradients(found[0][1], found[1][1])
    sides = [prepared(pair, SETTINGS, 1.0, 0, 0) for pair in pairs]
    replay = world.replay(max_pack_tokens=small)
    whole, *parts = (pair_packs(replay, sides, small, *place) for place in ((0, 1), (0, 2), (1, 2)))
    assert sum(map(len, parts)) == len(whole) == 3 and all(part.replay.pack.tokens <= small for part in whole)
    assert [len(part) for part in minibatches(pairs, 2)] == [2, 1]


def test_a_pack_of_a_pair_s_size_holds_it_and_a_smaller_one_does_not(world, groups):
    for pair in pairs_of(groups):
        sides, size = prepared(pair, SETTINGS, 1.0, 0, 0), room(world, [pair])
        assert fits(world.replay(), sides, size) and not fits(world.replay(), sides, size - 1)
        assert len(pair_packs(world.replay(max_pack_tokens=size), [sides], size)) == 1


def test_the_padding_of_the_shorter_side_of_a_pair_counts(world, groups):
    chosen, rejected = prepared(pairs_of(groups)[0], SETTINGS, 1.0, 0, 0)
    sides = chosen, replace(rejected, segments=rejected.segments[:2])
    longer, shorter = world.replay().lengths(sides)
    assert shorter < longer
    assert fits(world.replay(), sides, 2 * longer) and not fits(world.replay(), sides, longer + shorter)


def test_a_term_is_a_mean_over_the_pairs_that_have_something_to_compare(world, groups):
    """Beside a whole pair, one whose rejected side stops without an image, and one whose texts were given."""
    drawn = groups[1].trajectories
    whole = pairs_of(groups)[0]
    stopped = Pair(drawn[0], replace(drawn[2], segments=drawn[2].segments[:3]), 2, 4, 1.0)
    silent = Pair(with_given_texts(drawn[0]), with_given_texts(drawn[1]), 2, 4, 1.0)
    model = shifted(world)
    for other, empty in ((stopped, "image"), (silent, "text")):
        alone, both = (loss_of(world, pairs, model)[1] for pairs in ([whole], [whole, other]))
        terms = [sum(float(loss.terms[empty].detach()) for loss in losses) for losses in (alone, both)]
        assert terms[0] == pytest.approx(terms[1], rel=1e-5)
        counts = {name: sum(loss.sums[f"dpo_{name}/count"] for loss in both) for name in ("text", "image")}
        assert counts == {"text": 2, "image": 2} | {empty: 1}


def with_given_texts(trajectory):
    segments = [
        replace(s, logprobs=torch.full_like(s.logprobs, torch.nan)) if isinstance(s, TextSegment) else s
        for s in trajectory.segments
    ]
    return replace(trajectory, segments=segments)


def test_margins_lie_where_the_model_does_also_without_anything_to_compare(world, groups):
    (part,), _ = loss_of(world, pairs_of(groups)[:1], world.model)
    bare, nothing = PairPack(ReplayPack(part.replay.pack, [], []), part.trajectories), PackScores([], [])
    loss, elsewhere = PairLoss(SETTINGS, world.law(noise=None), [bare], [nothing]), torch.device("meta")
    for margins_of in (loss._text_margins, loss._image_margins):
        margins, metrics = margins_of(bare, nothing, nothing, elsewhere)
        assert {margins.device, *(metric.device for metric in metrics.values())} == {elsewhere}


def test_a_text_that_never_ended_costs_its_trajectory_the_penalty():
    group = Group(0, PROMPT, [sample(0, [0.9], cut_off=(0,)), sample(1, [0.3])])
    for penalty, chosen, gap in ((0.0, 0, 0.6), (1.0, 1, 0.4)):
        settings = SETTINGS.model_copy(update={"malformed_penalty": penalty})
        (pair,) = DPO(settings, Shared(reward_weights={"score": 1.0})).pairs([group]).found
        assert pair.chosen.sample == chosen and pair.gap == pytest.approx(gap)


def room(world, pairs) -> int:
    """Tokens of the smallest pack that holds any one of the pairs, padding included."""
    alone = (loss_of(world, [pair], world.model)[0][0].replay.pack.lengths for pair in pairs)
    return max(len(lengths) * max(lengths) for lengths in alone)


# --- the learner


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "base"
    save_folder(world.model, world.vae, world.tokenizer, path)
    return str(path)


def started(world, folder, stage=2, **changes):
    rates = OptimizerSettings({"und": 1e-3, "gen": 2e-3, "vision": 1e-3})
    options = {"law": world.law(noise=None), "algorithm": PREFERENCES} | changes
    options.setdefault("engine", EngineSettings(rates, zero_stage=stage))
    learner = Learner(LearnerSettings(folder, **options))
    learner.setup()
    return learner


def test_training_prefers_what_was_chosen_in_texts_and_images(world, folder, groups):
    learner = started(world, folder)
    learner.check_ratio(groups[0])  # the second's last texts were not sampled after the turn that they share
    first = learner.train(*groups)
    assert first["loss/text"] == pytest.approx(0.6931, abs=1e-3) == first["loss/image"]
    assert first["dpo/count"] == 2 and first["dpo/ties"] == 0
    for _ in range(6):
        metrics = learner.train(*groups)
    assert metrics["dpo/accuracy"] == 1 and metrics["dpo_text/margin"] > 0.05 and metrics["dpo_image/margin"] > 0
    assert metrics["dpo_text/winner_logp"] > first["dpo_text/winner_logp"]
    assert metrics["loss/text"] < first["loss/text"] and metrics["loss/image"] < first["loss/image"]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_ten_updates_equal_five_and_a_resume_of_five_with_the_first_weights_as_reference(
    world, folder, groups, tmp_path, stage
):
    learner = started(world, folder, stage, minibatches=2)
    learner.check_ratio(groups[0])
    for _ in range(2):
        learner.train(*groups)
    path = learner.save(str(tmp_path), Snapshot(2, {}), keep_last=1)
    ahead = [learner.train(*groups) for _ in range(2)]
    resumed = started(world, folder, stage, minibatches=2)
    assert resumed.load(path) == []
    assert [resumed.train(*groups) for _ in range(2)] == ahead
    assert resumed.publish(4).digest == learner.publish(4).digest


def test_with_adapters_the_reference_is_the_model_without_them(world, folder, groups):
    rates = OptimizerSettings({"und": 1e-2, "gen": 1e-2, "vision": 0.0})
    learner = started(world, folder, engine=EngineSettings(rates, zero_stage=2), lora=LoraRecipe(rank=4, alpha=8))
    learner.check_ratio(groups[0])
    for _ in range(3):
        metrics = learner.train(*groups)
    assert abs(metrics["dpo_text/margin"]) > 1e-3  # the policy has moved
    sides = [prepared(pair, SETTINGS, 1.0, 0, 0) for pair in pairs_of(groups)]
    packs, law = pair_packs(world.replay(), sides, 4096), world.law(noise=None)
    found = reference_scores(learner.engine, learner.context.first, packs, law)
    base = reference_scores(Fixed(world.model), {}, packs, law)
    for mine, theirs in zip(found, base):
        for one, other in zip(mine.texts, theirs.texts):
            torch.testing.assert_close(one.logprobs, other.logprobs, rtol=1e-5, atol=1e-5)
        for one, other in zip(mine.images, theirs.images):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_offline_images_of_any_law_will_do_but_texts_must_be_of_the_temperature(world, folder, groups):
    learner = started(world, folder, offline=True)
    law = world.law()
    for group in groups:
        stepped = [replace(t, law=law) for t in group.trajectories]
        assert learner.train(replace(group, trajectories=stepped))["dpo/count"] == 1  # no ratio check before
        warm = [replace(t, law=replace(law, temperature=0.5)) for t in group.trajectories]
        with pytest.raises(RatioError, match="was drawn at temperature 0.5, the learner has 0.9"):
            learner.train(replace(group, trajectories=warm))
    online = started(world, folder)
    online._checked = True
    with pytest.raises(RatioError, match="kind flow_sde where the learner has None"):
        online.train(replace(groups[0], trajectories=[replace(t, law=law) for t in groups[0].trajectories]))


def test_groups_of_ties_are_refused(world, folder, groups):
    even = [replace(t, rewards={"verifier": [0.5] * t.turns}) for t in groups[0].trajectories]
    learner = started(world, folder, offline=True)
    with pytest.raises(ValueError, match="none of 1 groups has a pair; 1 are ties"):
        learner.train(replace(groups[0], trajectories=even))


def test_a_pair_too_long_for_a_pack_is_left_out_and_an_update_without_any_other_is_skipped(world, folder, groups):
    smaller = min(room(world, [pair]) for pair in pairs_of(groups))
    learner = started(world, folder, offline=True, max_pack_tokens=smaller, minibatches=2)
    metrics = learner.train(*groups)
    assert (metrics["dpo/count"], metrics["dpo/too_long"], metrics["skipped"]) == (1, 1, 0)
    learner = started(world, folder, offline=True, max_pack_tokens=smaller - 1)
    before = learner.publish(0).digest
    for _ in range(EMPTY_UPDATES - 1):
        assert learner.train(*groups) == {"dpo/ties": 0, "dpo/too_long": 2, "step": 0, "skipped": 1}
    assert learner.publish(0).digest == before
    with pytest.raises(InputError, match=f"rl.max_pack_tokens {smaller - 1}: fork the run with more"):
        learner.train(*groups)
