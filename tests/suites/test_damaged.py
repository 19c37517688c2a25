"""Result files that are cut off or have another form: what is lost is named, and no score is made up."""

import json
from pathlib import Path

import pytest
import torch

from irg_rl.suites import NAMES
from irg_rl.suites.base import Suite
from irg_rl.suites.catalog import suite_of
from irg_rl.suites.scores import Key, Results
from irg_rl.suites.table import Table
from irg_rl.trajectory import Prompt
from tests.suites import result_files
from tests.suites.official import write_official


@pytest.fixture
def scored(tmp_path):
    """scored("geneval") -> the suite, its prompts, and a tree in which the official evaluator has scored all images."""

    def make(name: str) -> tuple[Suite, list[Prompt], Path]:
        suite, tree = suite_of(name), tmp_path / "tree"
        for path, content in result_files.of_suite(name).items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
        return suite, suite.read_prompts(write_official(name, tmp_path / "official")), tree

    return make


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_result_file_has_every_score_and_no_problem(scored, name):
    suite, prompts, tree = scored(name)
    results = suite.read_results(tree, prompts)
    assert results.problems == [] and set(results.scores) == set(suite.expected(prompts))


def ends(content: bytes) -> set[int]:
    """Where a file is cut off: at up to 150 places, and within every character of several bytes."""
    step = -(-len(content) // 150)
    return {*range(0, len(content), step), *(n for n, byte in enumerate(content) if 0x80 <= byte < 0xC0)}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_off_at_any_byte_is_named_and_gives_no_score_that_the_whole_file_has_not(scored, name):
    suite, prompts, tree = scored(name)
    whole, lost = suite.read_results(tree, prompts).scores, 0
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for end in sorted(ends(content)):
            path.write_bytes(content[:end])
            results = suite.read_results(tree, prompts)
            assert results.scores.items() <= whole.items(), content[:end]
            if results.scores != whole:
                lost += 1
                between_lines = end == 0 or b"\n" in content[end - 1 : end + 1]
                assert between_lines or any(str(path) in problem for problem in results.problems), content[:end]
        path.write_bytes(content)
    assert lost > 20


@pytest.mark.parametrize("name", NAMES)
def test_what_was_cut_off_is_counted_as_missing(scored, name):
    suite, prompts, tree = scored(name)
    path = sorted(path for path in tree.rglob("*") if path.is_file())[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    rows = Table(suite, prompts, resamples=10).rows(suite.read_results(tree, prompts))
    assert sum(row.missing for row in rows) > 0


def test_a_score_file_of_torch_that_was_cut_off_in_its_old_format_is_named(scored):
    suite, prompts, tree = scored("genai-bench")
    (path,) = tree.glob("genai_bench_results/*/*.pt")
    content = result_files.saved(torch.zeros(3, 1), _use_new_zipfile_serialization=False)
    for end in ends(content):
        path.write_bytes(content[:end])
        results = suite.read_results(tree, prompts)
        assert results.scores == {} and "cannot be read (cut off?)" in results.problems[0], end


def test_a_score_that_is_no_number_is_missing(scored):
    suite, prompts, tree = scored("genai-bench")
    (path,) = tree.glob("genai_bench_results/*/*.pt")
    path.write_bytes(result_files.saved(torch.tensor([[0.5], [float("nan")], [0.25]])))
    results = suite.read_results(tree, prompts)
    assert set(results.scores) == {Key("00000", 0, "score"), Key("00002", 0, "score")}
    assert "the score of 00001 is no finite number" in results.problems[0]


@pytest.mark.parametrize("content", ["null", "7", '"all"', "[null, [], {}]", '{"101": null}', "\ufeff"])
@pytest.mark.parametrize("name", NAMES)
def test_json_of_another_form_is_named(scored, name, content):
    suite, prompts, tree = scored(name)
    files = sorted(path for path in tree.rglob("*.json*"))
    for path in files:
        path.write_text(content, encoding="utf-8")
        results = suite.read_results(tree, prompts)
        counted = content == "\ufeff" and path.suffix == ".jsonl"  # no lines at all
        assert counted or any(str(path) in problem for problem in results.problems), results.problems


@pytest.mark.parametrize("name", NAMES)
def test_a_result_file_that_cannot_be_read_is_named_and_the_others_are_read(scored, name):
    suite, prompts, tree = scored(name)
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        content = path.read_bytes()
        path.write_bytes(b"\xff\xfe" + content)
        results = suite.read_results(tree, prompts)
        assert any(str(path) in problem for problem in results.problems)
        path.write_bytes(content)


def test_a_line_in_another_encoding_is_named_and_the_others_are_read(scored):
    suite, prompts, tree = scored("geneval")
    path = tree / "results.jsonl"
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first.decode().replace("犬", "é").encode("latin-1") + b"".join(others))
    results = suite.read_results(tree, prompts)
    assert len(results.scores) == 11 and f"{path}, line 1: not UTF-8 text" in results.problems[0]


def cut_csv(tree: Path, text: str) -> Path:
    path = tree / "results" / "alignment_prompt_score_EN_1.csv"
    path.write_text(text)
    return path


def of_alignment(results: Results) -> dict[str, float]:
    return {key.prompt: score.top for key, score in results.scores.items() if key.metric == "alignment"}


def test_a_csv_that_ends_within_a_number_has_not_that_number(scored):
    suite, prompts, tree = scored("oneig-en")
    path = cut_csv(tree, ",mymodel\nanime_000,0.5\nhuman_000,0.")
    results = suite.read_results(tree, prompts)
    assert of_alignment(results) == {"anime/000": 0.5}
    assert results.problems == [f"{path}, line 3: has no line end (cut off?): 'human_000,0.'"]


def test_a_csv_that_ends_within_a_quoted_cell_is_named(scored):
    suite, prompts, tree = scored("oneig-en")
    path = cut_csv(tree, ',mymodel\nanime_000,0.5\nhuman_000,"0.8\n')
    results = suite.read_results(tree, prompts)
    assert of_alignment(results) == {"anime/000": 0.5} and f"{path}, line 3: not CSV" in results.problems[0]


@pytest.mark.parametrize("cell", ["[" * 5000, "(" * 300 + ")" * 300, "[1, 2]", "[nan, 0, 0]", "7"])
def test_a_text_score_that_is_no_list_of_three_numbers_is_missing(scored, cell):
    suite, prompts, tree = scored("oneig-en")
    (tree / "results" / "text_prompt_score_EN_1.csv").write_text(f',mymodel\n000,"{cell}"\n')
    results = suite.read_results(tree, prompts)
    assert not any(key.metric == "ED" for key in results.scores) and "no text score" in results.problems[0]


@pytest.mark.parametrize(("folder", "category"), [
    ("annotation_blip", "color"), ("annotation_clip", "non_spatial"), ("annotation_num", "numeracy"),
    ("annotation_obj_detection_2d", "spatial"),
])  # fmt: skip
def test_the_scores_of_a_folder_with_holes_are_those_of_its_images(tmp_path, folder, category):
    """BLIP and CLIP number the files that are there, 0 to 17. Detectors write the number in the name."""
    (tmp_path / f"{category}_val.txt").write_text("two cups\nthree cups\n")
    suite = suite_of("t2i-compbench++")
    prompts = suite.read_prompts(tmp_path / f"{category}_val.txt")
    there = [image for image in range(20) if image not in (3, 11)]
    (tmp_path / category / "samples").mkdir(parents=True)
    for image in there:
        (tmp_path / category / "samples" / f"{('two', 'three')[image // 10]} cups_{image:06d}.png").touch()
    ranked = folder in ("annotation_blip", "annotation_clip")
    entries = [{"question_id": n if ranked else image, "answer": image / 32} for n, image in enumerate(there)]
    path = tmp_path / category / folder / "vqa_result.json"
    path.parent.mkdir()
    path.write_text(json.dumps(entries))
    results = suite.read_results(tmp_path, prompts)
    assert results.problems == []
    assert {(key.prompt, key.sample): score.top for key, score in results.scores.items()} == {
        (f"{category}/{image // 10}", image % 10): image / 32 for image in there
    }


@pytest.mark.parametrize(("folder", "category", "scores", "images"), [
    ("annotation_blip", "color", 19, 20), ("annotation_clip", "non_spatial", 21, 20),
    ("annotation_3_in_1", "complex", 20, 19),
])  # fmt: skip
def test_ranked_scores_of_another_number_of_images_are_not_guessed_at(tmp_path, folder, category, scores, images):
    """BLIP and CLIP: images were drawn after they were scored. 3-in-1 always writes ten scores per prompt."""
    (tmp_path / f"{category}_val.txt").write_text("two cups\nthree cups\n")
    suite = suite_of("t2i-compbench++")
    prompts = suite.read_prompts(tmp_path / f"{category}_val.txt")
    (tmp_path / category / "samples").mkdir(parents=True)
    for picture in suite.pictures(prompts, "m")[:images]:
        (tmp_path / picture.path).touch()
    path = tmp_path / category / folder / "vqa_result.json"
    path.parent.mkdir()
    path.write_text(json.dumps([{"question_id": n, "answer": 1} for n in range(scores)]))
    results = suite.read_results(tmp_path, prompts)
    assert results.scores == {} and f"{scores} scores, but {images} images in samples/" in results.problems[0]


def test_a_row_of_r3_bench_without_its_score_is_named(scored):
    suite, prompts, tree = scored("r3-bench")
    reflected = tree / "output" / "reflection" / "m" / "reflection_eval.jsonl"
    reflected.write_bytes(result_files.lines([{"idx": 5, "model_reflection": {"answer": False}}, {"idx": 6}]))
    edited = tree / "output" / "edit" / "m" / "edit_eval.jsonl"
    edited.write_bytes(result_files.lines([{"idx": 5, "image_eval": {"error": "x"}}, {"idx": 6, "image_eval": {}}]))
    results = suite.read_results(tree, prompts)
    assert results.scores.keys() == {Key("5", 0, "verdict")}
    told = [problem.partition(": no ")[2].partition(":")[0] for problem in results.problems]
    assert told == ["rect of idx 5", "ref of idx 5", "verdict of idx 6"]
