"""The learner as it runs: in this process, and as one or two Ray actors."""

import copy
import os
import signal

import numpy as np
import pytest
import ray
import torch

from irg_rl.algorithms.joint import split
from irg_rl.algorithms.learner import Learner, LearnerSettings
from irg_rl.cluster.ranks import RankError, Ranks
from irg_rl.cluster.ray_runtime import LocalRay, RaySettings, actor_options
from irg_rl.learner import checkpoint
from irg_rl.learner.checkpoint import CheckpointError, Snapshot
from irg_rl.learner.engine import EngineSettings
from irg_rl.learner.parts import OptimizerSettings
from irg_rl.learner.policy import evaluate
from irg_rl.learner.ratio_check import RatioError
from irg_rl.model.folder import save_folder
from irg_rl.trajectory import Group
from tests.learner.world import NOISE, grpo


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "base"
    save_folder(world.model, world.vae, world.tokenizer, path)
    return str(path)


@pytest.fixture(scope="module")
def groups(world):
    """Two groups of trajectories of different lengths."""
    drawn = world.sample(6)
    drawn[1].segments = drawn[1].segments[:2]
    drawn[4].segments = drawn[4].segments[:3]
    return [Group(0, drawn[0].prompt, drawn[:3]), Group(1, drawn[0].prompt, drawn[3:])]


@pytest.fixture
def settings(world, folder):
    def make(stage=2, **changes):
        rates = OptimizerSettings({"und": 1e-3, "gen": 2e-3, "vision": 1e-3})
        options = {
            "folder": folder, "engine": EngineSettings(rates, zero_stage=stage), "law": world.law(),
            "algorithm": grpo(clip_image=1e-2), "max_pack_tokens": 330, "collective_timeout": 300.0,
        }  # fmt: skip
        return LearnerSettings(**(options | changes))

    return make


def started(settings):
    learner = Learner(settings)
    learner.setup()
    return learner


def test_groups_of_another_law_are_neither_checked_nor_trained_on(settings, groups, world):
    learner = started(settings(law=world.law(noise=NOISE.model_copy(update={"noise_level": 0.5}))))
    for use in (learner.check_ratio, learner.train):
        learner._checked = True
        with pytest.raises(RatioError, match="noise_level 0.7 where the learner has 0.5"):
            use(*groups)


def weights(learner):
    return learner.publish(1).arrays


def test_an_update_raises_what_was_rewarded_and_lowers_what_was_not(world, settings, groups):
    learner = started(settings())
    learner.check_ratio(*groups)
    for _ in range(3):
        metrics = learner.train(*groups)
    assert metrics["step"] == 3 and metrics["skipped"] == 0
    took = learner.seconds()
    assert all(took[part] > 0 for part in ("packing", "replay", "optimizer")) and not learner.seconds()
    trajectories = [t for group in groups for t in group.trajectories]
    changes = {"rewarded": 0.0, "punished": 0.0}
    for replay in world.replay().packs(trajectories):
        with torch.no_grad():
            scores = evaluate(learner.engine.model(replay.pack), replay, trajectories, world.law())
        for ref, score in zip(replay.texts + replay.images, scores.texts + scores.images):
            segment = trajectories[ref.trajectory].segments[ref.segment]
            kind = "rewarded" if segment.advantage > 0 else "punished"
            changes[kind] += float((score.logprobs - segment.logprobs).sum())
    assert changes["rewarded"] > 0 > changes["punished"]


def test_nothing_is_trained_before_the_ratio_check_and_a_failed_check_stops_the_run(settings, groups):
    learner = started(settings())
    wrong = copy.deepcopy(groups)
    wrong[0].trajectories[0].images[0].logprobs[0] += 1.0
    for refuse in (learner.check_ratio, learner.train, learner.train):
        with pytest.raises(RatioError):
            refuse(*wrong)
    assert (learner.updates, learner.engine.steps) == (0, 0)
    learner.train(*groups)
    assert (learner.updates, learner.engine.steps) == (1, 1)


def test_minibatches_are_as_many_optimizer_steps_and_cut_no_tree(settings, groups, world):
    learner = started(settings(minibatches=3))
    learner.check_ratio(*groups)
    assert learner.train(*groups)["step"] == 3
    drawn = world.sample(7)
    assert [[t.sample for t in part] for part in split(drawn, 3)] == [[0, 1], [2, 3, 4], [5, 6]]
    assert [len(part) for part in split(drawn[:2], 5)] == [1, 1]
    for one, other in zip(drawn[:6:2], drawn[1:6:2]):
        other.segments[:2] = one.segments[:2]
    assert [[t.sample for t in part] for part in split(drawn, 2)] == [[0, 1, 2, 3], [4, 5, 6]]
    assert [len(part) for part in split(drawn, 7)] == [2, 2, 2, 1]


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_group_with_forks_passes_the_ratio_check_and_is_trained_on_with_ratio_one(settings, world, minibatches):
    drawn = world.sample(8, forks={1: 2, 2: 2})
    forked = Group(0, drawn[0].prompt, drawn)
    learner = started(settings(minibatches=minibatches, max_pack_tokens=800))
    assert all(row["max"] <= min(row["limit"], 1e-4) for row in learner.check_ratio(forked))
    metrics = learner.train(forked)
    assert metrics["step"] == minibatches
    assert metrics["text/turn0/count"] == sum(len(t.texts[0].ids) for t in (drawn[0], drawn[4]))
    assert metrics["text/turn1/count"] == sum(len(t.texts[1].ids) for t in drawn[::2])
    assert metrics["image/turn2/count"] == sum(len(t.images[2].x) for t in drawn)
    if minibatches == 1:
        assert max(metrics[f"{m}/turn{k}/log_ratio_max"] for m in ("text", "image") for k in range(3)) < 1e-4


def test_the_gradient_of_the_image_loss_on_each_part_is_logged(settings, groups):
    learner = started(settings(probe_every=2))
    learner.check_ratio(*groups)
    first, second = learner.train(*groups), learner.train(*groups)
    assert first["grad_norm/image/und"] > 0 and first["grad_norm/text/gen"] > 0
    assert "grad_norm/image/und" not in second
    detached = started(settings(probe_every=1, context_grad="detached"))
    detached.check_ratio(*groups)
    assert detached.train(*groups)["grad_norm/image/vision"] == 0.0 < first["grad_norm/image/vision"]


def test_in_bf16_old_log_probabilities_are_the_learner_s_own_and_the_mismatch_is_only_logged(settings, groups):
    rates = OptimizerSettings({"und": 1e-3, "gen": 1e-3, "vision": 1e-3})
    learner = started(settings(engine=EngineSettings(rates, zero_stage=2, precision="bf16")))
    table = learner.check_ratio(*groups)
    assert max(row["max"] for row in table if row["modality"] == "text") > 1e-4
    metrics = learner.train(*groups)
    assert metrics["text/turn1/log_ratio_max"] == metrics["image/turn0/log_ratio_max"] == 0.0
    assert metrics["step"] == 1 and 0 < metrics["grad_norm/gen"] < float("inf")


def test_groups_without_any_advantage_are_refused(settings, groups):
    learner = started(settings())
    dead = copy.deepcopy(groups[:1])
    for trajectory in dead[0].trajectories:
        for segment in trajectory.segments:
            segment.advantage = None
    with pytest.raises(ValueError, match="none of 1 groups"):
        learner.check_ratio(*dead)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_ten_updates_equal_five_and_a_resume_of_five_bit_for_bit(settings, groups, tmp_path, stage):
    options = settings(stage, ema_decay=0.9, algorithm=grpo(kl_text=0.01, kl_image=0.01))
    learner = started(options)
    learner.check_ratio(*groups)
    for _ in range(5):
        learner.train(*groups)
    path = learner.save(str(tmp_path), Snapshot(5, {}, cursors={"prompt": 3}, recipe_digest="r"), keep_last=1)
    for _ in range(5):
        learner.train(*groups)

    resumed = started(options)
    assert checkpoint.describe(checkpoint.latest(tmp_path)[0]).cursors == {"prompt": 3}
    assert resumed.load(path) == []
    for _ in range(5):
        resumed.train(*groups)
    assert resumed.publish(10).digest == learner.publish(10).digest
    assert all(torch.equal(w, learner.average()[n]) for n, w in resumed.average().items())


def test_the_average_of_the_weights_follows_every_update_by_its_decay(settings, groups):
    """Fails where the learner returns its current weights in place of the average."""
    learner = started(settings(ema_decay=0.2))
    averaged = {name: torch.from_numpy(array) for name, array in weights(learner).items()}
    learner.check_ratio(*groups)
    for decay in (2 / 11, 0.2):  # the first decay is limited to (1 + n) / (10 + n)
        learner.train(*groups)
        averaged = {n: decay * averaged[n] + (1 - decay) * torch.from_numpy(w) for n, w in weights(learner).items()}
    moved = 0.0
    for name, found in learner.average().items():
        torch.testing.assert_close(found, averaged[name], rtol=1e-5, atol=1e-7)
        moved = max(moved, float((found - torch.from_numpy(weights(learner)[name])).abs().max()))
    assert moved > 1e-4


def test_a_checkpoint_that_cannot_be_written_is_an_error_of_the_learner(settings, tmp_path):
    learner = started(settings())
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        learner.save(str(tmp_path), Snapshot(0, {}), keep_last=1)


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory):
    with LocalRay(RaySettings(num_cpus=4, object_store_mb=128), tmp_path_factory.mktemp("run")) as running:
        yield running


def ranks_of(settings, world_size):
    actor = ray.remote(Learner)
    options = actor_options(threads=1, cpus=0.5)
    ranks = Ranks("learner", lambda rank: actor.options(**options).remote(settings, rank, world_size), world_size)
    ranks.start(timeout=400.0)
    return ranks


@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_in_ray_equal_one_in_this_process(local_ray, settings, groups, stage):
    options = settings(stage, probe_every=0 if stage == 3 else 1)
    alone = started(options)
    alone.check_ratio(*groups)
    expected = [alone.train(*groups) for _ in range(3)]

    ranks = ranks_of(options, 2)
    refs = [ray.put(group) for group in groups]
    tables = ranks.call("check_ratio", *refs, timeout=300.0)
    assert tables[0] == tables[1] and len(tables[0]) > 6
    found = [ranks.call("train", *refs, timeout=300.0) for _ in range(3)]
    for mine, theirs in zip(expected, found):
        for rank in (0, 1):
            assert theirs[rank].keys() == mine.keys()
            for name, value in mine.items():
                assert theirs[rank][name] == pytest.approx(value, rel=2e-3, abs=2e-5), name
    first, second = ranks.call("publish", 4, timeout=300.0)
    assert second is None
    for name, array in weights(alone).items():
        if name.startswith("vit_model") and name.endswith("k_proj.bias"):
            continue  # its gradient is zero by construction, so Adam makes steps of rounding noise
        np.testing.assert_allclose(first.arrays[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    ranks.stop()


def test_a_rank_that_dies_ends_the_wait_at_once_and_is_named(local_ray, settings, groups):
    ranks = ranks_of(settings(), 2)
    refs = [ray.put(group) for group in groups]
    ranks.call("check_ratio", *refs, timeout=300.0)
    pid = ray.get(ranks._actors[1].__ray_call__.remote(lambda learner: os.getpid()), timeout=30)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RankError, match="learner [01] died in train"):
        ranks.call("train", *refs, timeout=60.0)
