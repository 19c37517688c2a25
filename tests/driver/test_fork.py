"""`irg-rl fork`: RL anew on the SFT of another run, which stays as it is."""

import json
from pathlib import Path

import pytest

from irg_rl.config import RecipeError
from irg_rl.driver.fork import fork
from irg_rl.driver.run_folder import Run, RunError, write_json
from irg_rl.report.metrics_log import read_metrics
from irg_rl.report.tracking import Tracker

MADE = {
    "world": ["world/test.jsonl", "world/rows/own/mode/part-00000.parquet"],
    "vae": ["models/base/ae.safetensors"],
    "scorers": ["scorers/clip/model.safetensors", "evaluation/scorers.json"],
    "pretrain": ["models/pretrain/ema.safetensors"],
    "sft1": ["models/sft1/ema.safetensors", "sft1/checkpoints/step_000001/manifest.json"],
    "own_images": [],
    "sft2": ["models/sft2/ema.safetensors"],
    "evaluate_sft": ["evaluation/sft2.json", "evaluation/sft2.real.parquet", "samples/sft2/samples.json"],
    "rl": ["models/rl/ema.safetensors", "evaluation/ratio_check.json", "rl/checkpoints/step_000001/manifest.json"],
    "evaluate_rl": ["evaluation/rl.json", "evaluation/rl.real.parquet", "samples/rl/samples.json"],
}
BEFORE_RL = list(MADE)[:8]


@pytest.fixture
def parent(recipe) -> Run:
    """A run with the files of every stage; each says which it is."""
    run = Run.create(recipe)
    with Tracker(run.folder, name="parent", use_wandb=False) as tracker:
        for stage, files in MADE.items():
            for file in files:
                run.path(*Path(file).parts).write_text(f"{file} of {stage}")
            tracker.log(stage, 1, {"loss": 0.5})
    (run.folder / "rejected.jsonl").write_text('{"file": "a", "group": 0, "row": 1, "reason": "b"}\n')
    run.stages = {stage: {"seconds": 60.0, "done": True, "steps": 20} for stage in MADE}
    write_json(run.folder / "stages.json", run.stages)
    return Run.open(run.folder)


def contents(run: Run) -> dict[str, bytes]:
    return {str(file.relative_to(run.folder)): file.read_bytes() for file in run.folder.rglob("*") if file.is_file()}


def taken(run: Run) -> list[str]:
    return [stage for stage in BEFORE_RL if stage in run.stages]


def test_a_fork_has_all_that_came_before_rl_and_nothing_after(parent):
    forked = Run.open(fork(parent.folder, ["rl.seed=1"]).folder)
    assert forked.folder == parent.folder.parent / "shapes-smoke-2"
    assert (forked.recipe.rl_seed, forked.recipe.seed) == (1, parent.recipe.seed)
    expected = {file for stage in BEFORE_RL for file in MADE[stage] if "checkpoints" not in file}
    own = {".lock", "recipe.yaml", "environment.json", "stages.json", "metrics.jsonl", "rejected.jsonl"}
    assert set(contents(forked)) == expected | own
    assert list(forked.stages) == BEFORE_RL and all(forked.is_done(stage) for stage in BEFORE_RL)
    assert [row["stage"] for row in read_metrics(forked.folder / "metrics.jsonl")] == BEFORE_RL


def test_a_stage_keeps_its_facts_and_says_which_run_did_it_also_in_the_fork_of_a_fork(parent):
    forked = fork(fork(parent.folder, ["rl.seed=1"]).folder, ["rl.seed=2"])
    entry = {"from": str(parent.folder), "seconds": 60.0, "done": True, "steps": 20}
    assert forked.stages["sft2"] == entry and (forked.recipe.rl_seed, forked.folder.name[-2:]) == (2, "-3")


def test_what_is_large_takes_no_space_and_what_grows_is_a_copy(parent):
    forked = fork(parent.folder, [])
    place = "models/sft2/ema.safetensors"
    assert (forked.folder / place).samefile(parent.folder / place)
    before = contents(parent)
    with Tracker(forked.folder, name="fork", use_wandb=False) as tracker:
        tracker.log("rl", 1, {"loss": 0.1})
    with (forked.folder / "rejected.jsonl").open("a") as out:
        out.write("{}\n")
    with forked.stage("rl"):
        pass
    write_json(forked.path("evaluation", "sft2.json"), {})
    assert contents(parent) == before


def test_a_fork_may_have_another_name_and_lie_elsewhere(parent, tmp_path):
    forked = fork(parent.folder, ["name=umm", f"output_dir={tmp_path / 'other'}", "rl.credit=umm", "engine.threads=1"])
    assert forked.folder == tmp_path / "other" / "umm" and forked.recipe.rl.credit == "umm"
    assert taken(forked) == BEFORE_RL


def test_a_run_is_forked_from_inside_its_folder_too(parent, monkeypatch):
    monkeypatch.chdir(parent.folder)
    assert fork(Path("."), []).folder.parent == parent.folder.parent


@pytest.mark.parametrize(("override", "named"), [
    ("seed=1", "seed: 0 in the run, 1 asked for"),
    ("sampling.history=full", "sampling.history: 'last' in the run, 'full' asked for"),
    ("model.timestep_shift=1", "model.timestep_shift"),
    ("task_options.train_prompts=9", "task_options.train_prompts"),
    ("vae.steps=9", "vae.steps"),
    ("sft.stage2.steps=9", "sft.stage2.steps"),
    ("sft=null", "sft: {"),
    ("init_from=/x", "init_from: None in the run, '/x' asked for"),
])  # fmt: skip
def test_a_setting_that_finished_stages_depend_on_is_named_and_nothing_is_made(parent, override, named):
    with pytest.raises(RecipeError, match="the finished stages depend on 1 setting") as caught:
        fork(parent.folder, [override, "rl.seed=1"])
    _, line = str(caught.value).splitlines()
    assert line.startswith(f"  {named}") and len(list(parent.folder.parent.iterdir())) == 1


@pytest.mark.parametrize(("override", "again"), [
    ("gate.mode=on", []),
    ("gate.after=rl", []),
    ("gate.damage=0.5", ["evaluate_sft"]),
    ("evaluation.prompts=8", ["evaluate_sft"]),
    ("evaluation.guidance.text_scale=2", ["evaluate_sft"]),
    ("rewards.combine=zscore_sum", ["evaluate_sft"]),
    ("rewards.training_steps=9", ["scorers", "evaluate_sft"]),
    ("rewards.scorers=[{name: v, kind: verifier}, {name: c, kind: clip}]", ["evaluate_sft"]),
    ("rl.updates=9", []),
    ("turns=2", []),
])  # fmt: skip
def test_a_stage_whose_outcome_changes_is_done_again(parent, override, again):
    forked = fork(parent.folder, [override])
    assert taken(forked) == [stage for stage in BEFORE_RL if stage not in again]
    assert not any((forked.folder / file).exists() for stage in again for file in MADE[stage])


def test_scorers_that_the_run_did_not_train_are_trained(parent):
    plain = fork(parent.folder, ["rewards.scorers=[{name: v, kind: verifier}]"])
    with plain.stage("scorers"), plain.stage("evaluate_sft"):
        pass
    assert "scorers" not in taken(fork(plain.folder, ["rewards.scorers=[{name: h, kind: hps}]"]))
    assert taken(fork(plain.folder, ["rewards.scorers.0.weight=2"])) == BEFORE_RL[:-1]


def test_a_run_whose_sft_is_not_finished_is_not_forked(parent):
    with pytest.raises(ZeroDivisionError), parent.stage("sft2"):
        raise ZeroDivisionError
    with pytest.raises(RunError, match=f"after sft2, which is not done; `irg-rl resume {parent.folder}` goes on"):
        fork(parent.folder, ["rl.seed=1"])


def test_a_fork_without_rl_is_refused(parent):
    with pytest.raises(RecipeError, match="a fork does RL, and the recipe has no `rl`"):
        fork(parent.folder, ["rl=null"])


def test_a_fork_that_was_cut_off_is_no_run(recipe):
    """Going on with it would write into files that it shares with the other run."""
    folders = []

    def cut_off(run: Run) -> None:
        folders.append(run.folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Run.create(recipe, cut_off)
    with pytest.raises(RunError, match="not a run folder"):
        Run.open(folders[0])


def test_the_command_complains_in_one_line_per_setting(irg_rl, parent):
    answer = irg_rl("fork", parent.folder, "seed=1", "sampling.history=full")
    assert answer.code == 1 and answer.err.splitlines()[1:] == [
        "  sampling.history: 'last' in the run, 'full' asked for", "  seed: 0 in the run, 1 asked for",
    ]  # fmt: skip
    assert json.loads((parent.folder / "stages.json").read_text()) == parent.stages
