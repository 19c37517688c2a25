"""Official result files of every suite: read whole, cut off, of other prompts, and written twice."""

import json
from pathlib import Path

import pytest
import torch

from irg_rl.suites import NAMES
from irg_rl.suites.catalog import suite_of
from irg_rl.suites.scores import ItemScore, Key, Results
from tests.suites.official import json_lines, write_official


@pytest.fixture
def read(tmp_path):
    """read("geneval") -> what its result files under tmp_path/tree say."""

    def call(name: str) -> Results:
        suite = suite_of(name)
        return suite.read_results(tmp_path / "tree", suite.read_prompts(write_official(name, tmp_path / "official")))

    (tmp_path / "tree").mkdir()
    return call


@pytest.fixture
def tree(tmp_path) -> Path:
    return tmp_path / "tree"


def one(results: Results) -> dict[str, float]:
    """Prompt id -> score, where there is one metric and one picture."""
    return {key.prompt: score.top / score.bottom for key, score in results.scores.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_tree_without_result_files_has_no_source(read, name):
    assert read(name) == Results()


def geneval_line(index: int, sample: int, correct: object, prompt: str) -> dict:
    name = f"/data/out/{index:05d}/samples/{sample:04d}.png"
    return {"filename": name, "tag": "t", "prompt": prompt, "correct": correct, "reason": "", "metadata": "{}",
            "details": "{}"}  # fmt: skip


def test_geneval(read, tree):
    rows = [geneval_line(0, 0, True, "a photo of a bench"), geneval_line(0, 3, False, "a photo of a bench"),
            geneval_line(1, 0, True, "another prompts file"), geneval_line(9, 0, True, "x"),
            geneval_line(2, 1, None, "a photo of three cows")]  # fmt: skip
    path = json_lines(tree / "results.jsonl", rows)
    path.write_text(path.read_text() + '{"filename": "/data/out/000')
    results = read("geneval")
    assert results.scores == {Key("0", 0, "score"): ItemScore(1.0), Key("0", 3, "score"): ItemScore(0.0)}
    places = [problem.split("results.jsonl, line ")[1][0] for problem in results.problems]
    assert sorted(places) == ["3", "4", "5", "6"]


def wise_line(ident: int, *grades: float) -> dict:
    names = ("consistency", "realism", "aesthetic_quality")
    return {"prompt_id": ident, "Subcategory": "s", **dict(zip(names, grades, strict=True))}


def test_wise_legacy_by_hand(read, tree):
    """(0.7 x 2 + 0.2 x 1 + 0.1 x 0) / 2 = 0.8; 9.9 and 999 say that the judge failed; scripts append."""
    rows = [wise_line(1, 2, 1, 0), wise_line(2, 9.9, 9.9, 9.9), wise_line(401, 999, 999, 999), wise_line(901, 0, 0, 0),
            wise_line(901, 2, 2, 2), wise_line(77, 1, 1, 1)]  # fmt: skip
    json_lines(tree / "Results" / "cultural_common_sense_scores_results.jsonl", rows)
    results = read("wise")
    assert one(results) == pytest.approx({"1": 0.8, "901": 1.0})
    assert len(results.problems) == 3 and any("prompt_id 77" in problem for problem in results.problems)


def test_wise_of_bagels_script(read, tree):
    json_lines(tree / "cultural_common_sense_scores.jsonl", [wise_line(1, 2, 2, 2)])
    assert one(read("wise")) == {"1": 1.0}


def test_wise_verified_is_one_verdict(read, tree):
    rows = [{"prompt_id": 1, "score": 1}, {"prompt_id": 401, "score": 0}, {"prompt_id": 2, "score": 999}]
    json_lines(tree / "Results-qwen35" / "x_scores_results.jsonl", rows)
    results = read("wise-verified")
    assert one(results) == {"1": 1.0, "401": 0.0} and len(results.problems) == 1


def tiif_file(tree: Path, ident: str, wanted: list[str], given: list[str]) -> Path:
    path = tree / "eval_results" / "mymodel" / f"{ident}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"gt_answers": wanted, "model_pred": given, "questions": ["?"] * len(wanted)}))
    return path


def test_tiif_counts_questions(read, tree):
    tiif_file(tree, "color+2d/short/0", ["yes", "no"], ["yes", "yes"])
    tiif_file(tree, "color+2d/long/1", ["Yes", "no"], ["yes", "no"])
    tiif_file(tree, "color+2d/short/1", ["yes", "no"], ["yes"])
    tiif_file(tree, "negation/short/7", ["no"], ["no"])
    cut = tiif_file(tree, "negation/short/0", ["no"], ["no"])
    cut.write_text(cut.read_text()[:-9])
    results = read("tiif")
    assert results.scores == {
        Key("color+2d/short/0", 0, "score"): ItemScore(1, 2), Key("color+2d/long/1", 0, "score"): ItemScore(2, 2)
    }  # fmt: skip
    assert len(results.problems) == 3


def genai_file(tree: Path, scores: object, name: str = "clip-flant5-xxl_3_prompts.pt") -> Path:
    path = tree / "genai_bench_results" / "mymodel" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(scores, path)
    return path


def test_genai_bench_rows_follow_the_prompts_file(read, tree):
    genai_file(tree, torch.tensor([[0.25], [0.5], [0.75]]))
    genai_file(tree, torch.zeros(3, 1), "gpt-4o_3_prompts.pt")
    results = read("genai-bench")
    assert one(results) == {"00000": 0.25, "00001": 0.5, "00002": 0.75}
    assert len(results.problems) == 1 and "gpt-4o_3_prompts.pt: not read" in results.problems[0]


def test_genai_bench_scores_of_another_number_of_prompts_are_not_guessed_at(read, tree):
    genai_file(tree, torch.zeros(4, 1))
    results = read("genai-bench")
    assert results.scores == {} and "3 rows are needed" in results.problems[0]


def test_genai_bench_file_cut_in_the_middle(read, tree):
    path = genai_file(tree, torch.zeros(3, 1))
    path.write_bytes(path.read_bytes()[:200])
    results = read("genai-bench")
    assert results.scores == {} and "cannot be read" in results.problems[0] and results.source


class Bomb:
    """What a hostile file would run when it is read."""

    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


def test_a_result_file_runs_no_code(read, tree):
    genai_file(tree, Bomb())
    assert "cannot be read" in read("genai-bench").problems[0]


def test_oneig(read, tree):
    results_folder = tree / "results"
    results_folder.mkdir()
    stamp = "EN_2026-11-29_10-00-00.csv"
    aligned = ",mymodel\nanime_000,0.5\nhuman_000,\nobject_000,1\n"
    (results_folder / f"alignment_prompt_score_{stamp}").write_text(aligned)
    (results_folder / f"text_prompt_score_{stamp}").write_text(',mymodel\n000,"[10.0, 0.25, np.float64(0.5)]"\n')
    (results_folder / f"reasoning_prompt_score_{stamp}").write_text(",mymodel\n000,0.2\n")
    (results_folder / f"style_prompt_score_{stamp}").write_text(",mymodel\n000,0.4\n")
    (results_folder / f"diversity_prompt_score_{stamp}").write_text(",mymodel\nanime_000,0.1\ntext_000,0.3\nx_000,1\n")
    results = read("oneig-en")
    assert {(key.prompt, key.metric): score.top for key, score in results.scores.items()} == {
        ("anime/000", "alignment"): 0.5, ("object/000", "alignment"): 1.0, ("text/000", "ED"): 10.0,
        ("text/000", "CR"): 0.25, ("text/000", "WAC"): 0.5, ("reasoning/000", "reasoning"): 0.2,
        ("anime/000", "style"): 0.4, ("anime/000", "diversity"): 0.1, ("text/000", "diversity"): 0.3,
    }  # fmt: skip
    assert len(results.problems) == 2 and "no alignment score for human/000" in results.problems[0]


def test_oneig_takes_the_model_whose_images_lie_in_the_tree(read, tree):
    (tree / "images" / "anime" / "mine").mkdir(parents=True)
    (tree / "results").mkdir()
    path = tree / "results" / "alignment_prompt_score_EN_1.csv"
    path.write_text(",theirs,mine\nanime_000,0.9,0.1\n")
    assert one(read("oneig-en")) == {"anime/000": 0.1}
    path.write_text(",theirs,others\nanime_000,0.9,0.1\n")
    results = read("oneig-en")
    assert results.scores == {} and "2 models" in results.problems[0]


def test_imgedit_averages_the_grades_of_an_answer(read, tree):
    said = {"101": "Brief reasoning: good.\nPrompt Compliance: 4\nVisual Naturalness: 5\nPhysical Integrity: 3",
            "102": {"error": "timeout"}, "103": "A: 1"}  # fmt: skip
    (tree / "result.json").write_text(json.dumps(said))
    results = read("imgedit")
    assert one(results) == {"101": 4.0} and len(results.problems) == 2


def test_imgedit_file_cut_in_the_middle(read, tree):
    (tree / "result.json").write_text('{"101": "A: 4')
    results = read("imgedit")
    assert results.scores == {} and "cut off" in results.problems[0] and results.source


def by_metric(results: Results) -> dict[tuple[str, str], float]:
    return {(key.prompt, key.metric): score.top / score.bottom for key, score in results.scores.items()}


def test_geneval2_by_hand(read, tree):
    """Atoms .25, 1, 1: AM .75, GM .25^(1/3) = .63; skills apart. A zero atom makes GM zero."""
    (tree / "score_lists.json").write_text(json.dumps([[0.25, 1.0, 1.0], [0.0, 0.5, 1.0]]))
    scores = by_metric(read("geneval2"))
    assert scores == pytest.approx({
        ("0", "am"): 0.75, ("0", "gm"): 0.25 ** (1 / 3), ("0", "skill count"): 0.25, ("0", "skill attribute"): 1.0,
        ("0", "skill object"): 1.0, ("1", "am"): 0.5, ("1", "gm"): 0.0, ("1", "skill object"): 0.25,
        ("1", "skill position"): 1.0,
    })  # fmt: skip


def test_geneval2_lists_of_other_data_are_not_guessed_at(read, tree):
    (tree / "score_lists.json").write_text(json.dumps([[1.0, 1.0, 1.0]]))
    results = read("geneval2")
    assert results.scores == {} and "needs a list of 2 lists" in results.problems[0]
    (tree / "score_lists.json").write_text(json.dumps([[1.0, 1.0], [1.0, 1.0, 1.0]]))
    results = read("geneval2")
    assert {key.prompt for key in results.scores} == {"1"} and "prompt 0 needs 3 scores" in results.problems[0]


@pytest.mark.parametrize("entries", [
    [{"image_path": "image/1.jpg", "score": 1}, {"image_path": "image/2.jpg", "score": -1},
     {"image_path": "image/9.jpg", "score": 1}],
    {"1": {"correct": True}, "2.jpg": {"correct": None}, "x": 1},
])  # fmt: skip
def test_genevalpp_takes_a_list_or_a_mapping(read, tree, entries):
    (tree / "Output.json").write_text(json.dumps({"overall_results": entries, "tag_accuracy": {}}))
    results = read("geneval++")
    assert one(results) == {"1": 1.0} and len(results.problems) == 2


def test_compbench_finds_an_image_by_its_number(read, tree):
    path = tree / "numeracy" / "annotation_num" / "vqa_result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([{"question_id": 13, "answer": "0.5"}, {"question_id": 0, "answer": 1},
                                {"question_id": 20, "answer": 1}, {"question_id": 1}]))  # fmt: skip
    part = tree / "color" / "annotation1_blip" / "VQA" / "result" / "vqa_result.json"  # of one noun, not the result
    part.parent.mkdir(parents=True)
    part.write_text(json.dumps([{"question_id": 0, "answer": "1"}]))
    results = read("t2i-compbench++")
    assert results.scores == {
        Key("numeracy/1", 3, "score"): ItemScore(0.5), Key("numeracy/0", 0, "score"): ItemScore(1.0)
    }  # fmt: skip
    assert len(results.problems) == 2


def test_dpg(read, tree):
    lines = ["/x, y/42.png, 1.0, 0.5, 0.5, 0.0, 0.5", "/x/midjourney0.png, 1.0, 0.2", "/x/9.png, 1.0, 1.0",
             "Model: m", "DPG-Bench score: 50.0"]  # fmt: skip
    (tree / "dpg-bench_20261129-100000_results.txt").write_text("".join(f"{line}\n" for line in lines))
    (tree / "dpg-bench_20261129-100000_results_detail.txt").write_text("/x/42.png, (0, 0), q, yes")
    results = read("dpg")
    assert one(results) == {"42": 0.5} and len(results.problems) == 2


def test_r3_bench(read, tree):
    """Bad image, seen and rightly explained; good image, called bad."""
    rows = [{"idx": 5, "model_reflection": {"answer": False}, "reflection_eval": {"is_correct": True}},
            {"idx": 6, "model_reflection": {"answer": False}}]  # fmt: skip
    json_lines(tree / "output" / "reflection" / "m" / "reflection_eval.jsonl", rows)
    json_lines(tree / "output" / "reflection" / "m" / "reflection_res.jsonl", rows[:1])
    json_lines(tree / "output" / "edit" / "m" / "eval.jsonl", [{"idx": 5, "image_eval": {"s_rect": 0.75}}, {"idx": 7}])
    results = read("r3-bench")
    assert by_metric(results) == {
        ("5", "verdict"): 1.0, ("5", "ref"): 1.0, ("5", "rect"): 0.75, ("6", "verdict"): 0.0, ("6", "ref"): 0.0,
    }  # fmt: skip
    assert len(results.problems) == 1 and "idx 7" in results.problems[0]
