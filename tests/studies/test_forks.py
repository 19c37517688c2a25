"""Studies that train: what a cell changes, and what is read from the forks."""

from pathlib import Path

import numpy as np
import pytest

from irg_rl.config import RecipeError, changed_recipe, load_recipe
from irg_rl.errors import InputError
from irg_rl.studies.forks import BLOCKS, Trained, by_turn, gained, reward_plate, rights
from irg_rl.studies.modality import ModalityStudy
from irg_rl.studies.modes import ALL, FULL_ONLY, Modes, mode_of, modes_of
from irg_rl.studies.schemes import Schemes
from irg_rl.studies.settings import ForkSettings, ModesSettings, SchemesSettings
from tests.evaluate.tables import build
from tests.studies.frames import frame_of, measured

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BEFORE = [[1, 0], [0, 0], [0, 1], [0, 0]]


def with_recipe(bench, recipe):
    (subject,) = bench.subjects
    return type(bench)(**vars(bench) | {"subjects": [type(subject)(**vars(subject) | {"recipe": recipe})]})


def test_every_modality_and_seed_is_a_fork_of_its_own(bench):
    plans = ModalityStudy(bench, ForkSettings(seeds=[0, 3])).plans()
    assert len(plans) == 10 and not any(plan.anew for plan in plans.values())
    assert plans["text only", 3].changes == {
        "rl.context_grad": "full", "rl.image_weight": 0.0, "rl.kl_image": 0.0, "rl.seed": 3,
    }  # fmt: skip
    assert plans["joint, context detached", 0].changes["rl.context_grad"] == "detached"


def test_seeds_are_pooled_and_gains_paired_with_what_each_fork_began_with(bench, tmp_path):
    """`joint` mends two of four at the last turn, `image only` none; seeds agree."""
    names = []

    def train(name, plan):
        names.append(name)
        better = [[1, 1], [0, 1], [0, 1], [0, 0]] if not set(plan.changes) & {"rl.text_weight"} else BEFORE
        return Trained(build(BEFORE), build(better))

    frame = measured(ModalityStudy(bench, ForkSettings(seeds=[0, 1]), train), tmp_path)
    assert len(set(names)) == 10 and all("/" not in name and " " not in name for name in names)
    gains = gained(frame, None)
    joint = gains["joint"]
    assert (joint.value, gains["image only"].value) == (0.5, 0) and (joint.n, joint.sets) == (8, 4)
    assert [(m.value, m.n) for m in by_turn(frame)["joint"]] == [(0.25, 8), (0.75, 8)]
    findings = ModalityStudy(bench, ForkSettings(seeds=[0, 1])).findings(frame)
    assert "joint +0.500" in findings.headline and "seeds of RL 0, 1" in findings.plates[0].svg.decode()


def test_another_recipe_is_another_fork(bench):
    other = bench.subjects[0].recipe.model_copy(update={"seed": 5})
    one, two = (ModalityStudy(b, ForkSettings()) for b in (bench, with_recipe(bench, other)))
    digests = [[cell.digest("modality") for cell in study.cells()] for study in (one, two)]
    assert not set(digests[0]) & set(digests[1])


def test_modes_are_left_out_of_both_stages_wherever_their_rows_lie(bench):
    recipe = load_recipe(CONFIGS / "shapes.yaml")
    study = Modes(with_recipe(bench, recipe), ModesSettings())
    plans = {arm: plan for (arm, _), plan in study.plans().items()}
    assert len(modes_of(recipe)) == 6 and len(plans) == 8 and all(plan.anew for plan in plans.values())
    assert plans[ALL].changes["rl"] is None

    def folders(arm: str) -> set[str]:
        sources = [s for key, value in plans[arm].changes.items() if key.endswith("sources") for s in value]
        return {source["folder"] for source in sources}

    everything = folders(ALL)
    assert everything - folders("without improving_full") == {"improving_full_learning", "own/improving_full_learning"}
    assert {mode_of(folder) for folder in folders(FULL_ONLY)} == {
        None, "initial_full_learning", "improving_full_learning"
    }  # fmt: skip
    assert [arm for arm, _ in Modes(study.bench, ModesSettings(without=[])).plans()] == [ALL, FULL_ONLY]
    base = {folder for folder in everything if mode_of(folder) is None}
    assert base and all(base <= folders(arm) for arm in plans)


def test_modes_are_held_against_all_of_them(bench, tmp_path):
    recipe = load_recipe(CONFIGS / "shapes.yaml")

    def train(name, plan):
        whole = "all-modes" in name
        return Trained(None, build([[1, int(whole)], [0, int(whole)], [0, 1], [0, 0]]))

    study = Modes(with_recipe(bench, recipe), ModesSettings(without=["improving_full_learning"]), train)
    frame = measured(study, tmp_path)
    assert frame.values("arm") == [ALL, FULL_ONLY, "without improving_full"]
    assert gained(frame, ALL)[FULL_ONLY].value == pytest.approx(-0.5) and gained(frame, ALL)[ALL].value == 0
    assert np.isin(frame["when"], ["after"]).all()
    assert "without improving_full -0.500" in study.findings(frame).headline


def test_one_run_is_forked_and_a_mode_that_is_not_there_is_named(bench):
    with pytest.raises(InputError, match="forks one run: name one, not 2"):
        ModalityStudy(type(bench)(**vars(bench) | {"subjects": list(bench.subjects) * 2}), ForkSettings())
    recipe = load_recipe(CONFIGS / "shapes.yaml")
    with pytest.raises(InputError, match="unknown arm 'text'; did you mean text only"):
        ModalityStudy(bench, ForkSettings(arms=["text"])).plans()
    with pytest.raises(InputError, match="no stage draws from mode 'improving'"):
        Modes(with_recipe(bench, recipe), ModesSettings(without=["improving"])).plans()


def test_a_scheme_of_one_seed_says_so_and_curves_are_means_over_stretches_of_updates(bench, tmp_path):
    """`turn` mends two of four at the last turn, `umm` none, with seed 4 alone."""
    settings = SchemesSettings(schemes=["trajectory", "turn", "umm"], alone=["umm"], seeds=[4, 5])
    made = []

    def train(name, plan):
        made.append((plan.changes["rl.credit"], plan.changes["rl.seed"]))
        after = [[1, 1], [0, 1], [0, 1], [0, 0]] if plan.changes["rl.credit"] == "turn" else BEFORE
        low = plan.changes["rl.seed"] / 10
        during = [{"update": n, "first": low, "last": low + (n > BLOCKS)} for n in range(1, 2 * BLOCKS + 1)]
        return Trained(build(BEFORE), build(after), during)

    study = Schemes(bench, settings, train)
    frame = measured(study, tmp_path)
    assert made == [("trajectory", 4), ("trajectory", 5), ("turn", 4), ("turn", 5), ("umm", 4)]
    findings = study.findings(frame)
    assert [plate.name for plate in findings.plates] == ["rewards", "turns", "gain", "against"]
    assert "turn +0.500" in findings.headline and "umm (seed 4 alone) +0.000" in findings.headline
    assert "updates 1 to 12 | seeds of RL 4, 5" in findings.plates[0].svg.decode()
    assert all("n = 4 prompts" in plate.svg.decode() for plate in findings.plates[1:])
    assert "umm (seed 4 alone)" in findings.plates[0].svg.decode()
    assert [row[0] for row in findings.tables[0].rows] == ["trajectory", "turn", "umm (seed 4 alone)"]


def test_points_of_a_reward_curve_pool_seeds(bench, tmp_path, monkeypatch):
    drawn, told = {}, []

    def lines_plate(*given, **labels):
        told.append(given[3])
        drawn.update(given[4])

    monkeypatch.setattr("irg_rl.studies.forks.lines_plate", lines_plate)
    rows = [
        {"when": "during", "arm": "a", "seed": seed, "update": n, "first": 1.0, "last": seed + (n > 2)}
        for seed in (0, 1) for n in (1, 2, 3, 4, 5)
    ]  # fmt: skip
    reward_plate("rewards", "", frame_of(rows, tmp_path), "commit x")
    assert list(drawn) == ["first image, seeds 0, 1", "last image, seeds 0, 1"]
    assert told == ["updates 1 to 5 | seeds of RL 0, 1 | commit x"]
    (line,) = drawn["last image, seeds 0, 1"]  # two updates a point at least, or there is no interval
    assert line.x == [2, 4.5] and [m.n for m in line.y] == [6, 4]
    assert [m.value for m in line.y] == pytest.approx([0.5 + 1 / 3, 1.5])
    drawn.clear()
    more = rows + [row | {"arm": "b", "last": 9.0} for row in rows if row["seed"] == 1]
    reward_plate("rewards", "", frame_of(more, tmp_path), "")
    assert list(drawn) == [f"{image} image, seed{seeds}" for seeds in ("s 0, 1", " 1") for image in ("first", "last")]
    assert [line.label for line in drawn["last image, seeds 0, 1"]] == ["a"]
    one, other = drawn["last image, seed 1"]  # on the prompts that both were trained on
    assert [m.value for m in one.y] == pytest.approx([1 + 1 / 3, 2]) and [m.value for m in other.y] == [9, 9]
    assert reward_plate("rewards", "", frame_of([{"when": "after", "arm": "a"}], tmp_path), "") is None


def test_an_arm_of_one_seed_is_held_against_the_same_seed_of_the_reference(bench, tmp_path):
    """The reference mends all with seed 5 and nothing with seed 4; `umm`, with seed 4 alone, nothing."""

    def train(name, plan):
        return Trained(build(BEFORE), build([[1, 1]] * 4 if plan.changes["rl.seed"] == 5 else BEFORE))

    settings = SchemesSettings(schemes=["trajectory", "umm"], alone=["umm"], seeds=[4, 5])
    frame = measured(Schemes(bench, settings, train), tmp_path)
    assert gained(frame, "trajectory")["umm"].value == 0
    assert [len(rights(frame.where(when="after", arm=arm))[0]) for arm in ("trajectory", "umm")] == [8, 4]


@pytest.mark.parametrize(("settings", "changes", "words"), [
    ({"schemes": ["turn"], "alone": ["umm"]}, {}, "study.alone: 'umm' is not among study.schemes"),
    ({"alone": ["trajectory"]}, {}, "trajectory is what the others are compared with"),
    ({"schemes": ["trajectory", "umm"]}, {"sampling.turns": 1}, "umm trains turns from number 2 on"),
    ({}, {"rl.algorithm": "dpo", "rl.credit": None, "rl.forks": {1: 2}}, "dpo takes no credit"),
])  # fmt: skip
def test_what_a_comparison_of_schemes_cannot_be_is_said_before_anything_is_trained(bench, settings, changes, words):
    recipe = changed_recipe(load_recipe(CONFIGS / "shapes.yaml"), changes, "shapes")
    with pytest.raises((InputError, RecipeError), match=words):
        Schemes(with_recipe(bench, recipe), SchemesSettings(**settings)).plans()
