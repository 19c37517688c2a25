"""Data sets built from end to end, with real HTTP servers that make mistakes: what is written, counted and resumed."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from irg_rl.config.data import BudgetRecipe
from irg_rl.data.survey import mode_folders, origins, survey
from irg_rl.errors import InputError
from irg_rl.learning_modes import IMPROVING, IMPROVING_FULL, INITIAL, MODES
from irg_rl.prompts import write_prompts
from irg_rl.shapes_world import judge_mind
from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.reading import read
from irg_rl.shapes_world.teacher import parse_reflection, think_text
from rewards.judge_server import JudgeServer
from tests.data.material import built, counts, lines, rows, shapes, write_recipe
from tests.data.servers import Erring, said, shapes_server
from tests.sft.material import encoder

COUNT = 40


@pytest.fixture(scope="module")
def judge_url():
    with JudgeServer(judge_mind.answer) as server:
        yield server.base_url


def shapes_recipe(folder: Path, teacher_url: str, judge_url: str, **sections):
    teacher = {"base_url": teacher_url, "headings": []} | sections.pop("teacher", {})
    sections = {"improve": {"by": "editor", "editor": {"base_url": teacher_url, "model": "editor"}}} | sections
    return write_recipe(folder, teacher=teacher, keep={"judge": {"base_url": judge_url}}, **sections)


def files(folder: Path) -> dict[str, bytes]:
    out = folder / "out"
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


@pytest.fixture(scope="module")
def erring_build(tmp_path_factory, judge_url):
    """A build on the shapes world whose teacher errs in a quarter of its answers, and in a fifth in their form."""
    folder, erring = tmp_path_factory.mktemp("erring"), Erring(mistakes=0.25, forms=0.2)
    prompts = shapes(folder, COUNT)
    with shapes_server(erring) as (url, _):
        built(shapes_recipe(folder, url, judge_url))
    return folder, erring, {prompt.text: prompt for prompt in prompts}


# --- what is written


def test_every_row_has_the_form_of_its_mode_and_is_read_by_sft(erring_build, world):
    folder, _, _ = erring_build
    found = {path.name: survey(path) for path in mode_folders(folder / "out")}
    assert set(found) == set(MODES)
    assert all(one.rows and not one.broken and not one.odd for one in found.values())
    encode = encoder(world)
    for mode in MODES:
        assert len(encode.encode(rows(folder, mode)[:2])) == 2


def test_reflections_are_about_the_first_image_and_the_improved_image_is_right(erring_build):
    folder, _, by_text = erring_build
    found = rows(folder, IMPROVING_FULL)
    right = 0
    for prompt, plan, first, reflection, *target in found:
        metadata = by_text[prompt.text].metadata
        assert not plan.loss and sorted(plan.text.split()) == sorted(think_text(metadata).split())
        verdict = judge(read(first.pixels), metadata)
        assert parse_reflection(reflection.text).stop == (not target)
        if target:
            assert not verdict.correct
            right += judge(read(target[0].pixels), metadata).correct
    changes = sum(len(row) == 5 for row in found)
    assert right >= 0.9 * changes > 0


def test_initial_rows_show_good_images_alone(erring_build):
    folder, _, by_text = erring_build
    found = rows(folder, INITIAL[2])
    correct = [judge(read(row[-1].pixels), by_text[row[0].text].metadata).correct for row in found]
    assert len(found) > COUNT / 2 and sum(correct) >= 0.9 * len(correct)


def test_the_columns_say_where_a_row_comes_from(erring_build):
    folder, _, by_text = erring_build
    table = pq.read_table(folder / "out" / IMPROVING_FULL).to_pylist()
    drawn = [row for row in table if row["improved_image"]]
    assert {row["teacher"] for row in table} == {"teacher"}
    assert {row["improved_image"] for row in drawn} == {"editor: editor"}
    assert all(by_text[row["prompt"]].id == row["prompt_id"] for row in table)
    for row in drawn:
        scores = json.loads(row["scores"])
        assert min(scores["prefers"], scores["prefers swapped"], scores["true"]) >= 0.5
    assert any("asked again" in row["repairs"] for row in table)
    found = origins(folder / "out" / IMPROVING_FULL)
    assert found.teachers == {"teacher": len(table)} and 0 < found.repaired < len(table)
    assert found.scores["prefers"] > 0.5


# --- what is counted


def test_measured_rates_are_those_of_the_teacher(erring_build):
    """With a rate e of mistakes and two tries: a share e of the answers is wrong, e^2 of the texts are left out, and
    e (1 - e) are used after asking again. The judge adds a few refusals of its own."""
    folder, erring, _ = erring_build
    texts = counts(folder)["texts"]
    assert sum(found["answers"] for found in texts.values()) == erring.answers
    form_flaws = {flaw: n for found in texts.values() for flaw, n in found["mistakes"].items()}
    assert set(form_flaws) >= {"another language", "repeats the prompt", "refusal", "unfinished"}
    wrong = sum(n for found in texts.values() for flaw, n in found["mistakes"].items() if flaw not in JUDGED)
    assert wrong == erring.wrong
    mended = sum(sum(found["mended_forms"].values()) for found in texts.values())
    assert 0.8 * erring.malformed <= mended <= erring.malformed, "a mended text may still be found untrue"
    for about in ("plan", "thinking"):
        found = texts[about]
        assert found["mistake_rate"] == pytest.approx(0.25, abs=0.15)
        assert found["rejection_rate"] == pytest.approx(0.25**2, abs=0.1)
        assert found["repair_rate"] == pytest.approx(0.2 + 0.25 * 0.75, abs=0.2)


JUDGED = {"untrue", "overlooks a defect"}


def test_every_prompt_that_gave_no_row_is_named(erring_build):
    folder, _, by_text = erring_build
    with_rows = {row[0].text for mode in MODES for row in rows(folder, mode)}
    named = {line["prompt"] for line in lines(folder)}
    assert all(by_text[text].id in named for text in by_text.keys() - with_rows)
    counted = Counter(counts(folder)["left_out"]) + Counter(counts(folder)["waiting"])
    assert Counter(f"{line['what']}: {line['reason']}" for line in lines(folder)) == counted


def test_the_card_has_counts_rates_samples_and_a_header_for_datasets(erring_build):
    folder, _, _ = erring_build
    card = (folder / "out" / "README.md").read_text()
    assert card.startswith("---\nconfigs:\n") and f"  data_files: {IMPROVING_FULL}/*.parquet" in card
    assert f"| {IMPROVING_FULL} | {counts(folder)['rows'][IMPROVING_FULL]} |" in card
    rate = f"{100 * counts(folder)['texts']['plan']['mistake_rate']:.1f} %"
    assert rate in card and "another language" in card
    pictures = [line[4:-1] for line in card.splitlines() if line.startswith("![](")]
    assert pictures and all((folder / "out" / name).is_file() for name in pictures)


def test_stop_rows_are_at_most_their_share(erring_build):
    folder, _, _ = erring_build
    for mode in IMPROVING:
        found = survey(folder / "out" / mode)
        assert 0 < found.stops <= 0.25 * found.rows


# --- resuming


def test_an_interrupted_build_continues_to_the_same_rows(tmp_path, judge_url):
    whole, tmp_path = tmp_path / "whole", tmp_path / "interrupted"
    with shapes_server(erring := Erring(0.25, 0.2)) as (url, _):
        shapes(whole, 16)
        built(shapes_recipe(whole, url, judge_url))
    shapes(tmp_path, 16)
    with shapes_server(again := Erring(0.25, 0.2)) as (url, _):
        recipe = shapes_recipe(tmp_path, url, judge_url)
        for calls in (31, 70):
            part = built(recipe.model_copy(update={"budget": BudgetRecipe(calls=calls)}))
            assert part.spent and part.open_parts and part.calls == calls
            log = tmp_path / "out" / "answers.jsonl"
            log.write_text(log.read_text() + '{"key": "half a li')  # as after kill -9
        done = built(recipe)
    assert not done.spent and done.open_parts == 0
    assert again.answers == erring.answers
    assert columns(tmp_path) == columns(whole)


def columns(folder: Path) -> dict[str, list[str]]:
    """The rows and the repairs of their texts, which do not depend on where the folder is."""
    found = {}
    for path in mode_folders(folder / "out"):
        for file in sorted(path.glob("*.parquet")):
            found[f"{path.name}/{file.name}"] = pq.read_table(file, columns=["conversation", "repairs"]).to_pylist()
    return found


def test_a_finished_build_asks_nothing_and_writes_the_same_files(tmp_path, judge_url):
    shapes(tmp_path, 8)
    with shapes_server(Erring()) as (url, requests):
        recipe = shapes_recipe(tmp_path, url, judge_url)
        built(recipe)
        before, asked = files(tmp_path), len(requests)
        built(recipe)
        assert files(tmp_path) == before and len(requests) == asked
        next((tmp_path / "out" / INITIAL[0]).glob("*.parquet")).unlink()
        built(recipe)
    assert files(tmp_path) == before and len(requests) == asked


def test_a_budget_of_calls_is_never_exceeded(tmp_path, judge_url):
    shapes(tmp_path, 8)
    with shapes_server(Erring()) as (url, _):
        done = built(shapes_recipe(tmp_path, url, judge_url, budget={"calls": 17}))
    log = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    assert (len(log), done.calls) == (17, 17)
    assert "budget.calls=17 is spent" in done.spent
    assert any(line["reason"] == "budget is spent" for line in lines(tmp_path))


def test_other_settings_need_another_folder(tmp_path, judge_url):
    shapes(tmp_path, 4)
    with shapes_server(Erring()) as (url, _):
        built(shapes_recipe(tmp_path, url, judge_url))
        with pytest.raises(InputError, match=r"another recipe\.keep\.true_at_least \(0\.5, now 0\.7\)"):
            built(shapes_recipe(tmp_path, url, judge_url).model_copy(update={
                "keep": shapes_recipe(tmp_path, url, judge_url).keep.model_copy(update={"true_at_least": 0.7})
            }))  # fmt: skip
        write_prompts(tmp_path / "prompts.jsonl", shapes(tmp_path, 3))
        with pytest.raises(InputError, match="another prompts_sha256"):
            built(shapes_recipe(tmp_path, url, judge_url))


def test_a_teacher_that_never_answers_ends_the_build_with_its_words(tmp_path, judge_url):
    shapes(tmp_path, 40)
    with (
        shapes_server(Erring(), before=lambda number: (500, "out of memory", 0)) as (url, _),
        pytest.raises(InputError, match=r"questions to the teacher failed, the last one: .*out of memory"),
    ):
        built(shapes_recipe(tmp_path, url, judge_url))
    assert (tmp_path / "out" / "answers.jsonl").is_file()


def test_an_image_of_the_editor_that_cannot_be_used_is_a_failed_question(tmp_path, judge_url):
    shapes(tmp_path, 6, right=7)
    with shapes_server(Erring()) as (url, _):
        teacher = url
        with shapes_server(Erring(), before=lambda number: (200, said("Here is your image!"), 0)) as (editor, _):
            recipe = shapes_recipe(tmp_path, teacher, judge_url, improve={
                "by": "editor", "editor": {"base_url": editor, "model": "editor", "retries": 0},
            })  # fmt: skip
            built(recipe)
    reasons = {(line["what"], line["reason"]) for line in lines(tmp_path)}
    assert ("improved image", "no answer of the editor") in reasons
    assert counts(tmp_path)["rows"][IMPROVING_FULL] == 0 < counts(tmp_path)["rows"][IMPROVING[1]]
