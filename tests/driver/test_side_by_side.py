"""`irg-rl compare` of runs that are no repetitions of one experiment: they stand side by side and are never pooled."""

import json

import pytest
from PIL import Image

from irg_rl.driver.run_folder import Run
from irg_rl.evaluate import outcomes
from tests.driver.test_compare import RL, evaluated  # noqa: F401 - evaluated is a fixture
from tests.evaluate.tables import build

TWICE = [f"p{number // 2}" for number in range(40)]


def width(folder) -> int:
    """Width of the figure, which has one panel or two."""
    return Image.open(folder / "side_by_side.png").width


def content(folder):
    return json.loads((folder / "side_by_side.json").read_text())


def test_runs_with_other_settings_stand_side_by_side_with_paired_differences(evaluated, irg_rl):  # noqa: F811
    one, other = evaluated(0), evaluated(1, "rl.updates=9", "rl.optimizer.lr=0.5")
    answer = irg_rl("compare", one.folder, other.folder)
    assert answer.code == 0, answer.err
    folder = one.folder / "side_by_side"
    assert answer.out.endswith(f"written: {folder}\n") and (folder / "side_by_side.md").read_text() in answer.out
    assert (folder / "side_by_side.png").read_bytes().startswith(b"\x89PNG")
    first, second = content(folder)["rows"]
    assert [row["accuracy"][-1]["value"] for row in (first, second)] == [0.75, 0.75]
    assert first["gained"] is None and second["gained"]["value"] == 0 and second["gained"]["n"] == 40
    assert (first["damage"]["value"], second["damage"]["value"]) == (0.0, 0.5)
    settings = content(folder)["settings"]
    assert settings["rl.updates"] == [one.recipe.rl.updates, 9] and settings["rl.optimizer.lr"][1] == 0.5
    assert "name" not in settings and settings["rl.seed"] == [0, 1]


def test_the_curves_of_rl_are_overlaid_and_a_run_without_rl_has_none(evaluated, irg_rl, tmp_path):  # noqa: F811
    one, other = evaluated(0), evaluated(1, "rl.updates=9")
    rows = [{"stage": "rl", "step": n, "time": 0, "reward/last": n / 10} for n in range(1, 50)]
    other.path("metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = irg_rl("compare", one.folder, other.folder, "--out", tmp_path / "with")
    assert answer.code == 0, answer.err
    other.path("metrics.jsonl").unlink()
    assert irg_rl("compare", one.folder, other.folder, "--out", tmp_path / "without").code == 0
    paid = evaluated(1, "rewards.combine=zscore_sum", "rl.credit=trajectory")
    paid.path("metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = irg_rl("compare", one.folder, paid.folder, "--out", tmp_path / "other rewards")
    assert answer.code == 0 and "different rewards, so the figure has no curves" in answer.out
    assert width(tmp_path / "other rewards") == width(tmp_path / "without") < width(tmp_path / "with") / 1.4


def test_only_prompts_that_all_runs_have_are_compared(evaluated, irg_rl):  # noqa: F811
    one, other = evaluated(0), evaluated(1, "evaluation.prompts=20")
    outcomes.save(build(RL[1][:20], seed=1), other.path("evaluation", "rl.real.parquet"))
    assert irg_rl("compare", one.folder, other.folder).code == 0
    assert [row["accuracy"][0]["n"] for row in content(one.folder / "side_by_side")["rows"]] == [20, 20]


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda run: run.path("world", "test.jsonl").write_text("others"), "was evaluated on other prompts"),
    (lambda run: run.path("evaluation", "rl.real.parquet").unlink(), "rl has not been evaluated"),
    (lambda run: outcomes.save(build(RL[1], prompts=TWICE), run.path("evaluation", "rl.real.parquet")),
     "evaluate all of them with the same --samples"),
])  # fmt: skip
def test_runs_that_cannot_be_paired_are_refused_in_one_line(evaluated, irg_rl, spoil, said):  # noqa: F811
    one, other = evaluated(0), evaluated(1, "rl.updates=9")
    spoil(other)
    answer = irg_rl("compare", one.folder, other.folder)
    assert answer.code == 1 and said in answer.err and len(answer.err.splitlines()) == 1


def test_the_same_run_twice_is_refused(evaluated, irg_rl):  # noqa: F811
    run: Run = evaluated(0)
    answer = irg_rl("compare", run.folder, run.folder)
    assert answer.code == 1 and "the same seed of RL" in answer.err
