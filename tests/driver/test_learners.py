"""The driver's side of learning: one learner rank in an actor of its own, and checkpoints on the disk."""

import pytest
import ray
import torch

from irg_rl.driver.learners import Learners, fingerprint
from irg_rl.driver.prepare import model_path, prompts_file
from irg_rl.driver.rl_settings import worker_settings
from irg_rl.learner import checkpoint
from irg_rl.learner.checkpoint import CheckpointError
from irg_rl.learner.publish import weights_digest
from irg_rl.model.folder import load_folder
from irg_rl.prompts import write_prompts
from irg_rl.records import load_groups, save_groups
from irg_rl.trajectory import Group
from rollouts.worker import RolloutWorker
from tests.driver.begun import PROMPTS, begun_run


@pytest.fixture
def learners(local_ray, world, tmp_path):
    made = Learners(begun_run(world, tmp_path), "base")
    yield made
    made.stop()


@pytest.fixture
def adapting(local_ray, world, tmp_path):
    lora = {"rank": 4, "alpha": 8, "experts": ["gen"]}
    rl = {"noise": {"window_range": [0, 5]}, "lora": lora, "ema_decay": 0.9}
    made = Learners(begun_run(world, tmp_path, rl=rl), "base")
    yield made
    made.stop()


def test_rl_with_adapters_publishes_them_alone_to_workers_that_have_the_base(adapting, world):
    arrays = ray.get(adapting.message.arrays, timeout=60)
    worker = RolloutWorker(worker_settings(adapting.recipe, model_path(adapting.run, "base")))
    acknowledged = worker.set_weights(arrays, adapting.message.version, adapting.message.digest)
    assert acknowledged == (0, adapting.message.digest) and len(arrays) == 2 * 2 * 7
    adapting.save_model("rl")
    handed_on, before = load_folder(adapting.run.path("models", "rl")).model.state_dict(), world.model.state_dict()
    assert list(handed_on) == list(before)  # nothing has been learnt yet
    assert all(torch.equal(handed_on[name], before[name]) for name in before)
    assert adapting.run.path("models", "rl", "adapter", "adapter_model.safetensors").is_file()


@pytest.fixture
def matching(local_ray, world, tmp_path):
    drawn = {"guidance": {"text_scale": 2.0}, "noise": {"kind": "cps", "window": "all"}, "points": 9}
    rl = {"algorithm": "nft", "options": {"old": {"slope": 0.5}}, **drawn}
    made = Learners(begun_run(world, tmp_path, rl=rl), "base")
    yield made
    made.stop()


def test_nft_trains_on_images_drawn_with_guidance_and_sends_the_old_policy_to_draw_the_next(matching):
    worker = RolloutWorker(worker_settings(matching.recipe, model_path(matching.run, "base")))
    for update in range(3):
        arrays, message = ray.get(matching.message.arrays, timeout=60), matching.message
        assert worker.set_weights(arrays, message.version, message.digest) == (update, message.digest)
        _, group = worker.sample_group(update, PROMPTS[update], 2, version=update)
        for sign, trajectory in zip((1.0, -1.0), group.trajectories):
            assert trajectory.law.kind is None and all(len(image.x) == 0 for image in trajectory.images)
            for segment in trajectory.segments:
                segment.advantage = sign
        refs = [ray.put(group)]
        if update == 0:
            matching.check_ratio(refs)
        metrics = matching.finish(matching.train(refs))
        matching.publish()
        assert (metrics["image/turn0/v_distance"] > 0) == (update == 2)  # the decay after the first update is 0


def test_a_resume_compares_each_file_with_its_digest_once(learners, monkeypatch):
    """After the search for the newest checkpoint neither the driver nor the rank, which is another process, hash the
    files again: they take a file that was changed in between."""
    learners.save({})
    (path,) = learners.run.path("rl").glob("checkpoints/*")
    read, digest = [], checkpoint._digest
    monkeypatch.setattr(checkpoint, "_digest", lambda file: read.append(file.name) or digest(file))
    assert learners.resume() == {}
    assert sorted(read) == sorted(file.name for file in path.glob("*.safetensors"))
    monkeypatch.setattr(checkpoint, "latest", lambda run: (path, []))
    moments = path / "exp_avg.safetensors"
    moments.write_bytes(moments.read_bytes()[:-1] + b"\x01")
    assert learners.resume() == {}


def test_published_weights_stay_in_the_object_store(learners):
    """Fails where the driver fetches them and puts a second copy there."""
    sent = ray.get(learners.message.arrays, timeout=60)
    assert weights_digest(sent) == learners.message.digest
    facts, stored = learners.ranks.call("publish_apart", 7, timeout=60, kept=1)[0]
    assert (facts.version, facts.arrays) == (7, {}) and isinstance(stored, ray.ObjectRef)


def test_rl_goes_on_with_the_prompts_of_its_checkpoint_only(learners):
    assert learners.resume() is None
    learners.save({"slots": "as they were"})
    assert learners.resume() == {"slots": "as they were"}
    write_prompts(prompts_file(learners.run, "train"), PROMPTS[::-1])
    learners.fingerprint = fingerprint(learners.run)  # as the process finds that resumes the run
    with pytest.raises(CheckpointError, match="the data changed since the checkpoint"):
        learners.resume()


def test_rl_says_what_is_damaged_and_goes_on_from_the_checkpoint_before(learners, capsys):
    for learners.updates in (1, 2):
        learners.save({"update": learners.updates})
    damaged = learners.run.path("rl", "checkpoints", "step_000002", "model.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
    assert learners.resume() == {"update": 1} and learners.updates == 1
    said = capsys.readouterr().out
    assert "damaged checkpoint: " in said and str(damaged) in said and "goes on from step_000001" in said


def test_rollouts_are_known_by_their_numbers_as_by_their_words(world, tmp_path):
    drawn = world.sample(2, noise=None, record_steps=False)
    place = tmp_path / "rolled" / "group-000000"
    save_groups(place, [Group(0, drawn[0].prompt, drawn)])
    run = begun_run(world, tmp_path, rl={"algorithm": "dpo", "noise": None, "rollouts": str(place.parent)})
    before, words = fingerprint(run), (place / "groups.json").read_text()
    groups = load_groups(place)
    groups[0].images[0].drawn += 1.0
    save_groups(place, groups)
    assert (place / "groups.json").read_text() == words and fingerprint(run) != before
