"""The stages of a run, as they are declared."""

import pytest

from irg_rl.config import load_recipe
from irg_rl.driver.checks import stage_problems
from irg_rl.driver.run_folder import Run
from irg_rl.driver.stages import BEFORE_RL, NAMES, STAGES, minutes_left, start_of, unfinished
from tests.paths import CONFIGS


def needed(recipe) -> list[str]:
    return [stage.name for stage in STAGES if stage.needed(recipe)]


def smoke(*overrides: str):
    return load_recipe(CONFIGS / "shapes-smoke.yaml", overrides)


def test_a_recipe_with_everything_goes_through_all_stages_in_order():
    assert needed(smoke()) == [
        "world", "vae", "scorers", "pretrain", "sft1", "own_images", "sft2", "evaluate_sft", "rl", "evaluate_rl",
        "report",
    ]  # fmt: skip


@pytest.mark.parametrize(("override", "gone"), [
    ("sft.base=null", {"pretrain"}),
    ("sft.stage1=null", {"sft1", "own_images"}),
    ("sft.stage2=null", {"sft2", "own_images"}),
    ("sft.data=/rows", {"own_images"}),
    ("task_options.own_images=0", {"own_images"}),
    ("sft=null", {"pretrain", "sft1", "own_images", "sft2", "evaluate_sft"}),
    ("rl=null", {"rl", "evaluate_rl"}),
])  # fmt: skip
def test_stages_that_a_recipe_does_not_ask_for_are_left_out(override, gone):
    assert set(needed(smoke())) - set(needed(smoke(override))) == gone


@pytest.mark.parametrize(("override", "stage", "start"), [
    ("seed=0", "pretrain", "base"),
    ("seed=0", "sft1", "pretrain"),
    ("sft.base=null", "sft1", "base"),
    ("sft.stage1=null", "sft2", "pretrain"),
    ("seed=0", "evaluate_sft", "sft2"),
    ("sft.stage2=null", "rl", "sft1"),
    ("sft=null", "rl", "base"),
])  # fmt: skip
def test_a_stage_starts_from_the_last_model_made_before_it(override, stage, start):
    assert start_of(smoke(override), stage) == start


def test_every_stage_and_those_of_the_baseline_may_have_a_budget():
    known = smoke(f"budget_minutes={{{', '.join(f'{name}: 1' for name in NAMES)}}}")
    assert stage_problems(known) == [] and {"sft_continued", "evaluate_sft_continued"} < set(NAMES)
    assert stage_problems(smoke("budget_minutes={evalute_rl: 2, vae: 1, xyzzy: 3}")) == [
        "budget_minutes: unknown stage 'evalute_rl'; did you mean evaluate_rl?",
        f"budget_minutes: unknown stage 'xyzzy'; known: {', '.join(NAMES)}",
    ]


def test_a_fork_takes_over_what_each_stage_before_rl_has_made():
    files = {stage.name: stage.files for stage in BEFORE_RL}
    assert files["sft2"] == ("models/sft2",) and files["vae"] == ("models/base",)
    assert "evaluation/sft2.*" in files["evaluate_sft"] and not {"rl", "report"} & files.keys()


def test_the_time_left_is_the_budget_of_the_unfinished_stages_at_the_pace_of_the_finished_ones(tmp_path):
    recipe = smoke("budget_minutes={world: 5, vae: 2, scorers: 1, pretrain: 1, sft1: 1, own_images: 1, sft2: 1, "
                   "evaluate_sft: 1, rl: 4, evaluate_rl: 1, report: 0}")  # fmt: skip
    run = Run(tmp_path, recipe)
    assert unfinished(run) == needed(recipe) and minutes_left(run) == 18
    run.record("world", 600.0, done=True)
    assert minutes_left(run) == 2 * 13
    run.record("vae", 120.0, done=False)
    assert minutes_left(run) == 2 * 13
    assert minutes_left(Run(tmp_path, smoke("budget_minutes={rl: 4}"))) is None


def test_a_run_that_was_taken_over_says_nothing_of_this_machine(tmp_path):
    recipe = smoke("sft=null", "budget_minutes={world: 9, vae: 1, scorers: 1, rl: 4, evaluate_rl: 1, report: 0}")
    run = Run(tmp_path, recipe, {"world": {"seconds": 600.0, "done": True, "from": "/other"}})
    assert minutes_left(run) == 7
