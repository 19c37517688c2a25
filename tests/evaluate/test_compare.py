import json

import numpy as np
import pytest

from irg_rl.evaluate import compare
from irg_rl.evaluate.suite import REAL, REDRAW, SHUFFLED, Evaluation


def test_best_of_keeps_the_higher_scored_first_image(table):
    one = table([[1, 0], [0, 0]], rewards={"hps": np.array([[0.1, 0], [0.9, 0]])})
    two = table([[0, 0], [1, 0]], rewards={"hps": np.array([[0.5, 0], [np.nan, 0]])})
    by_hps = compare.best_of([one, two], "hps")
    assert by_hps.correct.tolist() == [[True, False], [False, False]]  # hps prefers the wrong one, then its own failure
    oracle = compare.best_of([one, two], compare.VERIFIER)
    assert oracle.correct[:, 1].tolist() == [True, True]
    assert oracle.renders == 2.0
    with pytest.raises(ValueError, match="known: verifier, hps"):
        compare.best_of([one, two], "clip")


def test_each_seed_and_the_pool_are_held_against_each_baseline(table):
    sft = table([[0, 0], [0, 1], [1, 1], [1, 1]] * 25)
    rl = [table([[0, 1], [0, 1], [1, 1], [1, 1]] * 25, seed=seed) for seed in (0, 1)]
    continued = [table([[0, 0], [0, 0], [1, 1], [1, 1]] * 25, seed=seed) for seed in (0, 1)]
    result = compare.compare(rl, {"SFT checkpoint": sft, "SFT continued": continued}, resamples=300)
    assert [(row.baseline, row.seed) for row in result.rows] == [
        ("SFT checkpoint", 0), ("SFT checkpoint", 1), ("SFT checkpoint", None),
        ("SFT continued", 0), ("SFT continued", 1), ("SFT continued", None),
    ]  # fmt: skip
    pooled = result.rows[2]
    assert pooled.gained.value == pytest.approx(0.25) and 0.15 < pooled.gained.low < 0.25 < pooled.gained.high < 0.35
    assert pooled.repair_ratio.value == pytest.approx(2.0)
    assert (pooled.rl_damage.value, pooled.rl_damage.n) == (0.0, 100)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["rows"][5]["repair_ratio"]["value"] is None
    markdown = result.to_markdown().splitlines()
    assert len(markdown) == 8 and "| SFT checkpoint | pooled | 1.000 | 0.750 | +0.250 [" in markdown[4]


def test_a_missing_seed_of_a_baseline_is_refused(table):
    rl = [table([[0, 1]], seed=seed) for seed in (0, 1)]
    with pytest.raises(ValueError, match="'SFT continued' has 1 tables for 2 seeds"):
        compare.compare(rl, {"SFT continued": [rl[0]]})


def test_a_baseline_of_single_images_has_no_repair_ratio(table):
    result = compare.compare([table([[0, 1], [1, 1]])], {"one image": table([[0], [1]])}, resamples=20)
    assert result.rows[0].repair_ratio is None and "| - |" in result.to_markdown()


def test_an_evaluation_writes_its_summary_with_controls_beside_it(table, tmp_path):
    arms = {
        REAL: table([[0, 1], [0, 1], [1, 1]]),
        REDRAW: table([[0, 0], [0, 1], [1, 0]], arm=REDRAW),
        SHUFFLED: table([[0, 0], [0, 0], [1, 1]], arm=SHUFFLED),
    }
    path = Evaluation("sft", arms, step=10).save(tmp_path / "evaluation", resamples=50)
    content = json.loads(path.read_text())
    assert content["differences"][REDRAW]["repair"][1]["value"] == 0.5
    assert content["arms"][SHUFFLED]["repair"][1] == {
        "value": 0.0,
        "n": 2,
        "low": 0.0,
        "high": pytest.approx(0.6576, abs=1e-4),
    }
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "sft.json", "sft.real.parquet", "sft.redraw.parquet", "sft.shuffled.parquet",
    ]  # fmt: skip
