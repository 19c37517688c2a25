"""`irg-rl compare`: what is pooled, what it is held against, and what is refused."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from irg_rl.config import load_recipe
from irg_rl.driver.compare import CONTINUED, compare_runs
from irg_rl.driver.run_folder import Run, RunError
from irg_rl.evaluate import outcomes
from tests.evaluate.tables import build
from tests.paths import CONFIGS

SFT = [[1, 1, 1], [1, 1, 0], [0, 0, 0], [0, 0, 1]] * 10
REDRAW = [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]] * 10
RL = {0: [[1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 0, 0]] * 10, 1: [[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 1, 1]] * 10}
REDRAWN = [[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]] * 10
EVALUATION_SEED = 1234


@pytest.fixture
def evaluated(tmp_path):
    """evaluated(rl_seed, *overrides) -> a run that has been evaluated after SFT and after RL."""

    def make(rl_seed: int, *overrides: str) -> Run:
        own = f"output_dir={tmp_path}", f"rl.seed={rl_seed}"
        run = Run.create(load_recipe(CONFIGS / "shapes-smoke.yaml", [*own, *overrides]))
        run.path("world", "test.jsonl").write_text("the prompts")
        run.path("models", "sft2", "ema.safetensors").write_text("the weights")
        save(run, "sft2.real", SFT)
        save(run, "sft2.redraw", REDRAW)
        save(run, "rl.real", RL[rl_seed])
        save(run, "rl.redraw", REDRAWN)
        save(run, "rl.shuffled", REDRAWN)
        return run

    return make


def save(run: Run, name: str, rows: list[list[int]]) -> None:
    outcomes.save(build(rows, seed=EVALUATION_SEED), run.path("evaluation", f"{name}.parquet"))


def rows(run: Run, name: str = "pooled") -> dict[tuple[str, int | None], dict]:
    content = json.loads((run.folder / "evaluation" / f"{name}.json").read_text())
    return {(row["baseline"], row["seed"]): row for row in content["rows"]}


def test_each_row_names_the_seed_of_rl_and_the_pool_has_all_images_of_all_seeds(evaluated):
    runs = [evaluated(0), evaluated(1)]
    assert compare_runs([run.folder for run in runs]) == runs[0].folder / "evaluation"
    found = rows(runs[0])
    assert [seed for name, seed in found if name == "SFT checkpoint"] == [0, 1, None]
    pooled = found["SFT checkpoint", None]
    assert (pooled["rl_accuracy"]["value"], pooled["baseline_accuracy"]["value"]) == (0.75, 0.5)
    assert (pooled["rl_damage"]["value"], pooled["rl_damage"]["n"]) == (0.25, 40)  # 20 right first images a seed
    assert found["SFT checkpoint", 1]["rl_damage"]["value"] == 0.5
    assert not list((runs[1].folder / "evaluation").glob("*.json"))


def test_comparing_one_run_leaves_the_pool_as_it_is(evaluated):
    runs = [evaluated(0), evaluated(1)]
    compare_runs([run.folder for run in runs])
    pooled = rows(runs[0])
    compare_runs([runs[0].folder])
    assert rows(runs[0]) == pooled and {seed for _, seed in rows(runs[0], "comparison")} == {0}


def test_the_better_of_two_first_images_is_drawn_from_sft(evaluated):
    run = evaluated(0)
    compare_runs([run.folder])
    row = rows(run, "comparison")["best of 2", 0]
    assert (row["baseline_accuracy"]["value"], row["baseline_renders"]) == (0.75, 2.0)
    assert row["repair_ratio"] is None  # a second draw refines nothing


def test_as_many_first_images_as_rl_renders_are_a_baseline_too(evaluated):
    run = evaluated(0)
    compare_runs([run.folder])
    row = rows(run, "comparison")["best of 3", 0]
    assert (row["rl_renders"], row["baseline_renders"]) == (3.0, 3.0)


def test_a_part_of_a_render_is_rounded_up_for_the_baseline(evaluated):
    """Half of RL's trajectories stop after two images: 2 renders and a half on average, held against the best of 3."""
    run = evaluated(0)
    stopped = [[0, 0, 0], [0, 0, 1]] * 20
    path = run.path("evaluation", "rl.real.parquet")
    outcomes.save(build(RL[0], seed=EVALUATION_SEED, stopped=stopped), path)
    compare_runs([run.folder])
    row = rows(run, "comparison")["best of 3", 0]
    assert (row["rl_renders"], row["baseline_renders"]) == (2.5, 3.0)


def test_repair_stands_beside_the_controls_of_rl_s_own_evaluation(evaluated):
    runs = [evaluated(0), evaluated(1)]
    compare_runs([run.folder for run in runs])
    content = json.loads((runs[0].folder / "evaluation" / "pooled.json").read_text())
    found = {(row["against"], row["seed"]): row for row in content["repairs"]}
    assert {control for control, _ in found} == {"SFT checkpoint", "redraw", "shuffled"}
    assert [found["redraw", seed]["gained"]["value"] for seed in (0, 1, None)] == [0.0, 0.5, 0.25]
    assert found["redraw", None]["across_seeds"]["n"] == 40


def test_sft_continued_of_one_run_stands_beside_every_seed(evaluated):
    runs = [evaluated(0), evaluated(1)]
    save(runs[1], f"{CONTINUED}.real", [[1, 1, 1]] * 40)
    compare_runs([run.folder for run in runs])
    assert not any(name == "SFT continued" for name, _ in rows(runs[0]))  # half done: not evaluated yet
    runs[1].record(f"evaluate_{CONTINUED}", 1.0, done=True)
    compare_runs([run.folder for run in runs])
    continued = {seed: row for (name, seed), row in rows(runs[0]).items() if name == "SFT continued"}
    assert {seed: row["baseline_accuracy"]["value"] for seed, row in continued.items()} == {0: 1.0, 1: 1.0, None: 1.0}


def test_other_arms_are_held_against_rl_seed_by_seed_or_one_for_all(evaluated, irg_rl):
    runs, raft = [evaluated(0), evaluated(1)], [evaluated(seed, "rl.options={clip_image: 0.5}") for seed in (1, 0)]
    for run in raft:
        save(run, "rl.real", [[1, 1, 1]] * 40 if run.recipe.rl_seed else [[0, 0, 0]] * 40)
    other = [f"--against=RAFT={run.folder}" for run in raft] + [f"--against=other SFT={raft[0].path('models', 'sft2')}"]
    answer = irg_rl("compare", *(run.folder for run in runs), *other)
    assert answer.code == 0, answer.err
    found = {key: row["baseline_accuracy"]["value"] for key, row in rows(runs[0]).items()}
    assert [found["RAFT", seed] for seed in (0, 1, None)] == [0.0, 1.0, 0.5]
    assert [found["other SFT", seed] for seed in (0, 1, None)] == [0.5, 0.5, 0.5]


def test_one_seed_of_another_rl_arm_says_nothing_of_another_seed(evaluated):
    runs, raft = [evaluated(0), evaluated(1)], evaluated(0, "rl.options={clip_image: 0.5}")
    compare_runs([run.folder for run in runs], against={"RAFT": [raft.folder]})
    found = rows(runs[0])
    assert found["RAFT", None]["gained"]["n"] == 80 and found["RAFT", None]["gained_across_seeds"] is None
    assert found["SFT checkpoint", None]["gained_across_seeds"] is not None


def test_an_arm_whose_rl_is_not_evaluated_yet_is_not_replaced_by_its_sft(evaluated):
    one, unfinished = evaluated(0), evaluated(1)
    unfinished.path("evaluation", "rl.real.parquet").unlink()
    with pytest.raises(RunError, match="rl has not been evaluated"):
        compare_runs([one.folder], against={"RAFT": [unfinished.folder]})


def test_arms_of_other_seeds_are_refused(evaluated):
    runs, other = [evaluated(0), evaluated(1)], [evaluated(0), evaluated(0)]
    with pytest.raises(RunError, match=r"RAFT: its runs have the RL seeds \[0, 0\], the compared runs \[0, 1\]"):
        compare_runs([run.folder for run in runs], against={"RAFT": [run.folder for run in other]})


def test_scores_that_only_one_arm_of_an_evaluation_has_are_left_out_of_best_of(evaluated):
    run = evaluated(0)
    scored = replace(build(SFT, seed=EVALUATION_SEED), rewards={"clip": np.ones((40, 3))})
    outcomes.save(scored, run.path("evaluation", "sft2.real.parquet"))
    compare_runs([run.folder])
    assert rows(run, "comparison")["best of 2", 0]["baseline_accuracy"]["value"] == 0.75


def test_an_arm_with_other_prompts_or_another_evaluation_is_refused(evaluated):
    one, other = evaluated(0), evaluated(1)
    longer = evaluated(1, "evaluation.turns=5")
    with pytest.raises(RunError, match="its `evaluation` differs"):
        compare_runs([one.folder], against={"longer": [longer.folder]})
    other.path("world", "test.jsonl").write_text("other prompts")
    with pytest.raises(RunError, match=r"has other prompts \(world/test.jsonl\)"):
        compare_runs([one.folder], against={"other": [other.folder]})


def test_an_arm_without_a_name_is_refused(evaluated, irg_rl):
    answer = irg_rl("compare", evaluated(0).folder, "--against", "runs/raft")
    assert answer.code == 1 and "--against runs/raft: write NAME=RUN" in answer.err


def test_results_on_another_split_are_compared_and_their_absence_names_the_command(evaluated):
    run = evaluated(0)
    with pytest.raises(RunError, match="models/rl --split hard"):
        compare_runs([run.folder], split="hard")
    for name, table in {"rl.real": RL[1], "rl.redraw": REDRAWN, "rl.shuffled": REDRAWN, "sft2.real": SFT,
                        "sft2.redraw": REDRAW}.items():  # fmt: skip
        model, arm = name.split(".")
        save(run, f"eval-{model}-seed{run.recipe.evaluation.seed}-hard.{arm}", table)
    compare_runs([run.folder], split="hard")
    assert rows(run, "comparison-hard")["SFT checkpoint", 0]["rl_accuracy"]["value"] == 0.75


def test_where_a_judge_has_scored_the_first_images_it_chooses_among_them_too(evaluated):
    """The judge likes wrong images: the best of two by it is right only where both are, which is nowhere."""
    run = evaluated(0)
    liked = {name: 1.0 - np.array(table, float) for name, table in (("real", SFT), ("redraw", REDRAW))}
    for arm, table in (("real", SFT), ("redraw", REDRAW)):
        scored = replace(build(table, seed=EVALUATION_SEED), rewards={"judge": liked[arm]})
        outcomes.save(scored, run.path("evaluation", f"sft2.{arm}.parquet"))
    compare_runs([run.folder])
    found = rows(run, "comparison")
    assert found["best of 2 by judge", 0]["baseline_accuracy"]["value"] == 0.0
    assert found["best of 2", 0]["baseline_accuracy"]["value"] == 0.75


def test_the_command_prints_the_table_whole_and_writes_where_it_is_told(evaluated, irg_rl, tmp_path):
    runs = [evaluated(0), evaluated(1)]
    answer = irg_rl("compare", *(run.folder for run in runs), "--out", tmp_path / "out")
    text = (tmp_path / "out" / "pooled.md").read_text()
    assert answer.code == 0 and text in answer.out and "| SFT checkpoint | all  | .750 | .500 | +.250 [" in text
    assert answer.out.endswith(f"written: {tmp_path / 'out'}\n")
    assert json.loads((tmp_path / "out" / "pooled.json").read_text())["kind"] == "comparison"


@pytest.mark.parametrize(("place", "named"), [
    ("world/test.jsonl", "another set of test prompts (world/test.jsonl)"),
    ("models/sft2/ema.safetensors", "another SFT checkpoint (models/sft2/ema.safetensors)"),
])  # fmt: skip
def test_runs_of_another_world_or_checkpoint_are_not_pooled(evaluated, place, named):
    one, other = evaluated(0), evaluated(1)
    (other.folder / place).write_text("others")
    said = f"{other.folder} has {named} than {one.folder}: compare a run with its forks"
    with pytest.raises(RunError, match=re.escape(said)):
        compare_runs([one.folder, other.folder])
    (other.folder / place).unlink()
    with pytest.raises(RunError, match=re.escape(named)):
        compare_runs([one.folder, other.folder])


def test_runs_that_differ_in_more_than_the_seed_are_not_pooled(evaluated):
    one, other = evaluated(0), evaluated(1, "rl.updates=9", "evaluation.turns=2", "engine.threads=1")
    with pytest.raises(RunError) as caught:
        compare_runs([one.folder, other.folder])
    assert str(caught.value).splitlines()[1:] == [
        f"  evaluation.turns: 3 in {one.folder}, 2 in {other.folder}",
        f"  rl.updates: 3 in {one.folder}, 9 in {other.folder}",
    ]


def test_one_seed_does_not_count_twice(evaluated):
    one, other = evaluated(0), evaluated(0)
    with pytest.raises(RunError, match=f"{one.folder} and {other.folder} have the same seed of RL, 0"):
        compare_runs([one.folder, other.folder])


def test_a_run_that_has_not_come_so_far_is_refused(evaluated):
    run = evaluated(0)
    (run.folder / "evaluation" / "rl.real.parquet").unlink()
    with pytest.raises(RunError, match="rl has not been evaluated; `irg-rl resume .*` goes on"):
        compare_runs([run.folder])
    shutil.rmtree(run.folder)
    with pytest.raises(RunError, match="not a run folder"):
        compare_runs([run.folder])


def test_a_run_without_sft_has_no_checkpoint_to_compare_with(evaluated):
    with pytest.raises(RunError, match="the run has no SFT, so there is no SFT checkpoint"):
        compare_runs([evaluated(0, "sft=null").folder])


def test_a_part_of_a_render_counts_as_a_whole_one_for_the_baseline(evaluated):
    """Fails where equal renders are rounded down: RL that renders 2.5 images is held against the best of 3."""
    run = evaluated(0)
    stopped = [[False, False, number % 2 == 1] for number in range(len(RL[0]))]
    table = build(RL[0], seed=EVALUATION_SEED, stopped=stopped)
    outcomes.save(table, run.path("evaluation", "rl.real.parquet"))
    compare_runs([run.folder])
    assert ("best of 3", 0) in rows(run, "comparison")
