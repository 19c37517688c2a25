"""`irg-rl eval` on a tiny run: more prompts, more samples, scores."""

import io
import json

import pytest
import torch
from PIL import Image

from irg_rl.config import changed_recipe
from irg_rl.driver.evaluator import Evaluator
from irg_rl.driver.prepare import load_model, prompts_file, prompts_of
from irg_rl.driver.run_folder import Run
from irg_rl.driver.scorers import reward_hub
from irg_rl.evaluate.image_statistics import STATISTICS
from irg_rl.evaluate.outcomes import load
from irg_rl.presets import PRESETS
from irg_rl.prompts import write_prompts
from irg_rl.report.kept import kept_path, load_kept
from irg_rl.shapes_world.prompts import make_prompts
from tests.driver.finished import TEST_PROMPTS
from tests.rewards.servers import completion, endpoint


def apart(one: torch.Tensor, other: torch.Tensor) -> int:
    """Largest difference of two pictures, 0 to 255."""
    return int((one.int() - other.int()).abs().max())


def evaluated(run: Run, irg_rl, *words: object, name: str = "eval-rl-seed5"):
    out = run.folder / "asked"
    answer = irg_rl("eval", run.folder, "--seed", 5, "--out", out, *words)
    assert answer.code == 0, answer.err
    return load(out / f"{name}.real.parquet"), json.loads((out / f"{name}.json").read_text())


def test_eval_takes_all_held_out_prompts_and_several_samples_of_each(run, irg_rl):
    asked = ("--prompts", TEST_PROMPTS, "--samples", 2)
    table, summary = evaluated(run, irg_rl, *asked, name=f"eval-rl-seed5-prompts{TEST_PROMPTS}-samples2")
    assert (len(table), len(set(table.prompt_ids))) == (2 * TEST_PROMPTS, TEST_PROMPTS)
    assert summary["settings"]["samples"] == 2 and summary["arms"]["shuffled"]["n"] == 2 * TEST_PROMPTS


def test_the_first_sample_of_a_prompt_is_the_only_one_there_would_be(run):
    prompts, model = prompts_of(run, "test")[:2], load_model(run, "rl")
    one, two = (Evaluator(run, run.recipe.evaluation, samples=n).evaluate(model, "rl", prompts) for n in (1, 2))
    alone, first, second = (
        [t.images[-1].pixels for t in ts] for ts in (one.trajectories, two.trajectories[::2], two.trajectories[1::2])
    )
    assert [apart(a, b) for a, b in zip(alone, first, strict=True)] == pytest.approx([0, 0], abs=1)  # batches round
    assert all(apart(a, b) > 10 for a, b in zip(first, second, strict=True))


def test_eval_scores_only_when_asked_to(run, irg_rl):
    assert evaluated(run, irg_rl)[0].rewards == {}
    assert set(evaluated(run, irg_rl, "--scorers")[0].rewards) == {"verifier"}


def test_eval_without_controls_draws_the_real_thing_alone_and_checks_no_gate(run, irg_rl):
    plain = evaluated(run, irg_rl)[0]
    table, summary = evaluated(run, irg_rl, "--no-controls", name="eval-rl-seed5-nocontrols")
    assert list(summary["arms"]) == ["real"] and summary["gate"] is None
    assert (table.correct == plain.correct).all()


def test_eval_by_a_preset_says_so_and_leaves_the_runs_own_evaluation(run, irg_rl):
    plain = evaluated(run, irg_rl)[1]["settings"]
    assert irg_rl("eval", run.folder, "--seed", 5, "--out", run.folder / "asked", "--preset", "bagel-t2i").code == 0
    asked = json.loads((run.folder / "asked" / "eval-rl-seed5-bagel-t2i.json").read_text())["settings"]
    assert (asked["preset"], asked["points"], asked["shift"]) == ("bagel-t2i", 50, 3.0)
    assert asked["guidance"] == PRESETS["bagel-t2i"]["guidance"]
    assert (plain["preset"], plain["points"]) == (None, run.recipe.sampling.points)
    assert evaluated(run, irg_rl)[1]["settings"] == plain


def test_eval_by_an_unknown_preset_is_one_line(run, irg_rl):
    answer = irg_rl("eval", run.folder, "--preset", "bagel")
    assert answer.code == 1 and "evaluation.preset: unknown preset 'bagel'; did you mean bagel-t2i?" in answer.err


def test_eval_by_a_judge_that_the_recipe_does_not_have_is_one_line(run, irg_rl):
    answer = irg_rl("eval", run.folder, "--preference", "judge")
    assert answer.code == 1 and "no judge 'judge' in rewards.scorers; there is none" in answer.err


def test_a_judge_is_asked_about_refined_images_in_both_orders_where_the_recipe_names_one(run):
    def first(number, body):
        return 200, completion("1" if "1 or 2" in str(body["messages"]) else "yes"), 0.0

    prompts, model = prompts_of(run, "test")[:2], load_model(run, "rl")
    with endpoint(first) as (url, requests):
        judged = {"rewards.scorers": [{"name": "j", "kind": "judge", "base_url": url}], "evaluation.preference": "j"}
        run.recipe = changed_recipe(run.recipe, judged, "run")
        with reward_hub(run.recipe, None) as hub:
            found = Evaluator(run, run.recipe.evaluation, hub).evaluate(model, "rl", prompts).evaluation
    real, redraw = found.arms["real"], found.arms["redraw"]
    assert real.asked.tolist() == [[False, True]] * 2 and real.preferred[:, 1].tolist() == [0.5, 0.5]
    assert not redraw.asked.any() and found.settings["preference"] == "j"
    pairs = [body for _, body, _ in requests if "1 or 2" in str(body["messages"])]
    assert len(pairs) == 4  # two prompts in two orders


def test_every_evaluation_has_statistics_of_the_pixels_in_every_arm(run, irg_rl):
    table, summary = evaluated(run, irg_rl)
    for arm in ("real", "redraw", "shuffled"):
        found = summary["arms"][arm]["statistics"]
        assert found.keys() == STATISTICS.keys() and found["sharpness"]["level"][0]["n"] == len(table)
    firsts = [summary["arms"][arm]["statistics"]["sharpness"]["level"][0]["value"] for arm in ("real", "redraw")]
    assert firsts[0] == firsts[1] > 0  # the arms begin with the same images


def test_eval_takes_a_file_of_prompts_that_the_task_can_judge(run, irg_rl, tmp_path):
    mine, name = tmp_path / "mine.jsonl", "eval-rl-seed5-prompts-mine"
    write_prompts(mine, make_prompts(3, "validation", seed=7))
    table, summary = evaluated(run, irg_rl, "--prompts", mine, name=name)
    assert len(table) == 3 and table.known.all() and summary["settings"]["split"] == str(mine)
    mine.write_text('{"prompt": "a red circle", "metadata": {"include": 3}}\n')
    answer = irg_rl("eval", run.folder, "--prompts", mine)
    assert answer.code == 1 and f"{mine}, line 1: the metadata of prompt" in answer.err
    write_prompts(mine, make_prompts(1, "validation", seed=7))
    assert f"{mine}: 1 prompts; at least 2" in irg_rl("eval", run.folder, "--prompts", mine).err
    for words, said in ((("1",), "--prompts 1: at least 2"), ((tmp_path / "no.jsonl",), "no.jsonl")):
        answer = irg_rl("eval", run.folder, "--prompts", *words)
        assert answer.code == 1 and said in answer.err and len(answer.err.splitlines()) == 1


def test_eval_of_more_prompts_than_there_are_is_one_line(run, irg_rl):
    answer = irg_rl("eval", run.folder, "--prompts", TEST_PROMPTS + 1)
    assert answer.code == 1 and "9 prompts of the split test asked for, but there are 8" in answer.err


def test_validation_prompts_are_for_tuning_and_test_prompts_the_default(run, irg_rl, monkeypatch):
    write_prompts(prompts_file(run, "validation"), make_prompts(3, "validation", seed=0))
    monkeypatch.chdir(run.folder / "models" / "rl")
    for words, split, count in (([], "test", 4), (["--split", "validation"], "validation", 3)):
        assert irg_rl("eval", ".", "--seed", 5, *words).code == 0
        name = "eval-rl-seed5" if split == "test" else "eval-rl-seed5-validation"
        settings = json.loads((run.folder / "evaluation" / f"{name}.json").read_text())["settings"]
        asked = load(run.folder / "evaluation" / f"{name}.real.parquet").prompt_ids
        assert settings["split"] == split and settings["prompts"] == len(asked) == count
        assert all(prompt.startswith(split) for prompt in asked)


def test_an_evaluation_keeps_texts_and_images_of_all_arms(run, irg_rl):
    """The stage of the run, and `irg-rl eval` into the run."""
    for name in ("rl", "eval-rl-seed5"):
        if name != "rl":
            assert irg_rl("eval", run.folder, "--seed", 5).code == 0
        table = load(run.folder / "evaluation" / f"{name}.real.parquet")
        kept = load_kept(kept_path(run.folder, name), range(len(table)))
        assert {entry["arm"] for entry in kept} == {"real", "redraw", "shuffled"}
        assert {entry["row"] for entry in kept} == set(range(len(table)))
        for entry in kept:
            if entry["arm"] == "real" and entry["image"]:
                assert entry["prompt_id"] == table.prompt_ids[entry["row"]]
                assert entry["correct"] == table.correct[entry["row"], entry["turn"]]
                assert Image.open(io.BytesIO(entry["image"])).size == run.recipe.sampling.image_size


def test_an_evaluation_keeps_nothing_if_it_may_not(run):
    path, prompts = kept_path(run.folder, "other"), prompts_of(run, "test")[:2]
    measured = Evaluator(run, run.recipe.evaluation).evaluate(load_model(run, "rl"), "other", prompts, controls=False)
    assert measured.keep(path, 1) == 2 and path.is_file()
    assert measured.keep(path, 0) == 0 and not path.exists()
