"""What a researcher types, and what comes back: one clear line, the right exit code, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from irg_rl.driver.run_folder import Run
from irg_rl.model.folder import WEIGHTS, save_folder
from tests.paths import CONFIGS
from tests.sft.material import initial_full, write

COMMANDS = ["ls", "cp", "check", "plan", "demo", "train", "resume", "fork", "baseline", "compare", "eval", "generate",
            "parity", "show", "replay", "report", "export", "verify", "view"]
SMOKE = CONFIGS / "shapes-smoke.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> Path:
    """Commands look into ./runs and ./configs."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def one_line(answer) -> str:
    """The complaint, which is all that was said on stderr."""
    assert answer.code == 1 and answer.err.startswith("error: ") and "Traceback" not in answer.err + answer.out
    return answer.err.removeprefix("error: ").strip()


def test_the_installed_command_names_the_setting_nearest_to_a_mistyped_one():
    command = Path(sys.executable).parent / "irg-rl"
    done = subprocess.run(
        [command, "check", SMOKE, "rl.updats=3"], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[1:] == ["  rl.updats: unknown setting; did you mean rl.updates?"]


# --- help


def test_no_words_at_all_give_an_overview(irg_rl):
    answer = irg_rl()
    assert all(f" {name} " in answer.out + answer.err for name in COMMANDS)
    assert "irg-rl train shapes-smoke" in " ".join((answer.out + answer.err).split())


@pytest.mark.parametrize(("name", "teaches"), [
    ("ls", ["List the shipped recipes"]),
    ("cp", ["a file of your own, to edit", "default: NAME.yaml"]),
    ("check", ["list every problem", "the name of a shipped recipe", "No run is started", "key=value"]),
    ("plan", ["single settings that make it fit", "Nothing is started", "--gpu-gib", "--tflops", "--gbps"]),
    ("train", ["from nothing to the report", "settings that replace the recipe's", "sampling.turns=4"]),
    ("resume", ["Continue a run where it stopped", "a run folder"]),
    ("fork", ["RL again from a run's SFT checkpoint", "settings that replace the recipe's"]),
    ("baseline", ["for as long as its RL took", "a run folder"]),
    ("compare", ["for each seed and for all seeds pooled", "differ in rl.seed alone", "side by side", "--out"]),
    ("eval", ["both controls", "--prompts", "--samples", "--turns", "--seed", "--split", "--preset", "--scorers",
              "--preference", "--no-controls", "--out"]),
    ("show", ["every text, score and advantage", "--step", "--group"]),
    ("replay", ["without Ray, rollouts or scorers", "equal bit for bit", "--step"]),
    ("parity", ["replayed and sampled log-probabilities", "whole and split packs", "--prompts", "--turns", "--seed",
                "--out"]),
    ("generate", ["Think, draw, look, redraw", "may be given several times", "--preset", "irg, irg-paper,",
                  "--no-stop", "--text-scale", "--image-scale", "--size", "--system-prompt", "--out"]),
    ("view", ["also while they train", "files of the runs alone", "The arrow keys", "ssh -L", "--port", "--open"]),
    ("report", ["Build report.html of a run again", "a run folder"]),
])  # fmt: skip
def test_the_help_of_every_command_teaches(irg_rl, name, teaches):
    answer = irg_rl(name, "--help")
    said = " ".join(answer.out.replace("│", " ").split())
    assert answer.code == 0 and [words for words in teaches if words not in said] == []


HEAVY = ("torch", "ray", "deepspeed", "diffusers", "transformers", "trl", "omegaconf", "numpy")
"""Packages that take long to import."""


def test_help_loads_no_heavy_package():
    """Each command's options stand in `cli`, which imports a command's own file only when it is called."""
    code = (
        "import sys; from irg_rl.commands.cli import app; from typer.testing import CliRunner\n"
        "names = [command.name or command.callback.__name__ for command in app.registered_commands]\n"
        "ends = [CliRunner().invoke(app, [name, '--help']).exit_code for name in names]\n"
        f"print(len(names), sum(ends), [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split(maxsplit=2) == [str(len(COMMANDS) + 2), "0", "[]\n"]


def test_the_processes_of_a_run_import_only_what_they_use():
    """Each package here takes a second or more. An autoencoder, adapters or a scorer of images import them."""
    code = (
        "import sys, irg_rl.driver.stages, irg_rl.driver.critic, irg_rl.algorithms.learner, rollouts.worker\n"
        "seldom = ('diffusers', 'open_clip', 'torchvision', 'timm', 'peft', 'torch._dynamo', 'torch._inductor')\n"
        "print([name for name in seldom if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.endswith("[]\n")


def test_an_unknown_command_is_a_usage_error(irg_rl):
    answer = irg_rl("trian")
    assert answer.code == 2 and "train" in answer.err


# --- check


def test_check_says_what_a_good_recipe_is(irg_rl):
    answer = irg_rl("check", SMOKE, "turns=4")
    assert answer.code == 0 and answer.err == ""
    first, second, third, *rest = answer.out.splitlines()
    assert first.startswith("shapes-smoke: well-formed, digest ") and "M parameters" in second
    assert third == "stages: sft, rl"
    (not_tried,) = rest
    assert not_tried.startswith("not tried here: a row, a pack, a rollout, a score, an evaluation, a save: init_from")
    assert irg_rl("check", SMOKE, "turns=4", "--no-trial").out.splitlines() == [first, second, third]


def test_check_says_what_lora_trains(irg_rl):
    answer = irg_rl("check", CONFIGS / "bagel-lora-grpo.yaml", "rl.optimizer.gen_lr=0", "--elsewhere")
    assert answer.code == 0 and "rl: LoRA trains 161.5 M numbers of rank 64 on the und expert\n" in answer.out


def test_check_reports_every_problem_at_once(irg_rl):
    said = one_line(irg_rl("check", SMOKE, "rl.updats=3", "sampling.turns=0", "engine.device=tpu"))
    headline, *lines = said.splitlines()
    assert "3 problem(s)" in headline and len(lines) == 3


def test_a_missing_recipe_points_to_ls(irg_rl):
    assert "nothing.yaml: no such recipe; `irg-rl ls` lists all" in one_line(irg_rl("check", "nothing.yaml"))


def test_brackets_and_long_paths_come_through_unchanged(irg_rl):
    """Rich would read [/red] as markup and break a line at the terminal's width."""
    path = "a-very-long-folder-name/" * 8 + "[red]recipe[/red].yaml"
    assert one_line(irg_rl("check", path)).startswith(f"{path}: no such recipe")


@pytest.mark.parametrize("name", ["bagel-sft-stage1", "bagel-sft-stage2", "bagel-grpo"])
def test_check_says_what_this_machine_lacks_for_the_real_model(irg_rl, name):
    answer = irg_rl("check", CONFIGS / f"{name}.yaml", "engine.device=cuda", "init_from=/nowhere/BAGEL")
    assert answer.code == 1 and "14,575.0 M parameters" in answer.out
    lacks = [line for line in answer.out.splitlines() if line.startswith("not on this machine: ")]
    assert "not on this machine: init_from: /nowhere/BAGEL is not a folder in the released layout" in lacks
    if not _has_gpu():
        assert any("no GPU is visible: use a GPU machine or engine.device=cpu" in line for line in lacks)
    if name == "bagel-grpo":
        assert any("rewards.scorers: hps finds no model at models/HPS_v2.1_compressed.pt" in line for line in lacks)
    else:
        assert any("IRGL/initial_full_learning: no parquet files" in line for line in lacks)


def test_check_of_a_recipe_for_another_machine_asks_only_about_the_recipe(irg_rl):
    answer = irg_rl("check", CONFIGS / "bagel-grpo.yaml", "init_from=/nowhere/BAGEL", "--elsewhere")
    assert answer.code == 0 and "14,575.0 M parameters" in answer.out
    assert "this machine" not in answer.out and "tried here" not in answer.out
    assert irg_rl("check", CONFIGS / "bagel-grpo.yaml", "rl.group_size=0", "--elsewhere").code == 1


def test_check_names_what_is_wrong_with_a_model_folder_and_which_kernel_is_not_there(irg_rl, world, tmp_path):
    folder = tmp_path / "m"
    save_folder(world.model, world.vae, world.tokenizer, folder)
    weights = load_file(folder / WEIGHTS)
    del weights["llm2vae.bias"]
    save_file(weights, folder / WEIGHTS)
    answer = irg_rl("check", CONFIGS / "bagel-grpo.yaml", f"init_from={folder}", "sampling.image_size=[16, 16]")
    assert answer.code == 1
    lacks = f"not on this machine: init_from: {folder / WEIGHTS} does not fit the configuration: missing llm2vae.bias"
    assert lacks in answer.out
    answer = irg_rl("check", CONFIGS / "bagel-grpo.yaml", "engine.attention=flash")
    if not _has_gpu():
        assert "not on this machine: engine.attention flash needs the package flash-attn" in answer.out


def test_check_says_where_a_stage_has_fewer_packs_than_ranks(irg_rl):
    stage2 = CONFIGS / "bagel-sft-stage2.yaml"
    said = irg_rl("check", stage2, "sft.stage2.packs_per_step=3").out
    assert "sft.stage2: 3 of 8 learner ranks train it; more packs_per_step, more ranks" in said
    assert "learner ranks train it" not in irg_rl("check", stage2, "sft.stage2.packs_per_step=8").out


def test_check_counts_the_gpus_that_ranks_and_actors_want(irg_rl, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    recipe = CONFIGS / "bagel-lora-grpo.yaml"
    said = irg_rl("check", recipe, "engine.learner_ranks=8").out
    assert "not on this machine: rl has 12 processes and 8 GPUs with room for 8 are visible: lower" in said
    shared = irg_rl("check", recipe, "engine.learner_ranks=1", "engine.rollout_actors=20", "engine.gpu_share=0.33").out
    assert "GPUs" not in shared  # 21 processes, three to a GPU
    crowd = ["engine.learner_ranks=1", "engine.rollout_actors=24", "engine.gpu_share=0.33"]
    said = irg_rl("check", recipe, *crowd).out
    assert "rl has 25 processes and 8 GPUs with room for 24" in said
    enough = irg_rl("check", recipe).out
    assert "bagel-lora-grpo: well-formed" in enough and "GPUs" not in enough


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


# --- train, before anything is made


def test_train_without_the_gpu_it_needs_makes_nothing(irg_rl, elsewhere, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # also where this test meets a GPU
    said = one_line(irg_rl("train", CONFIGS / "bagel-grpo.yaml"))
    assert "engine.device is cuda, but no GPU is visible" in said and list(elsewhere.iterdir()) == []


def test_train_with_a_mistyped_setting_makes_nothing(irg_rl, elsewhere):
    assert "did you mean rl.updates?" in one_line(irg_rl("train", SMOKE, "rl.updats=3"))
    assert list(elsewhere.iterdir()) == []


def test_train_with_truncated_rows_names_the_file_and_makes_nothing(irg_rl, elsewhere, tmp_path):
    file = write(tmp_path / "rows" / "mode", [initial_full(1)])
    file.write_bytes(file.read_bytes()[:-50])
    data = f"sft.data={tmp_path / 'rows'}", "sft.stage1.sources=[{folder: mode}]"
    answer = irg_rl("train", SMOKE, *data, "sft.stage2=null", "sft.base=null")
    assert f"{file}: not a readable parquet file" in one_line(answer)
    assert list(elsewhere.iterdir()) == []


def judge(**settings) -> str:
    """An override that leaves one scorer, a judge elsewhere unless `kind` says otherwise."""
    scorer = {"name": "mllm", "kind": "judge"} | settings
    if scorer["kind"] == "judge":
        scorer = {"base_url": "http://127.0.0.1:9/v1"} | scorer
    return f"rewards.scorers=[{json.dumps(scorer)}]"


@pytest.mark.parametrize(("scorers", "says"), [
    (judge(api_key_env="NO_SUCH_KEY"), "mllm: the key is read from $NO_SUCH_KEY, which is not set: export it"),
    (judge(kind="no_such_package.scorers:Sharp"), "scorer kind 'no_such_package.scorers:Sharp' cannot be imported"),
    ("rewards.scorers.1.path=/nowhere/hps", "hps finds no model at /nowhere/hps"),
    ("rewards.scorers.1.options={path: /nowhere/hps}", "hps finds no model at /nowhere/hps"),
    ("rewards.scorers.1.options={presicion: bf16}", "has no option 'presicion'; did you mean 'precision'?"),
    (judge(options={"question": "Is it good?"}), "lacks {prompt}"),
    (judge(base_url="host:8000"), "give one such as http://host:8000/v1"),
    (judge(), "127.0.0.1:9"),
    ("rewards.scorers.1.model=ViT-H-14", "model: not a setting of scorers of kind 'hps'"),
    ("task_options.sft_rows={base_editng: 3}", "sft_rows.base_editng: unknown; did you mean base_editing?"),
    ("task_options.prompt_mix={colurs: 1}", "task_options.prompt_mix.colurs: unknown; did you mean colors?"),
])  # fmt: skip
def test_train_with_a_scorer_that_cannot_work_makes_nothing(irg_rl, elsewhere, scorers, says):
    """Scorers are loaded hours after the start."""
    assert says in one_line(irg_rl("train", SMOKE, scorers))
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(("settings", "setting"), [
    ({"options": {"api_key": "sesame-0123456789"}}, "options.api_key"),
    ({"kind": "my.scorers:Sharp", "options": {"http": {"Authorization": "sesame-0123456789"}}}, "options.http"),
    ({"base_url": "http://user:sesame-0123456789@host/v1"}, "base_url"),
    ({"base_url": "http://host/v1?token=sesame-0123456789"}, "base_url"),
    ({"api_key_env": "sk-sesame-0123456789"}, "api_key_env"),
])  # fmt: skip
@pytest.mark.parametrize("command", ["check", "train"])
def test_a_secret_in_a_recipe_is_refused_and_not_repeated(irg_rl, elsewhere, command, settings, setting):
    said = one_line(irg_rl(command, SMOKE, judge(**settings)))
    assert f"mllm: {setting} holds what looks like a secret" in said and "sesame" not in said
    assert list(elsewhere.iterdir()) == []


def test_train_with_broken_prompts_of_ones_own_names_the_line_and_makes_nothing(irg_rl, elsewhere, tmp_path):
    file = tmp_path / "mine.jsonl"
    include = [{"class": "circle", "color": "red", "count": 1}]
    good = json.dumps({"prompt": "a red circle", "include": include})
    file.write_text(good + '\n{"prompt": \n')
    assert f"rl.prompts: {file}, line 2: not JSON" in one_line(irg_rl("train", SMOKE, f"rl.prompts={file}"))
    assert list(elsewhere.iterdir()) == []


def test_an_output_folder_that_is_a_file_is_one_line(irg_rl, elsewhere):
    (elsewhere / "taken").write_text("")
    assert "choose another output_dir" in one_line(irg_rl("train", SMOKE, "output_dir=taken"))


# --- runs that are none


@pytest.mark.parametrize("command", ["resume", "report", "eval", "fork", "baseline", "compare", "show", "replay"])
def test_a_folder_that_is_no_run_is_one_line(irg_rl, elsewhere, command):
    (elsewhere / "empty").mkdir()
    words = ["--step", 1] if command in ("show", "replay") else []
    assert one_line(irg_rl(command, "empty", *words)) == (
        "empty: not a run folder (no recipe.yaml); `irg-rl train RECIPE` makes one"
    )


def test_generate_without_a_model_is_one_line_and_writes_nothing(irg_rl, elsewhere):
    answer = irg_rl("generate", "empty", "--prompt", "a red circle", "--out", "pictures")
    assert "empty: not a model folder" in one_line(answer) and list(elsewhere.iterdir()) == []


def test_parity_without_a_model_is_one_line(irg_rl, elsewhere):
    assert "empty: not a model folder" in one_line(irg_rl("parity", "empty"))


def test_eval_of_a_run_without_a_trained_model_says_how_to_go_on(irg_rl, recipe):
    run = Run.create(recipe)
    assert f"`irg-rl resume {run.folder}` continues the run" in one_line(irg_rl("eval", run.folder))


def test_a_run_that_another_process_works_on_is_left_alone(irg_rl, recipe):
    run = Run.create(recipe)
    with run.lock():
        assert "another process works on this run" in one_line(irg_rl("resume", run.folder))
    assert Run.open(run.folder).stages == {}


# --- ls


def test_ls_lists_recipes_and_runs(irg_rl, recipe, elsewhere, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    run = Run.create(recipe.model_copy(update={"output_dir": "runs"}))
    with run.stage("world"):
        pass
    answer = irg_rl("ls")
    assert answer.code == 0
    assert all(f"\n{path.stem} " in answer.out for path in CONFIGS.glob("*.yaml"))
    assert recipe.digest() in answer.out and "world" in answer.out


def test_ls_survives_files_that_are_no_recipes_and_damaged_runs(irg_rl, elsewhere, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    files = {"configs/broken.yaml": "a: [", "configs/list.yaml": "- a", "runs/old/recipe.yaml": "b: ["}
    for path, content in files.items():
        (elsewhere / path).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / path).write_text(content)
    answer = irg_rl("ls")
    assert answer.code == 0 and "broken.yaml" in answer.out and "unreadable" in answer.out


FOREIGN = {
    "configs/a.yaml": "services: {db: {image: x}}",
    "configs/b.yaml": "just words",
    "configs/c.yaml": "a: &a [*a]",
    "configs/d.yaml": "name: ${nowhere}\ndescription: ${oops}",
    "configs/e.yaml": "!!python/object:os.system {}",
    "configs/f.yaml": "name: x\ndescription: [1, 2]",
    "configs/g.yaml": "extends: ${nowhere}",
    "configs/h.yaml": "extends: shapes.yaml\nrl: 3",
    "configs/i.yaml": "{" * 5000,
    "configs/j.yaml": "",
    "configs/[old] k.yaml": "name: '[/think]'",
    "runs/[old] x/recipe.yaml": "a: b",
    "runs/y/recipe.yaml": "{" * 5000,
    "runs/z/recipe.yaml": "\x00",
}


def test_ls_gives_whatever_lies_there_a_line_of_its_own(irg_rl, elsewhere):
    for path, content in FOREIGN.items():
        (elsewhere / path).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / path).write_text(content)
    answer = irg_rl("ls")
    assert answer.code == 0
    for path in FOREIGN:
        place = path if path.startswith("configs") else path.removesuffix("/recipe.yaml")
        assert sum(line.startswith(place + " ") for line in answer.out.splitlines()) == 1, place


def test_a_command_line_that_is_no_text_is_one_line(irg_rl, tmp_path):
    answer = irg_rl("generate", tmp_path, "--prompt", "caf\udce9", "--out", tmp_path)
    assert "word 4 of the command line: half a character" in one_line(answer)


@pytest.mark.parametrize("prompt", ["", "  ", "nul\0", "\x1b[31m"])
def test_a_prompt_that_no_model_can_be_asked_is_refused_before_one_is_loaded(irg_rl, tmp_path, prompt):
    assert "--prompt 1: " in one_line(irg_rl("generate", tmp_path, "--prompt", prompt, "--out", tmp_path))


# --- shipped recipes


def test_a_shipped_recipe_goes_by_its_name(irg_rl):
    by_path, by_name = irg_rl("check", SMOKE), irg_rl("check", "shapes-smoke")
    assert by_name.code == 0 and by_name.out == by_path.out


def test_a_file_of_the_same_name_comes_before_a_shipped_recipe(irg_rl, elsewhere):
    (elsewhere / "shapes-smoke").write_text("name: mine\n")
    assert "shapes-smoke: 1 problem(s)" in one_line(irg_rl("check", "shapes-smoke"))


def test_a_name_that_is_nearly_a_recipes_is_told_which(irg_rl):
    assert "did you mean shapes-smoke?" in one_line(irg_rl("train", "shapes-smok"))


def test_cp_makes_a_recipe_to_edit_that_means_the_same(irg_rl, elsewhere):
    answer = irg_rl("cp", "shapes-nft", "mine.yaml")
    assert answer.code == 0 and "irg-rl train mine.yaml" in answer.out
    assert "extends: shapes.yaml" in (elsewhere / "mine.yaml").read_text()
    assert irg_rl("check", "mine.yaml").out == irg_rl("check", "shapes-nft").out


def test_cp_writes_over_nothing_and_names_unknown_recipes(irg_rl, elsewhere):
    assert irg_rl("cp", "shapes").code == 0
    assert "shapes.yaml exists" in one_line(irg_rl("cp", "shapes"))
    assert "no such recipe; did you mean shapes" in one_line(irg_rl("cp", "shape", "other.yaml"))
    assert not (elsewhere / "other.yaml").exists()


def test_a_run_in_runs_is_found_by_its_name(irg_rl, elsewhere):
    (elsewhere / "runs" / "mine").mkdir(parents=True)
    assert one_line(irg_rl("resume", "mine")).startswith("runs/mine: not a run folder")
    (elsewhere / "mine").mkdir()
    assert one_line(irg_rl("resume", "mine")).startswith("mine: not a run folder")


# --- Ctrl-C


def test_ctrl_c_says_how_to_go_on(irg_rl, elsewhere):
    """The command waits for a recipe that never comes: a pipe that nobody writes into."""
    (elsewhere / "configs").mkdir()
    os.mkfifo(elsewhere / "configs" / "slow.yaml")
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 2.0)  # again, because Python ignores an interrupt that hits a destructor
    try:
        answer = irg_rl("ls")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert answer.code == 130
    assert answer.err.strip() == "error: stopped by hand; `irg-rl resume RUN` goes on from the last checkpoint"


def test_check_names_the_line_whose_metadata_the_verifier_cannot_read(irg_rl, tmp_path):
    file = tmp_path / "mine.jsonl"
    for beside in ({}, {"include": 3}, {"include": [3]}):
        file.write_text(json.dumps({"prompt": "a red circle", **beside}))
        answer = irg_rl("check", SMOKE, f"rl.prompts={file}")
        assert answer.code == 1 and f"not on this machine: rl.prompts: {file}, line 1: the metadata" in answer.out
