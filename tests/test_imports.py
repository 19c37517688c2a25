"""A folder in which somebody works: its modules never stand in for ours, and are found where a recipe names them."""

import os
import subprocess
import sys
import textwrap

import pytest

from irg_rl.errors import InputError
from irg_rl.imports import PACKAGES, child_path, imported, remember_folders, user_folders

SCORER = """
class Mine:
    def __init__(self, name):
        self.name, self.last_error = name, ""

    def check(self):
        pass

    def score(self, images, prompts):
        return [0.25] * len(images)
"""
DRIVER = """
import sys
from pathlib import Path
import numpy as np
import ray
from irg_rl.cluster.ray_runtime import LocalRay, RaySettings, actor_options, bounded_get
from irg_rl.imports import remember_folders
from irg_rl.trajectory import Prompt
from rewards.hub import RewardHub
from rewards.judge_process import JudgeProcess

remember_folders(Path("recipes"))
with JudgeProcess("irg_rl.shapes_world.judge_mind:answer") as judge:
    assert judge.base_url
with LocalRay(RaySettings(num_cpus=1, object_store_mb=80), Path("run")):
    actor = ray.remote(RewardHub).options(**actor_options(threads=1, cpus=0))
    hubs = [
        actor.remote([{"name": "mine", "kind": f"{module}:Mine"}]) for module in ("my_scorers", "recipe_scorers")
    ]
    image = np.zeros((2, 2, 3), np.uint8)
    scores = [bounded_get(hub.score.remote([image], [Prompt("1", "a")]), 60, "a score") for hub in hubs]
print(scores)
"""


@pytest.fixture
def workplace(tmp_path):
    """A working folder with modules that are called like ours, and a scorer; beside a recipe lies another one."""
    for name in ("rewards.py", "sft/__init__.py", "rollouts/__init__.py", "irg_rl/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('the wrong module')")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "my_scorers.py").write_text(SCORER)
    (tmp_path / "recipes" / "recipe_scorers.py").write_text(SCORER)
    return tmp_path


def test_workers_and_judge_import_ours_and_find_the_users_scorers(workplace):
    """`python -m` and Ray put the working folder in front: the judge died, and so did every worker."""
    script = workplace.parent / f"{workplace.name}-driver.py"
    script.write_text(textwrap.dedent(DRIVER))
    environment = os.environ | {"PYTHONPATH": str(PACKAGES)}
    words = [sys.executable, "-P", str(script)]
    done = subprocess.run(words, cwd=workplace, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "[{'mine': [0.25]}, {'mine': [0.25]}]"


def test_the_recipes_folder_comes_before_the_working_folder(tmp_path):
    environ = {}
    remember_folders(tmp_path / "recipes", environ=environ)
    remember_folders(tmp_path, tmp_path / "recipes", environ=environ)
    assert user_folders(environ) == [str(tmp_path / "recipes"), str(tmp_path)]


def test_a_users_folder_stands_last_on_the_path(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong module')")
    (tmp_path / "only_here_7.py").write_text("value = 7")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert imported("only_here_7:value") == 7
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize("name", ["no_such_module_7:A", "json:NoSuch", ":A", "json", "..:A"])
def test_what_cannot_be_imported_is_named(name):
    with pytest.raises(InputError, match="cannot be imported"):
        imported(name)


def test_children_get_our_packages_in_front():
    assert child_path({"PYTHONPATH": f"/a:{PACKAGES}:"}).split(":") == [str(PACKAGES), "/a"]
    assert child_path({}) == str(PACKAGES)
