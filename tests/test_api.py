"""`import irg_rl`: a notebook samples, scores, assigns credit and learns in its own process."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import irg_rl
from irg_rl import api
from irg_rl.errors import InputError
from irg_rl.learner.ratio_check import RatioError
from irg_rl.model.folder import load_folder, save_folder
from rewards.base import ScorerUnavailable
from tests.paths import CONFIGS

RED = "a red circle above a blue square"
SMALL = [
    "engine.threads=1", "sampling.turns=2", "sampling.max_text_tokens=8", "rl.group_size=3", "rl.optimizer.warmup=0",
    "rl.optimizer.lr=2.0e-3", "rewards.scorers=[{name: light, kind: tests.rewards.scorers:Brightness}]",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_folder(world.model, world.vae, world.tokenizer, path)
    return path


def recipe_of(*overrides: str):
    return irg_rl.load_recipe("shapes-smoke", [*SMALL, *overrides])


def ready(groups, recipe):
    """Scored, and with advantages."""
    irg_rl.score(groups, recipe)
    irg_rl.assign_credit(groups, recipe)
    return groups


def test_one_update_moves_the_weights_and_the_policy_that_follows_samples_with_them(folder, tmp_path):
    recipe = recipe_of()
    policy, learner = irg_rl.Policy(folder, recipe), irg_rl.make_learner(folder, recipe)
    assert (policy.version, policy.digest) == (0, learner.publish(0).digest)
    first = policy.sample(irg_rl.load_prompts(recipe)[:2])
    irg_rl.score(first, recipe)
    for trajectory in (t for group in first for t in group.trajectories):
        light = [float(image.pixels.numpy().mean()) / 255 for image in trajectory.images]
        assert trajectory.rewards == {"light": light}
    selections = irg_rl.assign_credit(first, recipe)
    assert all(one.has_spread and not one.empty for one in selections)
    advantages = [segment.advantage for segment in first[0].segments if segment.turn == 0]
    assert None not in advantages and min(advantages) < 0 < max(advantages)

    rows = learner.check_ratio(*first)
    assert {row["modality"] for row in rows} == {"text", "image"} and all(row["max"] <= row["limit"] for row in rows)
    metrics = learner.train(*first)
    assert metrics["step"] == 1 and metrics["grad_norm/total"] > 0
    assert metrics["text/turn0/ratio_max"] == pytest.approx(1, abs=1e-4)
    with pytest.raises(RatioError):
        learner.check_ratio(*first)  # they are samples of the old weights now

    before = policy.digest
    policy.follow(learner)
    assert (policy.version, policy.digest) == (1, learner.publish(1).digest) and policy.digest != before
    second = ready(policy.sample([RED]), recipe)
    assert {(t.version, t.digest) for t in second[0].trajectories} == {(1, policy.digest)}
    assert all(row["max"] <= row["limit"] for row in learner.check_ratio(*second))

    irg_rl.save_model(learner, tmp_path / "trained")
    assert irg_rl.Policy(tmp_path / "trained", recipe).digest == policy.digest


def test_the_first_update_checks_the_ratio_by_itself(folder):
    recipe = recipe_of()
    groups = ready(irg_rl.Policy(folder, recipe).sample([RED]), recipe)
    groups[0].trajectories[0].texts[0].logprobs[0] += 1.0
    learner = irg_rl.make_learner(folder, recipe)
    with pytest.raises(RatioError):
        learner.train(*groups)
    assert learner.updates == 0


def test_a_group_s_number_decides_its_random_numbers_and_every_call_of_sample_has_new_ones(folder):
    policy = irg_rl.Policy(folder, recipe_of())
    [one], [other] = policy.sample([RED]), policy.sample([RED])
    again = policy.sample_group(one.id, one.prompt)
    assert [group.id for group in (one, other)] == [0, 1] and len(one.trajectories) == 3

    def pictures(group):
        return torch.stack([image.pixels for t in group.trajectories for image in t.images[:1]])

    assert torch.equal(pictures(one), pictures(again)) and not torch.equal(pictures(one), pictures(other))
    with pytest.raises(InputError, match="non-empty"):
        policy.sample([" "])


def test_a_policy_takes_the_adapters_of_a_learner_that_began_with_the_same_folder(folder, world, tmp_path):
    recipe = recipe_of("rl.lora={rank: 4, alpha: 8}", "rl.optimizer.vision_lr=0")
    policy, learner = irg_rl.Policy(folder, recipe), irg_rl.make_learner(folder, recipe)
    whole = policy.digest
    learner.train(*ready(policy.sample([RED]), recipe))
    policy.follow(learner)
    assert (policy.version, policy.digest) == (1, learner.publish(1).digest) and policy.digest != whole
    assert all(row["max"] <= row["limit"] for row in learner.check_ratio(*ready(policy.sample([RED]), recipe)))
    irg_rl.save_model(learner, tmp_path / "trained")
    merged = load_folder(tmp_path / "trained").model.state_dict()
    assert merged.keys() == world.model.state_dict().keys()
    with pytest.raises(InputError, match="the learner adapts"):
        irg_rl.Policy(tmp_path / "trained", recipe).follow(learner)


def test_what_is_missing_is_said(folder, tmp_path):
    recipe = recipe_of("rewards.scorers=[{name: taste, kind: clip}]")
    groups = irg_rl.Policy(folder, recipe).sample([RED])
    with pytest.raises(InputError, match="group 0 has no rewards by taste: call score"):
        irg_rl.assign_credit(groups, recipe)
    with pytest.raises(InputError, match="scorer 'taste': a run trains its clip model, and no run is given"):
        irg_rl.score(groups, recipe)
    with pytest.raises(ScorerUnavailable, match="scorers/clip"):
        irg_rl.score(groups, recipe, run=tmp_path)
    with pytest.raises(InputError, match="no rewards.scorers"):
        irg_rl.score(groups, recipe_of("rl=null", "rewards.scorers=[]"))
    with pytest.raises(InputError, match="there is no section rl"):
        irg_rl.Policy(folder, recipe_of("rl=null"))


def test_prompts_are_the_task_s_and_for_rl_those_of_its_own_file(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "a lake"}\n')
    recipe = recipe_of(f"rl.prompts={file}")
    assert [prompt.text for prompt in irg_rl.load_prompts(recipe)] == ["a lake"]
    assert len(irg_rl.load_prompts(recipe, "test")) == 32
    with pytest.raises(InputError, match="no split 'tset': choose train, "):
        irg_rl.load_prompts(recipe, "tset")


def test_the_package_offers_what_the_module_has_and_loads_nothing_for_it():
    assert irg_rl.__all__ == api.__all__ and set(api.__all__) <= set(dir(irg_rl))
    assert all(vars(api)[name] is vars(irg_rl).get(name, getattr(irg_rl, name)) for name in api.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'sampel'"):
        irg_rl.sampel  # noqa: B018
    code = "import irg_rl, sys; dir(irg_rl); print([m for m in ('torch', 'pydantic', 'ray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"


def test_the_page_for_python_runs_as_it_stands_and_without_ray(world, tmp_path):
    root = CONFIGS.parent
    page, example = (root / "docs" / "python.md").read_text(), root / "examples" / "own_reward.py"
    [block] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "own_reward.py").write_text(example.read_text())
    models = tmp_path / "runs" / "shapes-smoke" / "models"
    models.mkdir(parents=True)
    save_folder(world.model, world.vae, world.tokenizer, models / "sft2")
    code = block + "\nimport sys\nprint(policy.version, picture.shape, picture.dtype, 'ray' in sys.modules)\n"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 (24, 24, 3) uint8 False"
    assert Path(tmp_path / "trained" / "config.json").is_file()
