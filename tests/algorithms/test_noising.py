"""NFT and AWM on trajectories: what is noised, what the loss is, and a learner that resumes with its old policy."""

from dataclasses import replace

import pytest
import torch

from irg_rl import flow
from irg_rl.algorithms import old_policy
from irg_rl.algorithms.awm import AWM, AWMSettings
from irg_rl.algorithms.base import RankContext, Shared
from irg_rl.algorithms.joint import JointLoss, PackImage, finish
from irg_rl.algorithms.learner import Learner, LearnerSettings
from irg_rl.algorithms.nft import NFT, NFTSettings
from irg_rl.algorithms.noising import noised, times
from irg_rl.config import load_recipe
from irg_rl.learner import checkpoint
from irg_rl.learner.checkpoint import Snapshot
from irg_rl.learner.engine import EngineSettings
from irg_rl.learner.old_weights import OldPolicySchedule, OldWeights, holding
from irg_rl.learner.parts import OptimizerSettings
from irg_rl.learner.policy import velocities
from irg_rl.learner.process_group import Rank
from irg_rl.learner.ratio_check import RatioError
from irg_rl.losses import preference
from irg_rl.model.folder import save_folder
from irg_rl.streams import stream
from irg_rl.trajectory import Group
from tests.algorithms.test_joint import shifted
from tests.learner.test_replay import assert_equal_gradients
from tests.paths import CONFIGS

IMAGES_ALONE = Shared(text_weight=0.0)
LEVELS = NFTSettings(times_per_image=3)
MATCHED, WEIGHTED = NFT(LEVELS, IMAGES_ALONE), AWM(AWMSettings(times_per_image=3), IMAGES_ALONE)


@pytest.fixture(scope="module")
def groups(world):
    """Two groups drawn by the ODE, of different lengths."""
    drawn = world.sample(6, noise=None, record_steps=False)
    drawn[1].segments = drawn[1].segments[:2]
    drawn[4].segments = drawn[4].segments[:3]
    return [Group(3, drawn[0].prompt, drawn[:3]), Group(4, drawn[0].prompt, drawn[3:])]


def images(groups):
    return [image for group in groups for t in group.trajectories for image in t.images]


# --- what is noised


def test_what_the_sampler_arrived_at_is_noised_and_not_what_it_saw_of_it(groups):
    for before, after in zip(images(groups), images(noised(groups, LEVELS, 1.0, seed=0, update=0))):
        assert before.x.shape[0] == 0 and after.x.shape == (3, *before.drawn.shape)
        assert not torch.equal(before.drawn, before.latent)
        noise = (after.x - (1 - after.t)[:, None, None] * before.drawn) / after.t[:, None, None]
        assert noise.std().item() == pytest.approx(1, abs=0.25)
        again = flow.interpolate(before.drawn.expand_as(noise), noise, after.t)
        torch.testing.assert_close(again, after.x)


def test_noise_and_times_are_a_function_of_run_update_group_sample_and_segment(groups):
    one, again = (noised(groups, LEVELS, 1.0, seed=5, update=2) for _ in range(2))
    assert all(torch.equal(a.x, b.x) and torch.equal(a.t, b.t) for a, b in zip(images(one), images(again)))
    alone = noised(groups[1:], LEVELS, 1.0, seed=5, update=2)
    assert all(torch.equal(a.x, b.x) for a, b in zip(images(alone), images(one[1:])))
    for other in (noised(groups, LEVELS, 1.0, seed=6, update=2), noised(groups, LEVELS, 1.0, seed=5, update=3)):
        assert not any(torch.equal(a.t, b.t) for a, b in zip(images(one), images(other)))
    drawn = [tuple(image.t.tolist()) for image in images(one)]
    assert len(set(drawn)) == len(drawn)


def test_a_segment_that_siblings_share_is_noised_once_and_one_without_advantage_not_at_all(groups):
    first, second = groups[0].trajectories[0], groups[0].trajectories[2]
    unused = replace(second.segments[3], advantage=None)
    shared = replace(second, segments=[*first.segments[:2], second.segments[2], unused])
    made = noised([replace(groups[0], trajectories=[first, shared])], LEVELS, 1.0, seed=0, update=0)[0].trajectories
    assert made[0].segments[1] is made[1].segments[1] is not first.segments[1]
    assert made[1].segments[3].x.shape[0] == 0


def test_times_lie_one_in_each_part_of_the_range_and_follow_the_shift():
    plain = times(4, (0.1, 0.9), 1.0, stream("a"))
    edges = torch.linspace(0.1, 0.9, 5)
    assert ((edges[:-1] <= plain) & (plain <= edges[1:])).all()
    assert (times(4, (0.1, 0.9), 3.0, stream("a")) > plain).all()


@pytest.mark.parametrize("kind", [NFT, AWM])
def test_the_levels_of_an_update_have_the_shift_of_the_sampler(world, groups, kind):
    """Fails where the shift is ignored: it moves every level towards noise."""
    old = OldWeights([], OldPolicySchedule())
    rank = RankContext(None, world.replay(), Rank(0, 1, "cpu"), world.law(noise=None), "fp32", 0, 4096, old=old)
    plain, shifted_ = (
        torch.stack([image.t for image in images(kind(kind.Settings(), Shared(shift=shift)).prepared(rank, groups))])
        for shift in (1.0, 3.0)
    )
    low, high = NFTSettings().time_range
    expected = low + (high - low) * flow.shifted((plain - low) / (high - low), 3.0)
    torch.testing.assert_close(shifted_, expected)
    assert (shifted_ > plain).all()


def test_the_shift_of_the_recipe_is_that_of_the_levels():
    recipe = load_recipe(CONFIGS / "shapes-smoke.yaml", ["sampling.shift=2.5"])
    assert Shared.of(recipe).shift == 2.5


# --- the loss


def joint_of(world, groups, algorithm, size=4096):
    """Packs, loss and old policy (the world's weights) of `groups`."""
    prepared = noised(groups, algorithm.options, 1.0, seed=0, update=0)
    trajectories = [trajectory for group in prepared for trajectory in group.trajectories]
    replays = world.replay(max_pack_tokens=size).packs(trajectories)
    law = world.law(noise=None)
    old = old_policy.of_weights(Fixed(world.model), {}, replays, trajectories, law, texts=False)
    return replays, JointLoss(algorithm, law, replays, trajectories, old), trajectories


class Fixed:
    """The part of the engine that the old policy needs, for a model that is the old one itself."""

    def __init__(self, model):
        self.model = model

    def holding(self, weights):
        return holding(self.model, self.model.state_dict())

    @torch.no_grad()
    def evaluate(self, packs, read):
        return [read(self.model(pack), index) for index, pack in enumerate(packs)]


@pytest.mark.parametrize("algorithm", [MATCHED, WEIGHTED])
def test_the_loss_of_the_pack_is_the_pure_loss_of_every_image_and_level(world, groups, algorithm):
    model = shifted(world)
    replays, joint, trajectories = joint_of(world, groups, algorithm)
    totals, found, expected = joint.denominators(), 0.0, 0.0
    assert totals["image"] == 3 * len(images(groups))
    for index, replay in enumerate(replays):
        output = model(replay.pack)
        found += joint(output, index, totals).terms["image"].item()
        pairs = zip(replay.images, velocities(output, replay), velocities(world.model(replay.pack), replay))
        for ref, v, v_old in pairs:
            image = trajectories[ref.trajectory].segments[ref.segment]
            x, t = image.x[list(ref.steps)], image.t[list(ref.steps)]
            clean, advantages = image.drawn.expand_as(x), torch.full_like(t, image.advantage)
            if algorithm is MATCHED:
                good = preference.nft_optimality(advantages, 5.0)
                expected += preference.nft_loss(v, v_old, x, clean, t, good).sum().item()
            else:
                target = (x - clean) / t[:, None, None]
                ratio = (preference.awm_log_prob(v, target, t) - preference.awm_log_prob(v_old, target, t)).exp()
                expected += -torch.minimum(ratio * advantages, ratio.clamp(0, 2) * advantages).sum().item()
    assert found == pytest.approx(expected / totals["image"], rel=1e-4)


@pytest.mark.parametrize(("weight", "power"), [("uniform", 0.25), ("t", 0.25), ("ghuber", 0.25), ("ghuber", 0.75)])
def test_the_weight_and_the_power_of_awm_reach_its_log_probability(groups, weight, power):
    """Fails where AWM ignores one of its options `weight` and `power`."""
    (image, *_) = images(noised(groups, LEVELS, 1.0, seed=0, update=0))
    v, v_old = (torch.randn(image.x.shape, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    algorithm = AWM(AWMSettings(weight=weight, power=power, clip=0.5), IMAGES_ALONE)
    loss = algorithm.image_loss(PackImage(image, [0, 1, 2], -2.0, v, {"velocity": v_old}))
    error, before = (((one - (image.x - image.drawn) / image.t[:, None, None]) ** 2).mean((1, 2)) for one in (v, v_old))
    log_prob = {
        "uniform": lambda e: -e, "t": lambda e: -e * image.t,
        "ghuber": lambda e: -((e + 1e-10) ** power - 1e-10**power) * image.t / power,
    }[weight]  # fmt: skip
    torch.testing.assert_close(loss.metrics["log_prob"], log_prob(error))
    torch.testing.assert_close(loss.log_ratio, log_prob(error) - log_prob(before))
    ratio = loss.log_ratio.exp()
    torch.testing.assert_close(loss.per_step, torch.maximum(2.0 * ratio, 2.0 * ratio.clamp(0.5, 1.5)))


@pytest.mark.parametrize("algorithm", [MATCHED, WEIGHTED])
def test_a_step_brings_the_velocity_nearer_to_good_images_and_away_from_bad_ones(world, groups, algorithm):
    model = world.copy()
    replays, joint, trajectories = joint_of(world, groups, algorithm)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for _ in range(5):
        optimizer.zero_grad()
        for index, replay in enumerate(replays):
            joint(model(replay.pack), index, joint.denominators()).total().backward()
        optimizer.step()
    change = {True: 0.0, False: 0.0}
    with torch.no_grad():
        for replay in replays:
            pairs = zip(replay.images, velocities(model(replay.pack), replay),
                        velocities(world.model(replay.pack), replay))  # fmt: skip
            for ref, v, v_old in pairs:
                image = trajectories[ref.trajectory].segments[ref.segment]
                x, t = image.x[list(ref.steps)], image.t[list(ref.steps), None, None]
                target = (x - image.drawn) / t
                change[image.advantage > 0] += float(((v - target) ** 2 - (v_old - target) ** 2).mean())
    assert change[True] < 0 < change[False]


def gradient(world, groups, size):
    model = world.copy()
    replays, joint, _ = joint_of(world, groups, MATCHED, size=size)
    for index, replay in enumerate(replays):
        joint(model(replay.pack), index, joint.denominators()).total().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, len(replays)


def test_levels_spread_over_packs_give_the_gradient_of_one_pack(world, groups):
    (whole, few), (parts, many) = (gradient(world, groups, size) for size in (4096, 260))
    assert many > few
    assert_equal_gradients(whole, parts)


def test_metrics_per_turn_say_how_good_the_sides_are_and_how_far_the_old_policy_is(world, groups):
    def measured(algorithm, model):
        replays, joint, _ = joint_of(world, groups, algorithm)
        losses = [joint(model(r.pack), index, joint.denominators()) for index, r in enumerate(replays)]
        return finish(losses[0].sums, losses[0].maxima)

    still, moved = measured(MATCHED, world.model), measured(MATCHED, shifted(world))
    for turn in (0, 1, 2):
        name = f"image/turn{turn}/"
        assert still[name + "v_distance"] < 1e-9 < moved[name + "v_distance"]
        assert still[name + "positive"] == pytest.approx(still[name + "negative"], rel=1e-4)
        assert still[name + "v_norm"] == pytest.approx(1, abs=1e-4)
    assert 0 < still["image/turn0/good"] < 1 and 0 < still["image/turn0/optimality"] < 1
    assert measured(WEIGHTED, world.model)["image/turn1/log_ratio_max"] < 1e-5


# --- the old policy


def test_the_old_weights_follow_by_the_schedule():
    schedule = OldPolicySchedule(flat=1, slope=0.25, most=0.6)
    assert [schedule.decay(update) for update in range(6)] == [0, 0, 0.25, 0.5, 0.6, 0.6]
    old = OldWeights([("w", torch.zeros(2))], schedule)
    seen = []
    for value in (1.0, 2.0, 3.0, 4.0):
        old.update([("w", torch.full((2,), value))])
        seen.append(old.weights["w"][0].item())
    assert seen == [1.0, 2.0, pytest.approx(0.25 * 2 + 0.75 * 3), pytest.approx(0.5 * 2.75 + 0.5 * 4)]


SLOW = OldPolicySchedule(slope=0.3, most=0.9)


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "base"
    save_folder(world.model, world.vae, world.tokenizer, path)
    return str(path)


def started(world, folder, stage=2, **changes):
    rates = OptimizerSettings({"und": 1e-3, "gen": 2e-3, "vision": 1e-3})
    algorithm = NFT(LEVELS.model_copy(update={"old": SLOW}))
    options = {"law": world.law(noise=None), "algorithm": algorithm, "max_pack_tokens": 330} | changes
    learner = Learner(LearnerSettings(folder, EngineSettings(rates, zero_stage=stage), **options))
    learner.setup()
    return learner


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_ten_updates_equal_five_and_a_resume_of_five_with_the_old_policy_bit_for_bit(
    world, folder, groups, tmp_path, stage
):
    learner = started(world, folder, stage, minibatches=2)
    rows = learner.check_ratio(*groups)
    assert {row["modality"] for row in rows} == {"text"}
    for _ in range(3):
        learner.train(*groups)
    path = learner.save(str(tmp_path), Snapshot(3, {}), keep_last=1)
    assert "old" in checkpoint.load(checkpoint.latest(tmp_path)[0]).tensors
    ahead = [learner.train(*groups) for _ in range(3)]
    resumed = started(world, folder, stage, minibatches=2)
    assert resumed.load(path) == []
    assert [resumed.train(*groups) for _ in range(3)] == ahead
    assert resumed.publish(6).digest == learner.publish(6).digest
    current, old = learner.average(), learner.publish(6).arrays
    assert any(not torch.equal(current[name], torch.from_numpy(old[name])) for name in current)


@pytest.mark.parametrize("stage", [1, 3])
def test_every_zero_stage_sees_the_same_old_policy(world, folder, groups, stage):
    plain, other = started(world, folder, 0), started(world, folder, stage)
    for learner in (plain, other):
        learner.check_ratio(*groups)
    for _ in range(3):
        expected, found = plain.train(*groups), other.train(*groups)
        for name in ("image/turn1/v_distance", "loss/image", "image/turn2/positive"):
            assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-7), name
    assert expected["image/turn1/v_distance"] > 0


def test_the_first_update_begins_at_the_old_policy_and_samplers_get_that_one(world, folder, groups):
    learner = started(world, folder)
    before = learner.publish(0)
    learner.check_ratio(*groups)
    assert learner.train(*groups)["image/turn0/v_distance"] == 0
    first, trained = learner.publish(1), learner.average()
    assert first.digest != before.digest  # decay 0
    assert all(torch.equal(torch.from_numpy(first.arrays[name]), value) for name, value in trained.items())
    learner.train(*groups)
    second = learner.publish(2).arrays
    for name, value in learner.average().items():
        mixed = 0.3 * torch.from_numpy(first.arrays[name]) + 0.7 * value
        torch.testing.assert_close(torch.from_numpy(second[name]), mixed, rtol=1e-5, atol=1e-7)


def test_in_bf16_the_texts_old_log_probabilities_are_those_of_the_old_weights(world, folder, groups):
    rates = OptimizerSettings({"und": 1e-3, "gen": 1e-3, "vision": 1e-3})
    settings = LearnerSettings(
        folder, EngineSettings(rates, zero_stage=2, precision="bf16"), NFT(LEVELS),
        world.law(noise=None), max_pack_tokens=330,
    )  # fmt: skip
    learner = Learner(settings)
    learner.setup()
    learner.check_ratio(*groups)
    metrics = learner.train(*groups)
    assert metrics["text/turn1/log_ratio_max"] == metrics["image/turn0/v_distance"] == 0.0


def test_trajectories_of_another_law_are_refused(world, folder, groups):
    learner = started(world, folder)
    with pytest.raises(RatioError, match="kind flow_sde where the learner has None"):
        learner.check_ratio(Group(0, groups[0].prompt, world.sample(2)))
