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
    result = compare.compare(rl, {"SFT checkpoint": sft, "SFT continued": continued})
    assert [(row.baseline, row.seed) for row in result.rows] == [
        ("SFT checkpoint", 0), ("SFT checkpoint", 1), ("SFT checkpoint", None),
        ("SFT continued", 0), ("SFT continued", 1), ("SFT continued", None),
    ]  # fmt: skip
    pooled = result.rows[2]
    assert pooled.gained.value == pytest.approx(0.25) and 0.15 < pooled.gained.low < 0.25 < pooled.gained.high < 0.35
    assert (pooled.gained.n, pooled.gained.sets) == (200, 100)
    assert pooled.repair.ratio.value == pytest.approx(2.0)
    assert (pooled.rl_damage.value, pooled.rl_damage.n) == (0.0, 100)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["rows"][5]["repair_ratio"]["value"] is None
    assert [(s.model, s.seed, s.accuracy[1].value) for s in result.standings] == [
        ("RL", 0, 1.0), ("RL", 1, 1.0), ("RL", None, 1.0), ("SFT checkpoint", None, 0.75),
        ("SFT continued", 0, 0.5), ("SFT continued", 1, 0.5), ("SFT continued", None, 0.5),
    ]  # fmt: skip


def test_the_controls_of_rl_stand_beside_its_repair(table):
    rl = [table([[0, 1], [0, 1], [0, 0], [1, 1]] * 10, seed=seed) for seed in (0, 1)]
    redraw = [table([[0, 0], [0, 1], [0, 0], [1, 0]] * 10, seed=seed, arm=REDRAW) for seed in (1, 0)]
    rows = compare.compare(rl, {}, {REDRAW: redraw}).repairs
    assert [(row.against, row.seed) for row in rows] == [(REDRAW, 0), (REDRAW, 1), (REDRAW, None)]
    assert rows[2].gained.value == pytest.approx(1 / 3) and rows[2].ratio.value == pytest.approx(2.0)


def test_another_rl_is_paired_by_seed_whatever_the_order_it_is_given_in(table):
    """Seed 1 is better in both arms: paired by seed no seed gains, paired by order one gains and one loses."""
    good, bad = [[1, 1], [0, 1]] * 20, [[1, 1], [0, 0]] * 20
    rl = [table(bad, seed=0), table(good, seed=1)]
    rows = compare.compare(rl, {"the other": [table(good, seed=1), table(bad, seed=0)]}).rows
    assert [row.gained.value for row in rows] == [0.0, 0.0, 0.0]
    assert (rows[2].across_seeds.low, rows[2].across_seeds.high) == (0.0, 0.0)


def test_seeds_of_a_baseline_that_rl_has_not_are_refused(table):
    rl = [table([[0, 1]], seed=seed) for seed in (0, 1)]
    for given in ([rl[0], rl[0]], [rl[0], table([[0, 1]], seed=2)]):
        with pytest.raises(ValueError, match=r"'SFT continued' has tables of seeds .*, RL has \[0, 1\]"):
            compare.compare(rl, {"SFT continued": given})


def test_a_baseline_of_single_images_refines_nothing(table):
    result = compare.compare([table([[0, 1], [1, 1]])], {"one image": table([[0], [1]])})
    assert result.rows[0].repair is None and result.repairs == []
    assert (result.standings[1].repair, result.standings[1].damage) == (None, None)


def test_an_evaluation_writes_its_summary_with_controls_beside_it(table, tmp_path):
    arms = {
        REAL: table([[0, 1], [0, 1], [1, 1]]),
        REDRAW: table([[0, 0], [0, 1], [1, 0]], arm=REDRAW),
        SHUFFLED: table([[0, 0], [0, 0], [1, 1]], arm=SHUFFLED),
    }
    path = Evaluation("sft", arms, step=10).save(tmp_path / "evaluation")
    content = json.loads(path.read_text())
    assert content["differences"][REDRAW]["repair"][1]["value"] == 0.5
    assert content["arms"][SHUFFLED]["repair"][1] == {
        "value": 0.0,
        "n": 2,
        "low": 0.0,
        "high": pytest.approx(0.9878, abs=1e-4),
        "sets": 2,
    }
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "sft.json", "sft.real.parquet", "sft.redraw.parquet", "sft.shuffled.parquet",
    ]  # fmt: skip
