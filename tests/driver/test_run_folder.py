"""A run folder: never overwritten, one worker at a time, stages that add up over resumes."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from irg_rl import stopping
from irg_rl.config import ScorerRecipe, load_recipe
from irg_rl.driver.run_folder import Run, RunError, environment, write_json
from irg_rl.driver.stages import ending_in_order
from irg_rl.imports import user_folders
from irg_rl.redact import redact_text


def test_a_new_run_never_overwrites_another(recipe):
    first, second, third = (Run.create(recipe) for _ in range(3))
    (first.folder / "mine.txt").write_text("keep")
    assert [run.folder.name for run in (first, second, third)] == [
        "shapes-smoke", "shapes-smoke-2", "shapes-smoke-3",
    ]  # fmt: skip
    assert (first.folder / "mine.txt").read_text() == "keep" and not (second.folder / "mine.txt").exists()


def test_a_run_carries_its_resolved_recipe_and_opens_again(recipe):
    run = Run.create(recipe)
    text = (run.folder / "recipe.yaml").read_text()
    assert text.startswith(f"# digest {recipe.digest()}\n")
    assert load_recipe(run.folder / "recipe.yaml") == recipe
    opened = Run.open(run.folder)
    assert opened.recipe == recipe and opened.stages == {}


def test_the_environment_says_what_made_the_run_and_no_secret(recipe, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "sesame-0123456789")
    run = Run.create(recipe)
    text = (run.folder / "environment.json").read_text()
    facts = json.loads(text)
    assert facts["digest"] == recipe.digest() and facts["versions"]["torch"] and facts["cores"] >= 1
    assert len(facts["commit"]) == 12 or facts["commit"] == "unknown"
    assert "sesame" not in text


def test_a_machine_without_git_can_run(recipe, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert environment(recipe)["commit"] == "unknown"


def test_an_output_folder_that_cannot_be_is_an_error(recipe, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't be made .*; choose another output_dir"):
        Run.create(recipe.model_copy(update={"output_dir": str(tmp_path / "file")}))


def test_a_folder_that_is_no_run_says_what_makes_one(tmp_path):
    with pytest.raises(RunError, match=r"not a run folder \(no recipe.yaml\); `irg-rl train RECIPE` makes one"):
        Run.open(tmp_path)


@pytest.mark.parametrize(("name", "content", "says"), [
    ("recipe.yaml", "name: x\nold_setting: 1\n", "made by another version"),
    ("recipe.yaml", "name: [", "is damaged"),
    ("stages.json", '{"world": ', "is damaged"),
])  # fmt: skip
def test_a_damaged_run_is_an_error_not_a_traceback(recipe, name, content, says):
    run = Run.create(recipe)
    (run.folder / name).write_text(content)
    with pytest.raises(RunError, match=says):
        Run.open(run.folder)


def test_a_stage_that_ends_is_done_and_keeps_its_facts(recipe):
    run = Run.create(recipe)
    with run.stage("world") as facts:
        assert not run.is_done("world")
        facts["rows"] = 7
    again = Run.open(run.folder)
    assert again.is_done("world") and again.stages["world"]["rows"] == 7
    assert again.stages["world"]["budget_minutes"] == recipe.budget_minutes["world"]


def test_a_stage_that_failed_is_not_done_and_its_time_adds_up(recipe):
    run = Run.create(recipe)
    with pytest.raises(ZeroDivisionError), run.stage("sft1") as facts:
        facts["validation"] = 1.5
        time.sleep(0.02)
        raise ZeroDivisionError
    stopped = Run.open(run.folder)
    assert not stopped.is_done("sft1") and stopped.stages["sft1"]["validation"] == 1.5
    with stopped.stage("sft1"):
        time.sleep(0.02)
    assert stopped.is_done("sft1") and stopped.stages["sft1"]["seconds"] >= 0.04


def test_an_interrupted_stage_is_recorded_too(recipe):
    run = Run.create(recipe)
    with pytest.raises(KeyboardInterrupt), run.stage("rl"):
        raise KeyboardInterrupt
    assert Run.open(run.folder).stages["rl"]["done"] is False


def test_one_process_at_a_time_works_on_a_run(recipe):
    run = Run.create(recipe)
    with run.lock(), pytest.raises(RunError, match="another process works on this run"), Run.open(run.folder).lock():
        pass
    with run.lock():
        pass


def test_a_killed_process_leaves_no_lock(recipe):
    run = Run.create(recipe)
    hold = f"import fcntl, time; f = open({str(run.folder / '.lock')!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
    wait = "print(1, flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", hold + wait], stdout=subprocess.PIPE)
    holder.stdout.read(1)
    with pytest.raises(RunError), run.lock():
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=30)
    with run.lock():
        pass


def rewrite(path: Path, stop) -> None:
    size = 0
    while not stop.is_set():
        size = (size + 997) % 20_000
        write_json(path, {"numbers": list(range(size))})


def test_a_reader_of_a_json_file_sees_the_old_one_or_the_new_one(tmp_path):
    path, context = tmp_path / "deep" / "facts.json", multiprocessing.get_context("fork")
    write_json(path, {"numbers": []})
    stop = context.Event()
    writer = context.Process(target=rewrite, args=(path, stop))
    writer.start()
    try:
        sizes = set()
        end = time.monotonic() + 2
        while time.monotonic() < end and len(sizes) < 20:
            numbers = json.loads(path.read_text())["numbers"]  # half a file would not parse
            assert numbers == list(range(len(numbers)))
            sizes.add(len(numbers))
    finally:
        stop.set()
        writer.join(timeout=30)
    assert len(sizes) > 1


def test_a_json_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "facts.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1} and os.listdir(tmp_path) == ["facts.json"]


def test_a_disk_without_file_locks_is_found_before_anything_runs_and_nothing_is_left(recipe, monkeypatch):
    def no_locks(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("irg_rl.driver.run_folder.fcntl.flock", no_locks)
    with pytest.raises(RunError, match="its disk has no file locks .No locks available.; choose another output_dir"):
        Run.create(recipe)
    assert list(Path(recipe.output_dir).iterdir()) == []


@pytest.mark.parametrize("stages", ["[]", "3", '{"world": []}', '{"world": {"seconds": "1", "done": true}}',
                                    '{"world": {"seconds": 1, "done": "yes"}}', "[" * 100_000])
def test_stages_of_another_form_are_a_damaged_run(recipe, stages):
    run = Run.create(recipe)
    (run.folder / "stages.json").write_text(stages)
    with pytest.raises(RunError, match="is damaged"):
        Run.open(run.folder)


@pytest.mark.parametrize(("name", "content", "key"), [
    ("stages.json", {"vae": {"seconds": 1, "done": True}, "sft1": {"seconds": "1", "done": True}}, "sft1.seconds"),
    ("stages.json", {"sft1": {"seconds": 1.5, "done": True, "steps": "many"}}, "sft1.steps"),
    ("stages.json", {"rl": {"done": True}}, "rl.seconds"),
    ("environment.json", {"digest": 3}, "digest"),
    ("environment.json", {"digest": "x", "imports": ["a", 3]}, "imports.1"),
])  # fmt: skip
def test_an_entry_of_another_type_is_named_with_its_file(recipe, name, content, key):
    run = Run.create(recipe)
    (run.folder / name).write_text(json.dumps(content))
    with pytest.raises(RunError, match=rf"{run.folder / name} is damaged: {key}: "):
        Run.open(run.folder)


@pytest.mark.parametrize("facts", ["[]", "3", "{}", '{"digest": "x"}', '{"digest": "x", "imports": null}'])
def test_an_environment_of_another_form_is_an_error(recipe, facts):
    run = Run.create(recipe)
    (run.folder / "environment.json").write_text(facts)
    with pytest.raises(RunError, match="is damaged|means something else"):
        Run.open(run.folder)


def test_a_run_remembers_where_its_users_modules_lie(recipe, tmp_path, monkeypatch):
    run = Run.create(recipe)
    here = os.getcwd()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IRG_RL_IMPORTS", raising=False)
    Run.open(run.folder)
    assert here in user_folders()


def test_the_key_of_a_run_is_redacted_whatever_its_variable_is_called(recipe, monkeypatch):
    monkeypatch.delenv("IRG_RL_SECRETS", raising=False)
    monkeypatch.setenv("HORSE", "blue-horse-7")
    rewards = recipe.rewards.model_copy(update={"scorers": [ScorerRecipe(name="j", kind="judge", api_key_env="HORSE")]})
    run = Run.create(recipe.model_copy(update={"rewards": rewards}))
    monkeypatch.delenv("IRG_RL_SECRETS", raising=False)
    Run.open(run.folder)
    assert redact_text("a blue-horse-7") == "a ***"


def test_an_actor_that_a_signal_took_along_is_no_failure(recipe):
    """Slurm sends SIGTERM to all processes of a job."""
    run = Run.create(recipe)
    with pytest.raises(KeyboardInterrupt), ending_in_order(run), stopping.loop():
        os.kill(os.getpid(), signal.SIGTERM)
        raise RunError("the learner is gone")
    with pytest.raises(RunError, match="gone"), ending_in_order(run):
        raise RunError("the learner is gone")
    with pytest.raises(ZeroDivisionError), ending_in_order(run), stopping.loop():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ZeroDivisionError
