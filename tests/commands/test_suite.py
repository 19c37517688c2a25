"""`irg-rl suite`: judging over a real HTTP server, and one table from folders."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irg_rl.suites.catalog import suite_of
from irg_rl.suites.trees import encoded
from tests.rewards.servers import completion, endpoint
from tests.suites.official import json_lines, write_official
from tests.suites.test_results import geneval_line, tiif_file, wise_line

GRADES = "Consistency: 2\n**Realism**: 1\nAesthetic Quality: 0"


@pytest.fixture
def made(tmp_path):
    """made("wise", "turn0", holes=("2.png",)) -> a tree with a grey image in every place but the holes, its prompts."""

    def call(name: str, tree: str = "tree", holes: tuple[str, ...] = ()) -> tuple[Path, Path]:
        suite = suite_of(name)
        prompts = write_official(name, tmp_path / "official")
        for number, picture in enumerate(suite.pictures(suite.read_prompts(prompts), "model")):
            if picture.path not in holes:
                path = tmp_path / tree / picture.path
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.full((8, 8, 3), number, dtype=np.uint8)
                path.write_bytes(encoded([pixels] * len(picture.samples), picture.path))
        return tmp_path / tree, prompts

    return call


@pytest.fixture
def template(tmp_path) -> Path:
    path = tmp_path / "template.txt"
    path.write_text('PROMPT: "{prompt}" EXPLANATION: "{explanation}" {other}')
    return path


def asked(body: dict) -> str:
    return body["messages"][0]["content"][-1]["text"]


def log_of(tree: Path) -> list[dict]:
    return [json.loads(line) for line in (tree / "judged-j.jsonl").read_text().splitlines()]


def test_wise_is_judged_and_read_with_its_own_weights(made, template, irg_rl):
    tree, prompts = made("wise")
    with endpoint(lambda n, body: (200, completion(GRADES), 0)) as (url, requests):
        answer = irg_rl("suite", "judge", "wise", tree, "--judge", url, "--model", "j", "--template", template,
                        "--prompts", prompts)  # fmt: skip
    assert answer.code == 0, answer.err
    assert "7 answered, 0 before, 0 failed, 0 images missing" in answer.out
    assert {asked(body) for _, body, _ in requests} >= {'PROMPT: "wise 2" EXPLANATION: "why 2" {other}'}
    assert all(body["temperature"] == 0 and body["max_tokens"] == 2000 for _, body, _ in requests)
    read = irg_rl("suite", "read", "wise", tree, "--prompts", prompts)
    assert read.code == 0, read.err
    assert "| overall (official weights) | 0.800 |" in read.out
    assert "judged here by j, template " in read.out
    report = json.loads((tree / "wise-results.json").read_text())
    assert report["trees"][0]["judge"]["judge"] == "j"
    assert report["trees"][0]["rows"][-1]["value"]["value"] == pytest.approx(0.8)


def test_a_judge_that_refuses_half_is_counted_and_asked_again(made, template, irg_rl):
    tree, prompts = made("wise", holes=("901.png",))
    words = ("suite", "judge", "wise", tree, "--model", "j", "--template", template, "--prompts", prompts)

    def refuses_some(n, body):
        odd = any(f'"wise {ident}"' in asked(body) for ident in (1, 401, 701))
        return (400, {"error": "content policy"}, 0) if odd else (200, completion(GRADES), 0)

    with endpoint(refuses_some) as (url, requests):
        answer = irg_rl(*words, "--judge", url)
    assert answer.code == 0 and len(requests) == 6
    assert "3 answered, 0 before, 3 failed, 1 images missing; last failure: " in answer.out and "HTTP 400" in answer.out
    read = irg_rl("suite", "read", "wise", tree, "--prompts", prompts)
    assert "| missing | 4 of 7 |" in read.out and "4 problems in tree (j):" in read.out
    assert "overall (official weights), judged only" in read.out
    with endpoint(lambda n, body: (200, completion(GRADES), 0)) as (url, requests):
        again = irg_rl(*words, "--judge", url)
    assert len(requests) == 3 and "3 answered, 3 before, 0 failed, 1 images missing" in again.out
    assert "| missing | 1 of 7 |" in irg_rl("suite", "read", "wise", tree, "--prompts", prompts).out


def test_an_answer_that_cannot_be_understood_is_no_grade(made, template, irg_rl):
    tree, prompts = made("wise")
    with endpoint(lambda n, body: (200, completion("Consistency: 7, Realism: 1"), 0)) as (url, _):
        answer = irg_rl("suite", "judge", "wise", tree, "--judge", url, "--model", "j", "--template", template,
                        "--prompts", prompts)  # fmt: skip
    assert answer.code == 0 and "0 answered, 0 before, 7 failed" in answer.out
    assert all(entry["answer"] is None and "no grade" in entry["failure"] for entry in log_of(tree)[1:])


def test_a_log_that_was_cut_in_the_middle_goes_on(made, template, irg_rl):
    tree, prompts = made("wise")
    words = ("suite", "judge", "wise", tree, "--model", "j", "--template", template, "--prompts", prompts)
    with endpoint(lambda n, body: (200, completion(GRADES), 0)) as (url, _):
        irg_rl(*words, "--judge", url)
        log = tree / "judged-j.jsonl"
        log.write_text(log.read_text()[:-30])
        again = irg_rl(*words, "--judge", url)
    assert "1 answered, 6 before" in again.out
    assert "| missing | 0 of 7 |" in irg_rl("suite", "read", "wise", tree, "--prompts", prompts).out


def test_another_question_is_another_measurement(made, template, irg_rl):
    tree, prompts = made("wise")
    words = ("suite", "judge", "wise", tree, "--model", "j", "--template", template, "--prompts", prompts)
    with endpoint(lambda n, body: (200, completion(GRADES), 0)) as (url, _):
        irg_rl(*words, "--judge", url)
        template.write_text("{prompt} {explanation} another")
        answer = irg_rl(*words, "--judge", url)
    assert answer.code == 1 and "was begun by another protocol (template" in answer.err


def test_tiif_asks_all_questions_of_an_image_at_once(made, tmp_path, irg_rl):
    tree, prompts = made("tiif")
    (tmp_path / "t.txt").write_text("Answer:\n##YNQuestions##")
    replies = {"Answer:\nIs it red?\nIs it left?": "Yes, it is.\n\nno - right", "Answer:\nIs there a cat?": "maybe"}
    with endpoint(lambda n, body: (200, completion(replies[asked(body)]), 0)) as (url, requests):
        answer = irg_rl("suite", "judge", "tiif", tree, "--judge", url, "--model", "j", "--template",
                        tmp_path / "t.txt", "--prompts", prompts)  # fmt: skip
    assert len(requests) == 6 and "4 answered, 0 before, 2 failed" in answer.out
    read = irg_rl("suite", "read", "tiif", tree, "--prompts", prompts)
    assert "| overall, short (mean of 2 groups) | 0.500 |" in read.out
    assert "0 answers to 1 questions in 'maybe'" in read.out


def test_wise_verified_takes_yes_or_no(made, template, irg_rl):
    tree, prompts = made("wise-verified")
    with endpoint(lambda n, body: (200, completion("Yes." if n % 2 else "0"), 0)) as (url, _):
        irg_rl("suite", "judge", "wise-verified", tree, "--judge", url, "--model", "j", "--template", template,
               "--prompts", prompts, "--concurrency", 1)  # fmt: skip
    assert sorted(entry["answer"] for entry in log_of(tree)[1:]) == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("words", "says"), [
    (("wise", "--model", "j"), "needs the official question: --template FILE"),
    (("geneval", "--model", "j"), "GenEval is not judged here: run its official evaluator"),
])  # fmt: skip
def test_what_cannot_be_judged_is_said_before_anything_is_asked(made, irg_rl, words, says):
    tree, prompts = made(words[0])
    nobody = "http://127.0.0.1:9/v1"
    answer = irg_rl("suite", "judge", words[0], tree, *words[1:], "--judge", nobody, "--prompts", prompts)
    assert answer.code == 1 and says in answer.err


def test_a_template_that_lacks_the_prompt_is_refused(made, template, irg_rl):
    tree, prompts = made("wise")
    template.write_text("Is it good?")
    answer = irg_rl("suite", "judge", "wise", tree, "--judge", "http://127.0.0.1:9/v1", "--template", template,
                    "--prompts", prompts)  # fmt: skip
    assert answer.code == 1 and "the template lacks {prompt}" in answer.err


def test_checkpoints_are_compared_prompt_by_prompt(made, tmp_path, irg_rl):
    sft, prompts = made("wise", "sft")
    rl, _ = made("wise", "rl")
    idents = (1, 2, 401, 568, 701, 801, 901)
    json_lines(sft / "Results" / "a.jsonl", [wise_line(n, 1, 1, 1) for n in idents])
    json_lines(rl / "Results" / "a.jsonl", [wise_line(n, 2, 2, 2) for n in idents[:-1]])
    answer = irg_rl("suite", "read", "wise", sft, rl, "--prompts", prompts, "--out", tmp_path / "report")
    assert answer.code == 0, answer.err
    assert "| rl minus sft | difference | prompts | left out |" in answer.out
    assert "| cultural | +0.500 [+0.500, +0.500] | 2 | 0 |" in answer.out
    assert "| chemistry | - | 0 | 1 |" in answer.out
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"wise-results.md", "wise-results.json"}


def test_official_results_and_a_judge_stand_side_by_side(made, tmp_path, irg_rl):
    tree, prompts = made("tiif")
    tiif_file(tree, "color+2d/short/0", ["yes", "no"], ["yes", "no"])
    (tmp_path / "t.txt").write_text("##YNQuestions##")
    with endpoint(lambda n, body: (200, completion("yes\nno"), 0)) as (url, _):
        irg_rl("suite", "judge", "tiif", tree, "--judge", url, "--model", "j", "--template", tmp_path / "t.txt",
               "--prompts", prompts)  # fmt: skip
    answer = irg_rl("suite", "read", "tiif", tree, "--prompts", prompts)
    assert "| figure | tree | tree (j) |" in answer.out


def test_a_folder_without_results_says_what_was_looked_for(made, irg_rl):
    tree, prompts = made("geneval")
    answer = irg_rl("suite", "read", "geneval", tree, "--prompts", prompts)
    assert answer.code == 1 and "looked for results.jsonl of evaluate_images.py" in answer.err


def test_a_tree_without_prompts_asks_for_them(made, irg_rl):
    tree, _ = made("geneval")
    answer = irg_rl("suite", "read", "geneval", tree)
    assert answer.code == 1 and "has no suite.json: give the suite's prompts, --prompts FILE" in answer.err


def test_problems_are_named_and_the_rest_is_read(made, irg_rl):
    tree, prompts = made("geneval")
    rows = [geneval_line(0, k, True, "a photo of a bench") for k in range(4)]
    path = json_lines(tree / "results.jsonl", rows)
    path.write_text(path.read_text()[:-40])
    answer = irg_rl("suite", "read", "geneval", tree, "--prompts", prompts)
    assert answer.code == 0 and "| missing | 9 of 12 |" in answer.out
    assert "1 problems in tree:" in answer.out and "results.jsonl, line 4: no JSON object (cut off?)" in answer.out


def test_suites_are_listed(irg_rl):
    answer = irg_rl("suite", "ls")
    assert answer.code == 0 and "oneig-en" in answer.out and "553 prompts x 4 images" in answer.out


def test_jpeg_and_webp_reach_a_judge_as_png(made):
    from irg_rl.commands.suite import png_of

    tree, _ = made("genai-bench")
    png = png_of(tree / "model" / "00001.jpeg")
    (tree / "back.png").write_bytes(png)
    assert png.startswith(b"\x89PNG") and Image.open(tree / "back.png").size == (8, 8)
