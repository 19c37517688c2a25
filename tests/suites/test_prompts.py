"""Prompt files as people leave them: what is wrong is named, with its place."""

import json

import pytest

from irg_rl.errors import InputError
from irg_rl.suites import NAMES
from irg_rl.suites.catalog import suite_of
from tests.suites.official import GENEVAL, GENEVAL2, WISE, json_lines, write_official


@pytest.mark.parametrize("name", NAMES)
def test_a_bom_and_crlf_change_nothing(name, tmp_path):
    suite = suite_of(name)
    path = write_official(name, tmp_path)
    before = suite.read_prompts(path)
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        text = file.read_text(encoding="utf-8-sig")
        file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert suite.read_prompts(path) == before


def test_a_line_that_is_no_json_is_named(tmp_path):
    path = json_lines(tmp_path / "e.jsonl", GENEVAL)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(InputError, match=r"e\.jsonl, line 3: not JSON"):
        suite_of("geneval").read_prompts(path)


def test_a_prompt_that_is_missing_is_named_with_what_is_there(tmp_path):
    path = json_lines(tmp_path / "e.jsonl", [GENEVAL[0], {"tag": "counting", "include": [], "text": "x"}])
    with pytest.raises(InputError, match=r"line 2: needs a non-empty string `prompt`; there: tag, include, text"):
        suite_of("geneval").read_prompts(path)


def test_duplicate_ids_are_named_with_both_places(tmp_path):
    (tmp_path / "w.json").write_text(json.dumps([*WISE, WISE[1]]))
    with pytest.raises(InputError, match=r"entry 7: the id '2' was used before \(.*entry 1\)"):
        suite_of("wise").read_prompts(tmp_path / "w.json")


def test_duplicate_keys_of_a_json_object_are_not_swallowed(tmp_path):
    (tmp_path / "b.json").write_text('{"1": {"id": "a.jpg", "prompt": "p", "edit_type": "add"}, "1": {}}')
    with pytest.raises(InputError, match=r"b\.json: '1' comes twice"):
        suite_of("imgedit").read_prompts(tmp_path / "b.json")


@pytest.mark.parametrize("key", ["a/b", "..", "", "a\\b"])
def test_an_id_that_is_no_file_name_is_refused(tmp_path, key):
    (tmp_path / "b.json").write_text(json.dumps({key: {"id": "a.jpg", "prompt": "p", "edit_type": "add"}}))
    with pytest.raises(InputError, match="cannot be a file name"):
        suite_of("imgedit").read_prompts(tmp_path / "b.json")


@pytest.mark.parametrize("source", ["/etc/passwd", "../x.jpg"])
def test_a_source_outside_its_folder_is_refused(tmp_path, source):
    (tmp_path / "b.json").write_text(json.dumps({"1": {"id": source, "prompt": "p", "edit_type": "add"}}))
    with pytest.raises(InputError, match="not a path inside the folder of sources"):
        suite_of("imgedit").read_prompts(tmp_path / "b.json")


def test_a_missing_column_is_named(tmp_path):
    (tmp_path / "o.csv").write_text("category,id,prompt_cn\nPortrait,000,x\n")
    with pytest.raises(InputError, match=r"column 'prompt_en' is missing; there: category, id, prompt_cn"):
        suite_of("oneig-en").read_prompts(tmp_path / "o.csv")


def test_two_types_in_one_file_of_tiif_are_named(tmp_path):
    rows = [{"type": kind, "short_description": "s", "long_description": "l"} for kind in ("text", "style")]
    path = json_lines(tmp_path / "t.jsonl", rows)
    with pytest.raises(InputError, match=r"line 2: type 'style' in a file of 'text'"):
        suite_of("tiif").read_prompts(path)


@pytest.mark.parametrize("ident", [0, 1001, "x", True])
def test_a_wise_id_outside_1_to_1000_is_refused(tmp_path, ident):
    (tmp_path / "w.json").write_text(json.dumps([WISE[0] | {"prompt_id": ident}]))
    with pytest.raises(InputError, match="prompt_id"):
        suite_of("wise").read_prompts(tmp_path / "w.json")


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_or_missing_file_is_an_input_error(name, tmp_path):
    (tmp_path / "empty").write_text("")
    with pytest.raises(InputError):
        suite_of(name).read_prompts(tmp_path / "empty")
    with pytest.raises((InputError, FileNotFoundError)):
        suite_of(name).read_prompts(tmp_path / "none")


def test_rewritten_geneval_prompts_are_called_so(tmp_path):
    suite = suite_of("geneval")
    plain = suite.read_prompts(json_lines(tmp_path / "a.jsonl", GENEVAL))
    assert "original wording" in suite.prompt_set(plain)
    rows = [row | {"prompt": "In soft light, cows"} for row in GENEVAL]
    long = suite.read_prompts(json_lines(tmp_path / "b.jsonl", rows))
    assert "REWRITTEN" in suite.prompt_set(long)


def test_a_suite_of_ones_own_is_named_by_its_import_path():
    assert suite_of("irg_rl.suites.geneval:GenEval").title == "GenEval"
    with pytest.raises(InputError, match="has no 'Nothing'"):
        suite_of("irg_rl.suites.geneval:Nothing")
    with pytest.raises(InputError, match="cannot be imported"):
        suite_of("no.such.module:Suite")
    with pytest.raises(InputError, match="no subclass of"):
        suite_of("irg_rl.suites.base:Picture")
    with pytest.raises(InputError, match="did you mean geneval"):
        suite_of("genval")


def test_a_prompt_that_is_a_file_name_may_hold_no_slash(tmp_path):
    (tmp_path / "color_val.txt").write_text("a cup\na black/white cat\n")
    with pytest.raises(InputError, match=r"color_val\.txt, line 2: 'a black/white cat' cannot be a file name"):
        suite_of("t2i-compbench++").read_prompts(tmp_path / "color_val.txt")


def test_geneval2_needs_prompts_that_differ(tmp_path):
    path = json_lines(tmp_path / "g.jsonl", [GENEVAL2[0], GENEVAL2[0]])
    with pytest.raises(InputError, match=r"line 2: the prompt 'two white cows' was used before"):
        suite_of("geneval2").read_prompts(path)
    path = json_lines(tmp_path / "g.jsonl", [GENEVAL2[0] | {"skills": ["count"]}])
    with pytest.raises(InputError, match="3 questions in `vqa_list`, but 1 `skills`"):
        suite_of("geneval2").read_prompts(path)


@pytest.mark.parametrize("name", ["wise", "wise-verified", "genai-bench", "imgedit"])
def test_one_json_file_that_was_cut_off_is_named_with_its_line(name, tmp_path):
    path = write_official(name, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:8]))
    with pytest.raises(InputError, match=rf"{path.name}: not JSON \(.* at line 8, character \d+\)"):
        suite_of(name).read_prompts(path)


def test_skills_of_genai_bench_that_were_cut_off_are_named(tmp_path):
    path = write_official("genai-bench", tmp_path)
    (tmp_path / "genai_skills.json").write_text('{\n"counting": [1],\n"basic": [0, ')
    with pytest.raises(InputError, match=r"genai_skills\.json: not JSON \(.* at line 3, "):
        suite_of("genai-bench").read_prompts(path)


@pytest.mark.parametrize(("content", "says"), [
    ("[]", "needs a JSON object that maps a skill"), ('{"basic": 3}', "'basic': needs a list of numbers"),
    ('{"basic": [0, "x"]}', "'basic': needs a list of numbers"), ('{"basic": [[]]}', "'basic': needs a list of number"),
])  # fmt: skip
def test_skills_of_genai_bench_in_another_form_are_named(tmp_path, content, says):
    path = write_official("genai-bench", tmp_path)
    (tmp_path / "genai_skills.json").write_text(content)
    with pytest.raises(InputError, match=rf"genai_skills\.json.*{says}"):
        suite_of("genai-bench").read_prompts(path)


def test_prompts_without_their_skills_say_so(tmp_path):
    suite, path = suite_of("genai-bench"), write_official("genai-bench", tmp_path)
    assert "genai_skills.json" not in suite.prompt_set(suite.read_prompts(path))
    (tmp_path / "genai_skills.json").unlink()
    assert "no figure per skill: no genai_skills.json beside them" in suite.prompt_set(suite.read_prompts(path))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_said_whether_the_prompts_are_rewritten_or_that_this_is_not_known(name, tmp_path):
    suite = suite_of(name)
    prompts = suite.read_prompts(write_official(name, tmp_path))
    kind = "original wording" if name == "geneval" else "not known"
    assert suite.prompt_set(prompts) == f"{len(prompts)} prompts, rewritten or not: {kind}"


@pytest.mark.parametrize(("rows", "says"), [
    ("Portrait,000,a woman\n", "line 2: the row has not the 4 cells of the header"),
    ('Portrait,000,"a woman, p', r"line 2: not CSV \(unexpected end of data\)"),
    ("Portrait,000,a woman,None,x\n", "line 2: the row has not the 4 cells of the header"),
    ("Portrait,000,a\rwoman,None\n", r"line 2: not CSV \(new-line character"),
])  # fmt: skip
def test_a_csv_of_prompts_that_was_cut_off_is_named(tmp_path, rows, says):
    (tmp_path / "o.csv").write_bytes(f"category,id,prompt_en,class\n{rows}".encode())
    with pytest.raises(InputError, match=rf"o\.csv, {says}"):
        suite_of("oneig-en").read_prompts(tmp_path / "o.csv")


def test_a_number_of_thousands_of_digits_is_no_id(tmp_path):
    (tmp_path / "w.json").write_text(json.dumps([WISE[0] | {"prompt_id": "9" * 5000}]))
    with pytest.raises(InputError, match="entry 0: needs a whole number `prompt_id`"):
        suite_of("wise").read_prompts(tmp_path / "w.json")


def test_an_explanation_that_is_no_text_is_named(tmp_path):
    (tmp_path / "w.json").write_text(json.dumps([WISE[0] | {"Explanation": ["a", "b"]}]))
    with pytest.raises(InputError, match="entry 0: `Explanation` must be a string"):
        suite_of("wise").read_prompts(tmp_path / "w.json")
