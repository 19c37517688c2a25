"""`irg-rl suite`: judging over a real HTTP server, and one table from folders."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irg_rl.prompts import write_prompts
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
    assert "| missing | 4 of 7 |" in read.out and "Problems in tree (j): 4" in read.out
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


def test_geneval2_takes_the_probability_of_the_right_first_token(made, irg_rl):
    """How many: "two" .5 and "2" .25 count, "three" does not; yes and no elsewhere."""
    tree, prompts = made("geneval2")

    def reply(n, body):
        counts = asked(body).startswith("How many")
        top = {"two": np.log(0.5), "2": np.log(0.25), "three": np.log(0.2)} if counts else {"Yes": 0.0, " no": -9.0}
        return 200, completion("x", top), 0

    with endpoint(reply) as (url, requests):
        answer = irg_rl("suite", "judge", "geneval2", tree, "--judge", url, "--model", "j", "--prompts", prompts)
    assert answer.code == 0 and "6 answered" in answer.out
    assert {asked(body) for _, body, _ in requests} >= {"Are the cows white? Answer in one word."}
    assert all(body["max_tokens"] == 1 and body["top_logprobs"] == 5 for _, body, _ in requests)
    read = irg_rl("suite", "read", "geneval2", tree, "--prompts", prompts)
    assert "| count (AM over atoms) | 0.750 |" in read.out
    by_hand = (0.75 ** (1 / 3) + 1) / 2
    assert f"| Soft-TIFA GM | {by_hand:.3f} " in read.out


def test_geneval2_without_log_probabilities_is_a_failure(made, irg_rl):
    tree, prompts = made("geneval2")
    with endpoint(lambda n, body: (200, completion("Yes"), 0)) as (url, _):
        answer = irg_rl("suite", "judge", "geneval2", tree, "--judge", url, "--model", "j", "--prompts", prompts)
    assert "6 failed" in answer.out and "no log-probabilities" in answer.out


def test_a_judge_that_is_down_ends_the_call_and_loses_nothing(made, irg_rl, monkeypatch):
    monkeypatch.setattr("irg_rl.suites.judging.GIVE_UP", 3)
    tree, prompts = made("geneval2")
    with endpoint(lambda n, body: (400, "no", 0)) as (url, _):
        answer = irg_rl("suite", "judge", "geneval2", tree, "--judge", url, "--model", "j", "--prompts", prompts)
    assert answer.code == 1 and "the first 3 questions all failed, the last one: " in answer.err


def test_genevalpp_shows_the_judge_a_prompt_and_its_metadata(made, tmp_path, irg_rl):
    tree, prompts = made("geneval++")
    (tmp_path / "t.txt").write_text("{prompt} {metadata}")
    with endpoint(lambda n, body: (200, completion('{"correct": 1}'), 0)) as (url, requests):
        irg_rl("suite", "judge", "geneval++", tree, "--judge", url, "--model", "j", "--template", tmp_path / "t.txt",
               "--prompts", prompts)  # fmt: skip
    assert '1 dogs {"tag": "counting"' in "".join(asked(body) for _, body, _ in requests)
    assert all(body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png")
               for _, body, _ in requests)  # fmt: skip
    read = irg_rl("suite", "read", "geneval++", tree, "--prompts", prompts)
    assert "| overall (mean of the tags) | 1.000 |" in read.out


@pytest.mark.parametrize("name", ["geneval++", "wise", "tiif"])
def test_an_image_that_was_not_written_to_its_end_is_missing_and_is_asked_about_when_it_is_whole(
    made, tmp_path, irg_rl, name
):
    tree, prompts = made(name)
    path = sorted(path for path in tree.rglob("*") if path.is_file())[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "t.txt").write_text("{prompt} {explanation} ##YNQuestions##")
    replies = {"geneval++": "yes", "wise": GRADES, "tiif": "yes\nno"}
    words = ("suite", "judge", name, tree, "--model", "j", "--template", tmp_path / "t.txt", "--prompts", prompts)
    with endpoint(lambda n, body: (200, completion(replies[name]), 0)) as (url, requests):
        answer = irg_rl(*words, "--judge", url)
        count = len(requests)
        path.write_bytes(whole)
        again = irg_rl(*words, "--judge", url)
    assert answer.code == 0, answer.err
    assert "1 images missing" in answer.out and count == {"geneval++": 2, "wise": 6, "tiif": 5}[name]
    assert "0 images missing" in again.out and len(requests) > count


@pytest.mark.parametrize("name", ["geneval++", "geneval2"])
def test_an_image_whose_pixels_are_broken_is_a_failure_and_no_judge_sees_it(made, tmp_path, irg_rl, name):
    tree, prompts = made(name)
    path = sorted(path for path in tree.rglob("*") if path.is_file())[0]
    data = path.read_bytes()
    path.write_bytes(data[:16] + bytes(len(data) - 32) + data[-16:])
    (tmp_path / "t.txt").write_text("{prompt}")
    template = ("--template", tmp_path / "t.txt") if name == "geneval++" else ()
    with endpoint(lambda n, body: (200, completion("yes", {"Yes": 0.0}), 0)) as (url, requests):
        answer = irg_rl("suite", "judge", name, tree, "--model", "j", *template, "--prompts", prompts, "--judge", url)
    assert answer.code == 0, answer.err
    failed, asked_about = {"geneval++": (1, 2), "geneval2": (3, 3)}[name]
    assert f"{failed} failed, 0 images missing; last failure: {path.name}: the image can't be" in answer.out
    assert len(requests) == asked_about


@pytest.mark.parametrize(("content", "says"), [(None, "does not exist"), (b"\xff{prompt}", "is not UTF-8 text")])
def test_a_template_that_cannot_be_read_is_named(made, tmp_path, irg_rl, content, says):
    tree, prompts = made("wise")
    if content is not None:
        (tmp_path / "t.txt").write_bytes(content)
    answer = irg_rl("suite", "judge", "wise", tree, "--model", "j", "--template", tmp_path / "t.txt", "--prompts",
                    prompts, "--judge", "http://127.0.0.1:9/v1")  # fmt: skip
    assert answer.code == 1 and "t.txt" in answer.err and says in " ".join(answer.err.split())


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


@pytest.fixture
def turned(tmp_path) -> Path:
    """A folder as `generate --suite wise` leaves it, two turns; the trajectory of prompt 1 stopped after the first."""
    suite, out = suite_of("wise"), tmp_path / "out"
    prompts = suite.read_prompts(write_official("wise", tmp_path / "official"))
    for number, prompt in enumerate(prompts):
        for turn, tree in enumerate(("turn0", "turn1", "final")):
            path = out / tree / f"{prompt.id}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            value = 100 + number if prompt.id == "1" else 10 * min(turn, 1) + number
            path.write_bytes(encoded([np.full((8, 8, 3), value, dtype=np.uint8)], path.name))
    write_prompts(out / "prompts.jsonl", prompts)
    (out / "suite.json").write_text(json.dumps({"suite": "wise", "turns": 2, "model_name": "m", "seed": 0}))
    return out


def test_an_image_that_stands_in_a_later_turn_too_is_asked_about_once(turned, template, irg_rl):
    with endpoint(lambda n, body: (200, completion(GRADES), 0)) as (url, requests):
        answer = irg_rl("suite", "judge", "wise", turned, "--judge", url, "--model", "j", "--template", template)
    assert len(requests) == 13, "7 of the first turn, 6 of the second, none of final/"
    assert "out/turn1: 6 answered, 1 before" in answer.out
    read = irg_rl("suite", "read", "wise", turned)
    assert "| figure | out/turn0 (j) | out/turn1 (j) |" in read.out and "| missing | 0 of 7 | 0 of 7 |" in read.out
    assert "| out/turn1 (j) minus out/turn0 (j) | difference | prompts | left out |" in read.out


def test_turns_are_compared_with_the_first_and_checkpoints_turn_by_turn(turned, irg_rl):
    other = turned.with_name("other")
    shutil.copytree(turned, other)
    for folder, grades in ((turned, (0, 1)), (other, (1, 2))):
        for turn, grade in enumerate(grades):
            rows = [wise_line(n, grade, grade, grade) for n in (1, 2, 401, 568, 701, 801, 901)]
            json_lines(folder / f"turn{turn}" / "Results" / "a.jsonl", rows)
    irg_rl("suite", "read", "wise", turned, other)
    report = json.loads((turned / "wise-results.json").read_text())
    gained = {(c["after"], c["before"]): c["rows"][-1]["gained"]["value"] for c in report["differences"]}
    assert gained == {
        ("out/turn1", "out/turn0"): 0.5, ("other/turn1", "other/turn0"): 0.5, ("other/turn0", "out/turn0"): 0.5,
        ("other/turn1", "out/turn1"): 0.5,
    }  # fmt: skip


def test_a_turn_without_results_is_named(turned, irg_rl):
    json_lines(turned / "turn0" / "Results" / "a.jsonl", [wise_line(1, 2, 2, 2)])
    answer = irg_rl("suite", "read", "wise", turned)
    assert answer.code == 0 and "No result file in out/turn1 (looked for Results/*.jsonl" in answer.out


def test_one_tree_of_a_folder_is_read_with_the_prompts_of_the_folder(turned, irg_rl):
    json_lines(turned / "turn1" / "Results" / "a.jsonl", [wise_line(1, 2, 2, 2)])
    answer = irg_rl("suite", "read", "wise", turned / "turn1")
    assert answer.code == 0 and "| missing | 6 of 7 |" in answer.out


@pytest.mark.parametrize(("content", "says"), [
    ('{"suite": "wise", "turns"', "is not what `irg-rl generate --suite` writes"),
    ('{"suite": "tiif", "turns": 2}', "was drawn for tiif, not for wise"),
])  # fmt: skip
def test_settings_that_are_cut_off_or_of_another_suite_are_refused(turned, irg_rl, content, says):
    (turned / "suite.json").write_text(content)
    answer = irg_rl("suite", "read", "wise", turned)
    assert answer.code == 1 and says in answer.err


def test_thoughts_before_the_answer_are_left_out(made, template, irg_rl):
    tree, prompts = made("wise-verified")
    said = "<think>no, it shows none</think>yes"
    with endpoint(lambda n, body: (200, completion(said), 0)) as (url, _):
        irg_rl("suite", "judge", "wise-verified", tree, "--judge", url, "--model", "j", "--template", template,
               "--prompts", prompts)  # fmt: skip
    assert [entry["answer"] for entry in log_of(tree)[1:]] == [1.0] * 7


def test_further_fields_of_a_request_belong_to_the_protocol(made, irg_rl):
    tree, prompts = made("geneval2")
    words = ("suite", "judge", "geneval2", tree, "--model", "j", "--prompts", prompts)
    off = '{"chat_template_kwargs": {"enable_thinking": false}}'
    with endpoint(lambda n, body: (200, completion("x", {"Yes": 0.0}), 0)) as (url, requests):
        assert irg_rl(*words, "--judge", url, "--extra-body", off).code == 0
        again = irg_rl(*words, "--judge", url)
    assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for _, body, _ in requests)
    assert again.code == 1 and "another protocol (extra_body" in again.err
    for wrong in ("{", "[]"):
        assert "--extra-body" in irg_rl(*words, "--judge", "http://127.0.0.1:9/v1", "--extra-body", wrong).err


def test_what_is_refused_again_does_not_end_the_call(made, irg_rl, monkeypatch):
    monkeypatch.setattr("irg_rl.suites.judging.GIVE_UP", 2)
    tree, prompts = made("geneval2")
    words = ("suite", "judge", "geneval2", tree, "--model", "j", "--prompts", prompts, "--concurrency", 1)
    with endpoint(lambda n, body: (200, completion("x", {"Yes": 0.0}), 0) if n == 1 else (400, "no", 0)) as (url, _):
        first = irg_rl(*words, "--judge", url)
        again = irg_rl(*words, "--judge", url)
    assert first.code == again.code == 0
    assert "1 answered, 0 before, 5 failed" in first.out and "0 answered, 1 before, 5 failed" in again.out


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
    assert "Problems in tree: 1" in answer.out and "results.jsonl, line 4: no JSON object (cut off?)" in answer.out


def test_suites_are_listed(irg_rl):
    answer = irg_rl("suite", "ls")
    assert answer.code == 0 and "oneig-en" in answer.out and "553 prompts x 4 images" in answer.out


def test_jpeg_and_webp_reach_a_judge_as_png(made):
    from irg_rl.commands.suite import png_of

    tree, _ = made("genai-bench")
    png = png_of(tree / "model" / "00001.jpeg")
    (tree / "back.png").write_bytes(png)
    assert png.startswith(b"\x89PNG") and Image.open(tree / "back.png").size == (8, 8)
