"""`irg-rl study` on the tiny run: the command, its settings, and that a second call measures nothing."""

import numpy as np
import pytest

from irg_rl.commands.study import RewardVerdicts, evaluations, study_prompts, subject_of
from irg_rl.config import changed_recipe
from irg_rl.driver.run_folder import Run
from irg_rl.studies import NAMES
from irg_rl.studies.catalog import STUDIES
from irg_rl.studies.frame import read_table
from irg_rl.studies.settings import CreditStudySettings, InfluenceSettings
from irg_rl.task import Verdict

SMALL = ("study.turns=2", "study.scorers=[]", "evaluation.prompts=3")


def test_every_study_is_listed_and_explained(irg_rl):
    assert list(STUDIES) == list(NAMES)
    assert all(study.question and name in irg_rl("study", "--help").out for name, study in STUDIES.items())


def test_a_study_writes_results_figures_and_a_page_into_the_run_and_is_not_done_twice(run, irg_rl):
    answer = irg_rl("study", "turns", run.folder, *SMALL)
    assert answer.code == 0, answer.err
    folder = run.folder / "studies" / "turns"
    assert "1 cells, 1 to measure" in answer.out and len(read_table(folder / "results.parquet")) == 6
    page = (folder / "index.html").read_text()
    studied = changed_recipe(run.recipe, {"evaluation.prompts": 3}, "the test")
    assert studied.digest() in page and run.recipe.digest() not in page and "evaluation of rl<" in page
    assert "http" not in page.replace("http-equiv", "").split("<img")[0]
    for name in ("old.png", "old.svg", "mine.png"):
        (folder / "figures" / name).write_bytes(b"two of an earlier call, and one of somebody")
    assert "1 cells, 0 to measure" in irg_rl("study", "turns", run.folder, *SMALL).out
    assert (folder / "figures" / "accuracy.png").is_file() and (folder / "figures" / "mine.png").is_file()
    assert not list((folder / "figures").glob("old.*"))


def test_checkpoints_of_one_run_stand_beside_each_other(run, irg_rl, tmp_path):
    models = [run.folder / "models" / name for name in ("sft1", "rl")]
    answer = irg_rl("study", "turns", *models, *SMALL, "--out", tmp_path / "out")
    assert answer.code == 0 and "sft1 (SFT, history last)" in answer.out
    assert "rl (trained n=3, history last)" in answer.out
    assert (tmp_path / "out" / "figures" / "train-test.png").is_file()


def test_mistakes_are_one_line_each(run, irg_rl):
    assert "unknown study 'turn'; did you mean turns?" in irg_rl("study", "turn", run.folder).err
    wrong = irg_rl("study", "turns", run.folder, "study.turn=3").err
    assert "study.turn: unknown setting of turns; did you mean turns?" in wrong
    assert "evaluation.point: unknown setting" in irg_rl("study", "turns", run.folder, "evaluation.point=3").err
    assert "evaluatoin: unknown setting" in irg_rl("study", "turns", run.folder, "evaluatoin.points=3").err
    assert "name at least one run or checkpoint" in irg_rl("study", "turns", "study.turns=3").err
    twice = irg_rl("study", "turns", run.folder, run.folder / "models" / "rl").err
    assert "called the same" in twice
    assert "sampling.turns says how" in irg_rl("study", "turns", run.folder, "turns=2").err
    for study, setting in (("modality", "prompts=x"), ("modes", "split=train"), ("guidance", "scorers=[]")):
        told = irg_rl("study", study, run.folder, f"study.{setting}").err
        assert f"study.{setting.split('=')[0]}: unknown setting of {study}" in told


def test_prompts_that_no_checker_understands_are_judged_by_the_rewards(run, irg_rl, tmp_path):
    prompts = tmp_path / "mine.jsonl"
    prompts.write_text('{"prompt": "a cat"}\n{"prompt": "a dog"}\n')
    refused = irg_rl("study", "turns", run.folder, f"study.prompts={prompts}", "rewards.scorers=[]", "rl=null")
    assert "cannot judge these prompts, and the recipe has no rewards that could" in refused.err


def test_how_each_checkpoint_was_evaluated_is_said_with_a_warning_where_they_differ(run):
    one, finer = (subject_of(run.folder, changes) for changes in ({}, {"evaluation.points": 7}))
    same = subject_of(run.folder / "models" / "sft1", {"evaluation.seed": 3})
    assert list(evaluations([one, same])) == ["evaluation of rl", "evaluation of sft1"]
    told = evaluations([same, finer])
    assert told["evaluation of rl"].startswith("7 time points") and told["warning"].startswith("evaluated differently")


def test_credit_has_a_prompt_for_every_group(run, tmp_path):
    """The tiny run has four training prompts; the world makes more of them, but not of a file of one's own."""
    asked = CreditStudySettings(batches=6)
    made = study_prompts(run, asked, run.folder)
    assert len({prompt.id for prompt in made}) == 6 and all(prompt.metadata for prompt in made)
    assert len(study_prompts(run, CreditStudySettings(batches=4), run.folder)) == 4
    own = tmp_path / "own.jsonl"
    own.write_text('{"prompt": "a cat"}\n{"prompt": "a dog"}\n')
    learning = Run(run.folder, changed_recipe(run.recipe, {"rl.prompts": str(own)}, "the test"))
    for settings in (asked, InfluenceSettings(split="train")):
        assert [prompt.text for prompt in study_prompts(learning, settings, run.folder)] == ["a cat", "a dog"]


def test_a_failed_reward_is_neither_right_nor_wrong():
    class Hub:
        def used(self, name, prompt):
            return True

        def score_with(self, name, images, prompts):
            return {"a": [0.5, None, 0.4], "b": [1.0, 1.0, 1.0], "held out": [None, None, None]}[name]

    image = np.zeros((2, 2, 3), np.uint8)
    found = RewardVerdicts(Hub(), {"a": 1.0, "b": 0.5})([image] * 3, [None] * 3)
    assert found == [Verdict(True, 1.0), None, Verdict(False, pytest.approx(0.9))]
