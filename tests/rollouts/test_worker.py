"""The worker: weights by digest, whole groups, the same group on any worker. The last test runs it under Ray."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import ray
import torch

from irg_rl.cluster.ray_runtime import LocalRay, RaySettings, actor_options, bounded_get
from irg_rl.config import NoiseRecipe, SamplingRecipe
from irg_rl.learner.publish import weights_digest
from irg_rl.model.folder import save_folder
from irg_rl.trajectory import Prompt
from rollouts.noise import group_seed
from rollouts.request import Request
from rollouts.weights import WeightsError
from rollouts.worker import RolloutWorker, WorkerSettings
from tests.rollouts.conftest import NOISE, Kit
from tests.rollouts.test_sampler import assert_same, differ, in_thirds

PROMPT = Prompt("p", "a photo of a red circle")
DEADLINE_S = 280  # two fresh processes import torch and more; a busy machine takes its time


@pytest.fixture(scope="module")
def settings(kit: Kit, tmp_path_factory) -> WorkerSettings:
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    save_folder(kit.model, kit.vae, kit.tokenizer, folder)
    sampling = SamplingRecipe(max_text_tokens=8, points=6, turns=2, image_size=(32, 32))
    return WorkerSettings(str(folder), sampling, NOISE, seed=11, threads=torch.get_num_threads())


def published(kit: Kit, scale: float = 1.0) -> dict[str, np.ndarray]:
    arrays = {name: tensor.numpy().copy() for name, tensor in kit.model.state_dict().items()}
    arrays["llm2vae.weight"] *= scale
    return arrays


@pytest.fixture
def worker(kit, settings) -> RolloutWorker:
    made = RolloutWorker(settings)
    arrays = published(kit)
    made.set_weights(arrays, 1, weights_digest(arrays))
    return made


def test_a_worker_without_published_weights_refuses_to_sample(settings):
    with pytest.raises(WeightsError, match="call set_weights first"):
        RolloutWorker(settings).sample_group(0, PROMPT, 2)


def test_a_worker_refuses_a_version_it_does_not_hold(worker):
    with pytest.raises(WeightsError, match="version 2 were asked for; this worker holds version 1"):
        worker.sample_group(0, PROMPT, 2, version=2)
    with pytest.raises(WeightsError, match="version 2"):
        worker.evaluate([Request(PROMPT)], version=2)


def test_a_worker_beats_with_every_token_and_denoising_step_and_samples_the_same(kit, settings, worker):
    beats: list[None] = []
    made, arrays = RolloutWorker(settings, lambda: beats.append(None)), published(kit)
    made.set_weights(arrays, 1, weights_digest(arrays))
    assert not beats
    group = made.sample_group(3, PROMPT, 2)[1]
    tokens = max(len(text.ids) for t in group.trajectories for text in t.texts)
    steps = (settings.sampling.points - 1) * max(t.turns for t in group.trajectories)
    assert len(beats) >= tokens + steps - 1
    for one, two in zip(group.trajectories, worker.sample_group(3, PROMPT, 2)[1].trajectories, strict=True):
        assert_same(one, two)


def test_groups_of_one_batch_are_those_that_each_batch_of_its_own_would_give(worker):
    other = Prompt("q", "a photo of two blue squares beside a green bar")
    summaries, *groups = worker.sample_groups([4, 5], [PROMPT, other], 3)
    for summary, group, prompt in zip(summaries, groups, (PROMPT, other), strict=True):
        told, alone = worker.sample_group(group.id, prompt, 3)
        assert (summary, group.prompt) == (told, prompt)
        for one, two in zip(group.trajectories, alone.trajectories, strict=True):
            assert_same(one, two)
        ours, theirs = (len(pickle.dumps(some)) for some in (group, alone))
        assert abs(ours - theirs) < 0.05 * theirs  # a group is sent without the memory of its batch


def test_a_group_carries_the_version_and_digest_of_its_weights(kit, worker):
    arrays = published(kit, scale=1.5)
    acknowledged = worker.set_weights(arrays, 7, weights_digest(arrays))
    summary, group = worker.sample_group(4, PROMPT, 3, version=7)
    assert acknowledged == (7, weights_digest(arrays))
    assert (group.id, group.version, len(group.trajectories)) == (4, 7, 3)
    assert [t.sample for t in group.trajectories] == [0, 1, 2]
    assert {(t.version, t.digest) for t in group.trajectories} == {acknowledged}
    assert (summary.version, summary.digest) == acknowledged
    assert summary.images == sum(t.turns for t in group.trajectories) and summary.text_tokens == group.tokens()


def test_published_weights_are_the_ones_that_sample(kit, worker):
    _, before = worker.sample_group(0, PROMPT, 2)
    arrays = published(kit, scale=1.5)
    worker.set_weights(arrays, 2, weights_digest(arrays))
    _, after = worker.sample_group(0, PROMPT, 2)
    assert differ(before.trajectories[0], after.trajectories[0])


@pytest.mark.parametrize("damage", ["digest", "missing", "unknown", "shape"])
def test_damaged_weights_are_refused_whole_and_nothing_is_sampled_with_them(kit, worker, damage):
    arrays = published(kit, scale=1.5)
    digest = weights_digest(arrays)
    if damage == "digest":
        arrays["vae2llm.bias"][0] += 1
    elif damage == "missing":
        del arrays["vae2llm.bias"]
    elif damage == "unknown":
        arrays["extra"] = np.zeros(1)
    else:
        arrays["vae2llm.bias"] = arrays["vae2llm.bias"][:-1]
    digest = digest if damage == "digest" else weights_digest(arrays)
    words = {"digest": "announced", "missing": "vae2llm.bias", "unknown": "extra", "shape": "vae2llm.bias"}
    with pytest.raises(WeightsError, match=words[damage]):
        worker.set_weights(arrays, 2, digest)
    with pytest.raises(WeightsError, match="holds no published weights"):
        worker.sample_group(0, PROMPT, 2)
    intact = published(kit)
    worker.set_weights(intact, 3, weights_digest(intact))
    assert worker.sample_group(0, PROMPT, 2, version=3)[0].version == 3


def test_groups_of_one_prompt_differ_and_a_group_sampled_twice_does_not(worker):
    (_, one), (_, other), (_, again) = (worker.sample_group(number, PROMPT, 2) for number in (0, 1, 0))
    assert differ(one.trajectories[0], other.trajectories[0])
    for mine, theirs in zip(one.trajectories, again.trajectories):
        assert_same(mine, theirs, 0.0)


def test_a_group_equals_its_requests_sampled_by_hand(kit, settings, worker):
    _, group = worker.sample_group(5, PROMPT, 2)
    sampler = kit.sampler(turns=2)
    seed = group_seed(settings.seed, 5)
    for mine, theirs in zip(group.trajectories, sampler.sample([Request(PROMPT, i, seed=seed) for i in range(2)])):
        assert_same(mine, theirs, 0.0)


def test_a_forked_group_holds_a_trunk_that_stopped_once(kit, settings):
    sampling = settings.sampling.model_copy(update={"turns": 3})
    forked = RolloutWorker(replace(settings, forks={1: 2, 2: 2}, sampling=sampling, is_stop=in_thirds))
    arrays = published(kit)
    forked.set_weights(arrays, 1, weights_digest(arrays))
    summary, group = forked.sample_group(0, PROMPT, 16)
    samples = [t.sample for t in group.trajectories]
    last = [id(t.segments[-1]) for t in group.trajectories]
    assert 4 <= len(samples) < 16 and samples == sorted(samples) and len(set(last)) == len(last)
    early = [t for t in group.trajectories if t.sample % 2 == 0 and t.sample + 1 not in samples]
    assert early and all(t.stopped and t.turns == 1 for t in early)
    assert summary.images == len({id(image) for t in group.trajectories for image in t.images})
    assert summary.text_tokens == group.tokens() < sum(len(s.ids) for t in group.trajectories for s in t.texts)


def test_a_worker_stops_at_the_phrase_of_its_recipe(kit, settings):
    sampling = settings.sampling.model_copy(update={"stop_phrase": "all is well"})
    own = RolloutWorker(replace(settings, sampling=sampling))
    arrays = published(kit)
    own.set_weights(arrays, 1, weights_digest(arrays))
    ends = Request(PROMPT, seed=1, think="a plan", reflections={1: "All is well."})
    goes_on = replace(ends, reflections={1: "nothing to change"})
    assert [t.stopped for t in own.evaluate([ends, goes_on])] == [True, False]


def test_evaluation_records_nothing_to_train(worker):
    (trajectory,) = worker.evaluate([Request(PROMPT, seed=1)], turns=1, version=1)
    assert trajectory.images[0].x.shape[0] == 0 and trajectory.version == 1


def test_the_progressive_window_moves_with_the_update(settings, kit):
    noise = NoiseRecipe(window="progressive", window_size=2, window_range=(0, 5))
    moving = RolloutWorker(replace(settings, noise=noise))
    arrays = published(kit)
    moving.set_weights(arrays, 0, weights_digest(arrays))
    early, late = (moving.sample_group(0, PROMPT, 1, iteration=i)[1].trajectories[0].images[0].t for i in (0, 25))
    assert early[0] == 1 and late[0] < 1


def test_two_ray_actors_sample_the_same_group_bit_for_bit(kit, settings, tmp_path):
    arrays = published(kit)
    with LocalRay(RaySettings(num_cpus=2, object_store_mb=128), tmp_path):
        options = actor_options(threads=1, cpus=1)
        actors = [ray.remote(RolloutWorker).options(**options).remote(replace(settings, threads=1)) for _ in range(2)]
        weights, digest = ray.put(arrays), weights_digest(arrays)
        bounded_get(
            [actor.set_weights.remote(weights, 1, digest) for actor in actors], DEADLINE_S, "weights to be taken over"
        )
        calls = [actor.sample_group.options(num_returns=2).remote(6, PROMPT, 2, 1) for actor in actors]
        (one, other) = bounded_get([body for _, body in calls], DEADLINE_S, "groups")
        refused = actors[0].sample_group.remote(6, PROMPT, 2, 9)
        with pytest.raises(WeightsError, match="version 9"):
            bounded_get(refused, DEADLINE_S, "a refusal")
    for mine, theirs in zip(one.trajectories, other.trajectories, strict=True):
        assert_same(mine, theirs, 0.0)
        assert mine.digest == digest
