import json
import re
import shutil

import pytest

from irg_rl.report.build import build_report
from irg_rl.report.samples import INDEX
from tests.report.page import Page

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} \" onload='x' &amp; $x_1$"


def page_of(folder) -> Page:
    return Page(build_report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(finished_run) -> Page:
    return page_of(finished_run)


@pytest.fixture
def changed(run_copy):
    """A copy to change; without curves, which take most of the time."""
    (run_copy / "metrics.jsonl").write_text("")
    return run_copy


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_finished_run_shows_every_part_and_leaves_nothing_open(page):
    parts = ["gate", "refinement", "baselines", "samples", "health", "training", "checks", "failures", "run"]
    assert page.sections == parts
    assert page.unclosed == []
    assert "Left out" not in page.text and "Could not be read" not in page.text
    assert [link["href"] for link in page.all("a")] == [f"#{part}" for part in parts]


def test_the_report_says_whether_rl_is_learning_and_by_which_figures(page):
    assert "RL is learning: the drawn reward rises." in page.text
    assert "70% of the groups have a spread in reward beyond the judge's noise" in page.text


def test_every_figure_says_on_how_many_rows_and_sets_it_rests(page):
    assert "12 of 12 sets" in page.text and "24 of 12 sets" in page.text  # one seed, and two of them pooled


def test_the_comparison_shows_both_intervals_and_the_controls(page):
    for words in ("points, these seeds", "points, another seed", "pooled over seeds", "Each model by itself", "Repair"):
        assert words in page.text


def test_the_page_needs_nothing_from_outside(page, finished_run):
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "data", "srcset"):
            assert attributes.get(name, "#").startswith(("data:image/", "#"))
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "form"}
    assert "default-src 'none'" in [m["content"] for m in page.all("meta") if "http-equiv" in m][0]
    html = (finished_run / "report.html").read_text()
    assert "@import" not in html and "url(" not in html


def test_the_header_says_where_the_numbers_come_from(page):
    for fact in ("8c1f77d2a9e0", "0123456789ab", "2.15.0", "Shapes world, three learning acts."):
        assert fact in page.text


def test_stages_stand_beside_their_budget_and_an_overrun_is_marked(page):
    bars = [a["class"] for a in page.all("span") if a.get("class", "").startswith("bar")]
    assert bars == ["bar", "bar", "bar", "bar over", "bar over", "bar"]  # 10.3 of 10 and 9.3 of 8 minutes


def test_every_arm_and_every_interval_of_the_evaluation_is_in_the_table(page, finished_run):
    text = page.text
    summary = json.loads((finished_run / "evaluation" / "rl.json").read_text())
    for arm in ("real", "redraw", "shuffled"):
        measure = summary["arms"][arm]["repair"][3]
        assert f"{100 * measure['low']:.1f}–{100 * measure['high']:.1f} · {measure['n']}" in text
    for task in summary["arms"]["real"]["tasks"]:
        assert task in text


def test_a_case_of_parity_shows_the_place_nearest_to_its_limit_and_fails_beyond_it(page):
    told = "".join(page.text.split("Parity of rl")[1].split())  # cells without what is between them
    assert "full316whole2.1e-060.00018.4e-060.0002holds" in told
    assert "lora316whole0.00030.0001–fails" in told


def test_the_gate_verdict_is_the_one_of_the_evaluation(changed):
    path = changed / "evaluation" / "sft2.json"
    for passed, rows, words in ((True, 90, "passed"), (False, 90, "not passed"), (True, 5, "not judged")):

        def change(content, passed=passed, rows=rows):
            for line in content["gate"]["lines"]:
                line.update(passed=passed, n=rows, sets=rows)

        change_json(path, change)
        page = page_of(changed)
        assert f"sft2: {words} " in page.text and ("n=5" in page.text) == (rows == 5)


@pytest.mark.parametrize(("failing", "rows", "head", "style"), [
    ((), 90, "Refinement is real.", "good"),
    (("first image right",), 90, "First images are too seldom right.", "bad"),  # this says nothing about refinement
    (("first image right", "damage"), 90, "Refinement is not shown.", "bad"),
    ((), 5, "Too few cases to judge refinement.", None),
])  # fmt: skip
def test_the_first_words_of_a_report_say_what_the_gate_says(changed, failing, rows, head, style):
    gate = json.loads((changed / "evaluation" / "sft2.json").read_text())["gate"]
    for line in gate["lines"]:
        line.update(passed=line["name"] not in failing, n=rows, sets=rows)
    change_json(changed / "evaluation" / "rl.json", lambda content: content.update(gate=gate))
    page = page_of(changed)
    assert ("p", {"class": " ".join(filter(None, ("head", style)))}) in page.elements and head in page.text


def test_the_claim_comes_before_everything_else_with_its_numbers_and_its_figure(page, finished_run):
    head = page.text.split("The gate: is refinement real?")[0]
    real = json.loads((finished_run / "evaluation" / "rl.json").read_text())["arms"]["real"]["accuracy"]
    assert f"{100 * real[-1]['value']:.1f}" in head and "are right after 4 turns" in head
    assert "above a blind redraw" in head and "the SFT checkpoint" in head
    assert "Accuracy by turn beside both controls" in head


def test_rl_begins_with_its_health_in_words(page):
    told = page.text.split("Health of RL")[2]
    assert "Groups with a spread in reward" in told and "at least 40 %" in told
    assert "RL is learning" in told.split("Training")[0]


def test_a_gate_that_was_switched_off_is_said_aloud(changed):
    recipe = changed / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "gate:\n  mode: 'off'\n")
    assert "The gate was switched off" in page_of(changed).text


def test_a_sample_shows_think_image_reflection_image_with_scores_and_verdicts(page, finished_run):
    entries = json.loads((finished_run / "samples" / "rl" / INDEX).read_text())
    entry = next(e for e in entries if len(e["turns"]) > 1)
    for turn in entry["turns"]:
        assert turn["text"] in page.text
        for name, value in turn["rewards"].items():
            assert f"{name} {'failed' if value is None else f'{value:.2f}'}" in page.text
    shown = [a["class"] for a in page.all("img") if a.get("class") in ("right", "wrong")]
    samples = [json.loads(path.read_text()) for path in sorted((finished_run / "samples").glob(f"*/{INDEX}"))]
    drawn = [t["correct"] for group in samples for e in group for t in e["turns"] if t["image"]]
    assert shown.count("right") == sum(drawn) and shown.count("wrong") == len(drawn) - sum(drawn)
    names = [name for name in re.findall(r"^(sft2|rl)(?=stayed|repaired|damaged|right|wrong)", page.text, re.M)]
    assert names[:2] == ["sft2", "rl"] and len(names) == 24


def test_nothing_that_comes_from_outside_becomes_markup(page, run_copy):
    def poison_samples(entries):
        for entry in entries:
            entry.update(prompt=HOSTILE, task=HOSTILE)
            for turn in entry["turns"]:
                turn["text"] = HOSTILE
                turn["rewards"] = {HOSTILE: 0.5}

    def poison_evaluation(content):
        content["name"] = HOSTILE
        content["settings"] = {HOSTILE: HOSTILE}
        content["arms"]["real"]["rewards"] = {HOSTILE: content["arms"]["real"]["rewards"]["hps"]}
        content["arms"]["real"]["tasks"] = {HOSTILE: next(iter(content["arms"]["real"]["tasks"].values()))}

    change_json(run_copy / "samples" / "rl" / INDEX, poison_samples)
    change_json(run_copy / "evaluation" / "sft2.json", poison_evaluation)
    change_json(run_copy / "evaluation" / "scorers.json", lambda c: c["rows"][0].update(scorer=HOSTILE, note=HOSTILE))
    change_json(run_copy / "evaluation" / "comparison.json", lambda c: c["rows"][0].update(baseline=HOSTILE))
    change_json(run_copy / "environment.json", lambda c: c.update(commit=HOSTILE, versions={HOSTILE: HOSTILE}))
    change_json(run_copy / "stages.json", lambda c: c.update({HOSTILE: {"seconds": 1, "done": True}}))
    (run_copy / "rejected.jsonl").write_text(json.dumps({HOSTILE: HOSTILE, "reason": HOSTILE}) + "\n")
    with (run_copy / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"stage": HOSTILE, "step": 1, HOSTILE: 1.0}) + "\n")
        file.write(json.dumps({"stage": "rl", "step": 90, f"reward/{HOSTILE}/turn0": 1.0}) + "\n")
    (run_copy / "recipe.yaml").write_text(json.dumps({"name": HOSTILE, "description": HOSTILE}))

    poisoned = page_of(run_copy)
    assert poisoned.unclosed == []
    assert {tag for tag, _ in poisoned.elements} <= {tag for tag, _ in page.elements} | {"p"}
    assert not [name for _, attributes in poisoned.elements for name in attributes if name.startswith("on")]
    assert poisoned.text.count(HOSTILE) > 20 and "49" not in poisoned.text.split("irg-rl report")[0]


def test_secrets_of_recipe_and_failures_stay_out(changed, monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", "correct-horse-battery")
    recipe = {"name": "demo", "judge": {"base_url": "http://me:hunter22@judge.example/v1", "api_key": "abc123xyz"}}
    (changed / "recipe.yaml").write_text(json.dumps(recipe))
    reason = {"step": 1, "reason": "401 from judge with Authorization: Bearer correct-horse-battery"}
    (changed / "dropped.jsonl").write_text(json.dumps(reason) + "\n")
    html = build_report(changed).read_text()
    for secret in ("hunter22", "abc123xyz", "correct-horse-battery"):
        assert secret not in html
    assert "judge.example" in html and "401 from judge" in html


@pytest.mark.parametrize(
    ("missing", "words", "section"),
    [
        ("evaluation", "evaluation (no checkpoint has been evaluated yet)", "refinement"),
        ("samples", "picture strips (no samples have been drawn yet)", "samples"),
        ("metrics.jsonl", "training curves (no training stage has logged a step yet)", "training"),
        ("evaluation/comparison.json", "RL against baselines (the comparison has not run)", "baselines"),
    ],
)
def test_a_missing_part_is_left_out_with_a_line_that_says_why(changed, missing, words, section):
    target = changed / missing
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    page = page_of(changed)
    assert words in page.text and section not in page.sections and page.unclosed == []


def test_a_run_that_has_just_begun_has_a_report(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: young\n")
    page = page_of(tmp_path)
    assert page.sections == ["run"] and "young" in page.text


def test_a_broken_part_is_named_and_the_rest_is_shown(changed):
    (changed / "evaluation" / "sft2.json").write_text('{"kind": "evaluation"')
    (changed / "samples" / "rl" / "000-turn0.png").write_bytes(b"not a picture")
    page = page_of(changed)
    assert "Could not be read" in page.text
    assert "sft2.json is not JSON" in page.text and "000-turn0.png cannot be read as a PNG" in page.text
    assert "baselines" in page.sections and "refinement" in page.sections


def test_an_evaluation_of_another_form_is_a_problem_and_not_a_crash(changed):
    (changed / "evaluation" / "sft2.json").write_text(json.dumps({"kind": "evaluation", "name": "sft2"}))
    (changed / "stages.json").write_text("[]")
    page = page_of(changed)
    assert "sft2.json lacks arms, differences, gate, settings" in page.text
    assert "stages.json holds a list" in page.text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a run folder"):
        build_report(tmp_path)


def test_the_same_folder_gives_the_same_figures(changed):
    first, second = ([a["src"] for a in page_of(changed).all("img")] for _ in range(2))
    assert first == second
