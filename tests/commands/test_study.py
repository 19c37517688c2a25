"""`irg-rl study` on the tiny run: the command, its settings, and that a second call measures nothing."""

from irg_rl.studies import NAMES
from irg_rl.studies.catalog import STUDIES
from irg_rl.studies.frame import read_table

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
    assert run.recipe.digest() in page and "http" not in page.replace("http-equiv", "").split("<img")[0]
    assert (folder / "figures" / "accuracy.png").is_file()
    assert "1 cells, 0 to measure" in irg_rl("study", "turns", run.folder, *SMALL).out


def test_checkpoints_of_one_run_stand_beside_each_other(run, irg_rl, tmp_path):
    models = [run.folder / "models" / name for name in ("sft1", "rl")]
    answer = irg_rl("study", "turns", *models, *SMALL, "--out", tmp_path / "out")
    assert answer.code == 0 and "sft1 (trained n=3" in answer.out and "rl (trained n=3" in answer.out
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


def test_prompts_that_no_checker_understands_are_judged_by_the_rewards(run, irg_rl, tmp_path):
    prompts = tmp_path / "mine.jsonl"
    prompts.write_text('{"prompt": "a cat"}\n{"prompt": "a dog"}\n')
    refused = irg_rl("study", "turns", run.folder, f"study.prompts={prompts}", "rewards.scorers=[]", "rl=null")
    assert "judged by the recipe's rewards, and it has none" in refused.err
