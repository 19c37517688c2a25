"""Checkpoints are complete or invisible, and a resumed run equals one that never stopped."""

import errno
import json
import random
import resource
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from irg_rl.learner import checkpoint, rng, training_state
from irg_rl.learner.checkpoint import CheckpointError, Snapshot
from irg_rl.learner.ema import EMA
from irg_rl.learner.engine import Engine
from tests.learner.toy import IDLE, Toy, denominators, loss_of, make_packs, settings


def snapshot(step: int, value: float = 1.0) -> Snapshot:
    return Snapshot(
        step,
        {"model": {"w": torch.full((64, 64), value)}, "ema": {"w": torch.zeros(3)}},
        cursors={"epoch": 2, "row": 7},
        recipe={"rl": {"updates": 60, "groups": 8}, "seed": 0},
        recipe_digest="abc",
        fingerprint="data",
        extra={"note": "x"},
    )


def steps_of(run):
    return [path.name for path in sorted((run / checkpoint.FOLDER).glob("*"))]


def test_what_is_loaded_is_what_was_saved(tmp_path):
    path = checkpoint.save(tmp_path, snapshot(5, 2.5), keep_last=1)
    loaded = checkpoint.load(path)
    assert torch.equal(loaded.tensors["model"]["w"], torch.full((64, 64), 2.5))
    assert (loaded.step, loaded.cursors, loaded.fingerprint) == (5, {"epoch": 2, "row": 7}, "data")
    assert loaded.extra == {"note": "x"}


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 100):
        checkpoint.save(tmp_path, snapshot(step), keep_last=2)
    assert steps_of(tmp_path) == ["step_000010", "step_000100"]


def test_the_latest_is_the_newest_step_and_not_the_newest_file(tmp_path):
    checkpoint.save(tmp_path, snapshot(20), keep_last=5)
    checkpoint.save(tmp_path, snapshot(10), keep_last=5)
    assert checkpoint.latest(tmp_path)[0].name == "step_000020"


def test_a_run_without_checkpoints_has_no_latest(tmp_path):
    assert checkpoint.latest(tmp_path) == (None, [])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-1]), "cut off"),
        (lambda f: f.write_bytes(f.read_bytes()[:-1] + b"!"), "damaged"),
        (lambda f: f.unlink(), "is missing"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, damage, message):
    checkpoint.save(tmp_path, snapshot(1), keep_last=3)
    newest = checkpoint.save(tmp_path, snapshot(2), keep_last=3)
    damage(newest / "model.safetensors")
    found, problems = checkpoint.latest(tmp_path)
    assert found.name == "step_000001"
    assert len(problems) == 1 and message in problems[0] and "step_000002" in problems[0]
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(newest)


def flip(file, place=-1):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(bytes(data))


def test_a_run_says_what_is_damaged_and_goes_on_from_the_newest_sound_checkpoint(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, snapshot(step), keep_last=3)
    for step in (2, 3):
        flip(tmp_path / checkpoint.FOLDER / f"step_{step:06d}" / "model.safetensors")
    told = []
    assert checkpoint.newest(tmp_path, told.append).name == "step_000001"
    assert [("step_000003" in line, "step_000002" in line) for line in told[:2]] == [(True, False), (False, True)]
    assert all("damaged checkpoint: " in line and "sha256" in line for line in told[:2])
    assert told[2:] == ["kept as damaged_step_*; training goes on from step_000001"]
    checkpoint.save(tmp_path, snapshot(2), keep_last=1)
    assert steps_of(tmp_path) == ["damaged_step_000002", "damaged_step_000003", "step_000002"]
    told.clear()
    assert checkpoint.newest(tmp_path, told.append).name == "step_000002" and told == []


@pytest.mark.parametrize("later", [True, False])
def test_a_checkpoint_of_a_later_version_or_that_cannot_be_read_now_is_not_taken_for_a_damaged_one(tmp_path, later):
    """It was renamed, and training went back behind sound work."""
    checkpoint.save(tmp_path, snapshot(1), keep_last=2)
    manifest = checkpoint.save(tmp_path, snapshot(2), keep_last=2) / checkpoint.MANIFEST
    if later:
        words = json.loads(manifest.read_text()) | {"format": 3, "step": {"of": "a later version"}}
        del words["sha256"]
        manifest.write_text(json.dumps(words | {"sha256": checkpoint._digest_of(words)}))
    else:
        manifest.unlink()
        manifest.symlink_to(manifest.name)  # "too many levels of symbolic links": an error of the system
    says = "step_000002 has format 3; .* use the version" if later else "step_000002: its manifest.json cannot be read"
    for find in (checkpoint.latest, lambda run: checkpoint.newest(run, print, restart=True)):
        with pytest.raises(CheckpointError, match=says):
            find(tmp_path)
    assert steps_of(tmp_path) == ["step_000001", "step_000002"]


def test_a_changed_number_of_the_format_is_damage(tmp_path):
    checkpoint.save(tmp_path, snapshot(1), keep_last=2)
    manifest = checkpoint.save(tmp_path, snapshot(2), keep_last=2) / checkpoint.MANIFEST
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 3'))
    found, (problem,) = checkpoint.latest(tmp_path)
    assert found.name == "step_000001" and "does not match its own sha256" in problem


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew_in_silence(tmp_path):
    """A flipped byte restarted a stage at step 0."""
    flip(checkpoint.save(tmp_path, snapshot(1), keep_last=2) / "model.safetensors")
    flip(checkpoint.save(tmp_path, snapshot(2), keep_last=2) / "manifest.json", 40)
    told = []
    with pytest.raises(CheckpointError, match=r"all 2 checkpoints are damaged .*step_000002.*--restart-stage"):
        checkpoint.newest(tmp_path, told.append)
    assert told == [] and steps_of(tmp_path) == ["step_000001", "step_000002"]
    assert checkpoint.newest(tmp_path, told.append, restart=True) is None
    assert told[-1] == "kept as damaged_step_*; training goes on from its beginning"
    assert checkpoint.newest(tmp_path, told.append) is None


def test_a_manifest_that_was_changed_does_not_match_its_own_hash(tmp_path):
    """Cursors, learning rates and step numbers stand in the manifest, and no other hash covers them."""
    path = checkpoint.save(tmp_path, snapshot(3), keep_last=1)
    manifest = path / checkpoint.MANIFEST
    text = manifest.read_text()
    manifest.write_text(text.replace('"row": 7', '"row": 6'))
    with pytest.raises(CheckpointError, match=r"manifest.json does not match its own sha256"):
        checkpoint.load(path)
    manifest.write_text(text.replace('"sha256": "' + json.loads(text)["sha256"], '"sha256": "' + "0" * 64))
    with pytest.raises(CheckpointError, match="does not match its own sha256"):
        checkpoint.load(path)
    manifest.write_text(text)
    assert checkpoint.load(path).cursors == {"epoch": 2, "row": 7}


def test_a_checkpoint_of_before_manifests_were_hashed_is_read(tmp_path):
    path = checkpoint.save(tmp_path, snapshot(3), keep_last=1)
    old = {**json.loads((path / checkpoint.MANIFEST).read_text()), "format": 1}
    del old["sha256"]
    (path / checkpoint.MANIFEST).write_text(json.dumps(old))
    assert checkpoint.load(path).step == 3


def test_a_replay_says_which_checkpoints_on_its_way_are_damaged(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, snapshot(step), keep_last=3)
    flip(tmp_path / checkpoint.FOLDER / "step_000002" / "model.safetensors")
    told = []
    assert checkpoint.before(tmp_path, 3, told.append).name == "step_000001"
    assert len(told) == 1 and "step_000002" in told[0]


def test_files_that_were_just_checked_are_not_read_twice(tmp_path, monkeypatch):
    """Fails where a resume hashes a checkpoint of 200 GB again on every rank."""
    path, read = checkpoint.save(tmp_path, snapshot(3), keep_last=1), []
    digest = checkpoint._digest
    monkeypatch.setattr(checkpoint, "_digest", lambda file: read.append(file.name) or digest(file))
    found, _ = checkpoint.latest(tmp_path)
    assert checkpoint.describe(found, checked=True).step == checkpoint.load(found, checked=True).step == 3
    assert sorted(read) == ["ema.safetensors", "model.safetensors"]
    (path / "ema.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="cut off"):
        checkpoint.load(found, checked=True)


def test_a_checkpoint_without_its_manifest_is_invisible(tmp_path):
    path = checkpoint.save(tmp_path, snapshot(1), keep_last=1)
    (path / "manifest.json").unlink()
    found, problems = checkpoint.latest(tmp_path)
    assert found is None and "no complete checkpoint" in problems[0]


def test_a_process_killed_while_it_writes_leaves_the_previous_checkpoint_and_no_other(tmp_path):
    checkpoint.save(tmp_path, snapshot(1), keep_last=3)
    script = f"""
        import os, signal, torch
        from pathlib import Path
        from irg_rl.learner import checkpoint
        checkpoint._digest = lambda path: os.kill(os.getpid(), signal.SIGKILL)  # dies with one file written
        checkpoint.save(Path({str(tmp_path)!r}), checkpoint.Snapshot(2, {{"model": {{"w": torch.zeros(9)}}}}), 3)
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL
    assert any(name.startswith(".step_000002") for name in steps_of(tmp_path))
    assert checkpoint.latest(tmp_path)[0].name == "step_000001"
    checkpoint.save(tmp_path, snapshot(3), keep_last=3)
    assert steps_of(tmp_path) == ["step_000001", "step_000003"]


@pytest.mark.parametrize(("error", "says"), [
    (OSError(errno.EROFS, "Read-only file system"), "make the folder writable"),
    (OSError(errno.EACCES, "Permission denied"), "make the folder writable"),
    (SafetensorError("I/O error: Read-only file system (os error 30)"), "make the folder writable"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "free some space"),
    (SafetensorError("I/O error: No space left on device (os error 28)"), "free some space"),
])  # fmt: skip
def test_only_a_full_disk_needs_space(error, says):
    assert checkpoint.remedy(error).startswith(says)


def test_a_full_disk_is_a_clear_error_and_nothing_half_written(tmp_path):
    """A file size limit makes the operating system refuse the write, as a full disk does."""
    checkpoint.save(tmp_path, snapshot(1), keep_last=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(CheckpointError, match="step_000002.*free some space"):
            checkpoint.save(tmp_path, snapshot(2), keep_last=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert steps_of(tmp_path) == ["step_000001"]
    assert checkpoint.latest(tmp_path)[0].name == "step_000001"


def test_a_checkpoint_that_cannot_fit_is_refused_before_anything_is_written(tmp_path):
    huge = Snapshot(2, {"model": {"w": torch.zeros(1).expand(2**50)}})
    with pytest.raises(CheckpointError, match="MiB free"):
        checkpoint.save(tmp_path, huge, keep_last=1)
    assert steps_of(tmp_path) == []


def test_a_changed_recipe_names_the_settings_that_differ(tmp_path):
    loaded = checkpoint.load(checkpoint.save(tmp_path, snapshot(1), keep_last=1))
    now = {"rl": {"updates": 90, "groups": 8}, "seed": 0}
    with pytest.raises(CheckpointError, match="rl.updates: 60 in the checkpoint, 90 now") as caught:
        checkpoint.require_same_recipe(loaded, now, "def", "data")
    assert "groups" not in str(caught.value)
    with pytest.raises(CheckpointError, match="data changed"):
        checkpoint.require_same_recipe(loaded, loaded.recipe, "abc", "other")
    checkpoint.require_same_recipe(loaded, loaded.recipe, "abc", "data")


def test_the_files_hold_no_pickle(tmp_path):
    path = checkpoint.save(tmp_path, snapshot(1), keep_last=1)
    assert {f.suffix for f in path.iterdir()} == {".safetensors", ".json"}
    json.loads((path / "manifest.json").read_text())


def test_random_numbers_continue_where_they_stopped():
    rng.seed_everything(3)
    state = rng.capture()
    first = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), random.gauss(0, 1))
    rng.restore(state)
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), random.gauss(0, 1)) == first


def new_training(stage):
    engine = Engine(Toy(), settings(stage), IDLE)
    return engine, EMA(engine.state().own(), decay=0.9)


def train(engine, ema, count):
    """Updates whose data come from the global generator, as a stream with random noise does."""
    for _ in range(count):
        packs = make_packs(3, seed=int(torch.randint(10**6, (1,))))
        engine.step(packs, loss_of(packs), denominators(packs))
        ema.update(engine.state().own())


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_ten_updates_equal_five_and_a_resume_of_five_bit_for_bit(tmp_path, stage):
    rng.seed_everything(1)
    engine, ema = new_training(stage)
    train(engine, ema, 5)
    groups, words = training_state.capture(engine, ema)
    path = checkpoint.save(tmp_path, Snapshot(engine.steps, groups, extra=words), keep_last=1)
    train(engine, ema, 5)

    rng.seed_everything(99)
    resumed, average = new_training(stage)
    loaded = checkpoint.load(path)
    assert training_state.restore(resumed, loaded.tensors, loaded.extra, average) == []
    train(resumed, average, 5)

    assert resumed.steps == engine.steps == 10
    for (name, a), (_, b) in zip(resumed.state().weights(), engine.state().weights()):
        assert torch.equal(a, b), name
    for key in ("exp_avg", "exp_avg_sq"):
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(resumed.state().moment(key), engine.state().moment(key)))
    assert all(torch.equal(w, ema.weights[n]) for n, w in average.weights.items())


def test_a_state_saved_under_one_stage_continues_under_another(tmp_path):
    rng.seed_everything(1)
    engine, ema = new_training(3)
    train(engine, ema, 3)
    groups, words = training_state.capture(engine, ema)
    other, average = new_training(1)
    training_state.restore(other, groups, words, average)
    train(engine, ema, 2)
    rng.restore({n.removeprefix("rank0."): t for n, t in groups["rng"].items()})
    train(other, average, 2)
    for (name, a), (_, b) in zip(engine.state().weights(), other.state().weights()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")


def test_a_checkpoint_of_another_model_is_refused_by_name():
    engine, ema = new_training(2)
    groups, words = training_state.capture(engine, ema)
    groups["model"]["extra.weight"] = torch.zeros(2)
    del groups["model"]["trunk.bias"]
    with pytest.raises(ValueError, match=r"missing \['trunk.bias'\], unknown \['extra.weight'\]"):
        training_state.restore(engine, groups, words, ema)


def test_the_average_follows_its_formula():
    ema = EMA([("w", torch.zeros(1))], decay=0.5, warmup=False)
    for value in (1.0, 2.0):
        ema.update([("w", torch.full((1,), value))])
    assert float(ema.weights["w"]) == pytest.approx(0.5 * 0.5 + 0.5 * 2.0)
    early = EMA([("w", torch.zeros(1))], decay=0.9999)
    early.update([("w", torch.ones(1))])
    assert float(early.weights["w"]) == pytest.approx(1 - 2 / 11)


def test_steps_are_ordered_as_numbers(tmp_path):
    """The newest of a million steps was deleted: as a word, step_1000000 comes before step_999999."""
    for step in (999_998, 999_999, 1_000_000):
        checkpoint.save(tmp_path, Snapshot(step, {"model": {"w": torch.ones(1)}}), keep_last=2)
    assert [path.name for path in sorted((tmp_path / checkpoint.FOLDER).iterdir())] == ["step_1000000", "step_999999"]
    newest, problems = checkpoint.latest(tmp_path)
    assert newest.name == "step_1000000" and problems == []
