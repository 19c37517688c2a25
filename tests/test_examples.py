"""Every example is short and runs as its reader would run it; so does every command of examples/README.md."""

import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

import irg_rl as package
from irg_rl.config import parse_recipe
from irg_rl.model.folder import save_folder
from irg_rl.task import task_of
from irg_rl.trajectory import Group
from tests.learner.world import CONFIG
from tests.paths import CONFIGS

EXAMPLES = CONFIGS.parent / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))
COMMANDS = re.findall(r"\| `(irg-rl [^`]*)`", (EXAMPLES / "README.md").read_text())
SMALL = ["engine.threads=1", "sampling.turns=2", "sampling.max_text_tokens=8", "rl.group_size=3"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_has_at_most_thirty_lines_and_a_command(path):
    assert len(path.read_text().splitlines()) <= 30
    assert sum(f"{path.stem}:" in command for command in COMMANDS) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_of_the_examples_would_run_is_well_formed(command, irg_rl, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    _, verb, *words = shlex.split(command)
    assert verb == "train"
    answer = irg_rl("check", *words)
    assert answer.code == ("init_from" in command), answer.err
    lacking = [line for line in answer.out.splitlines() if line.startswith("not on this machine")]
    assert all("init_from: ../runs/" in line for line in lacking) and len(lacking) == ("init_from" in command)


def test_a_wrong_option_of_a_reward_of_one_s_own_is_named_with_the_nearest(irg_rl, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    scorers = "rewards.scorers=[{name: green, kind: own_reward:Green, options: {scael: 2}}]"
    answer = irg_rl("check", "shapes-smoke", scorers)
    assert answer.code == 1 and "has no option 'scael'; did you mean 'scale'?" in " ".join(answer.err.split())


def test_the_reward_of_one_s_own_scores_two_pictures():
    script = [sys.executable, EXAMPLES / "own_reward.py"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[0.8, None] a black picture has no light\n"


def test_the_task_of_ones_own_says_which_walls_have_their_colour():
    recipe = {"name": "walls", "model": CONFIG.model_dump(mode="json"), "task": "examples.own_task:Walls"}
    task = task_of(parse_recipe(recipe))
    red, green, blue = task.prompts("test")[:3]
    wall = np.zeros((8, 8, 3), np.uint8)
    wall[..., 0], wall[..., 1] = 200, 100
    verdicts = [verdict.correct for verdict in task.verdicts([wall] * 3, [red, green, blue])]
    assert verdicts == [True, False, False] and {p.text for p in task.prompts("train")}.isdisjoint({red.text})


def test_a_task_and_a_reward_beside_their_recipe_give_a_model_one_update(world, tmp_path, monkeypatch):
    for name in ("own_task", "own_reward"):  # under other names: these modules are in no other folder
        shutil.copy(EXAMPLES / f"{name}.py", tmp_path / f"{name}_beside.py")
    (tmp_path / "walls.yaml").write_text(
        "extends: shapes-smoke.yaml\n"
        "task: own_task_beside:Walls\ntask_options: null\nsft: null\ninit_from: model\n"
        "rewards: {scorers: [{name: right, kind: verifier}, {name: green, kind: own_reward_beside:Green}]}\n"
    )
    save_folder(world.model, world.vae, world.tokenizer, tmp_path / "model")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    recipe = package.load_recipe(tmp_path / "walls.yaml", SMALL)
    policy = package.Policy(tmp_path / "model", recipe)
    learner = package.make_learner(tmp_path / "model", recipe)
    groups = policy.sample(package.load_prompts(recipe)[:2])
    package.score(groups, recipe)
    trajectory = groups[1].trajectories[0]
    light = [image.pixels.numpy().reshape(-1, 3).sum(0) for image in trajectory.images]
    share = [float(one[1] / one.sum()) for one in light]
    assert trajectory.prompt.text == "a green wall of 0 stones"
    assert trajectory.rewards == {"right": pytest.approx(share), "green": pytest.approx(share)}
    package.assign_credit(groups, recipe)
    metrics = learner.train(*groups)
    assert metrics["step"] == 1 and metrics["grad_norm/total"] > 0


def test_the_credit_scheme_of_the_docs_is_one_file_that_a_recipe_names(irg_rl, world, tmp_path, monkeypatch):
    page = (CONFIGS.parent / "docs" / "methods.md").read_text()
    [block] = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "CreditScheme" in code]
    (tmp_path / "my_credit.py").write_text(block)
    monkeypatch.chdir(tmp_path)
    answer = irg_rl("check", "shapes-smoke", "rl.credit=my_credit:LAST", "--no-trial")
    assert answer.code == 0 and len(answer.out.splitlines()) == 3, answer
    right = "rewards.scorers=[{name: right, kind: verifier}]"
    recipe = package.load_recipe("shapes-smoke", ["rl.credit=my_credit:LAST", right])
    drawn = world.sample(2)
    for trajectory, last in zip(drawn, (1.0, 0.0)):
        trajectory.rewards = {"right": [0.5] * (trajectory.turns - 1) + [last]}
    [selection] = package.assign_credit([Group(0, drawn[0].prompt, drawn)], recipe)
    texts_cut = {id(text) for trajectory in drawn for text in trajectory.texts if not text.finished}
    advantages = [{s.advantage for s in t.segments if id(s) not in texts_cut} for t in drawn]
    assert selection.has_spread and advantages == [{1.0}, {-1.0}]
