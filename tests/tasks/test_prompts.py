"""Prompts of one's own: where they come from, how they are split, and what counts as right."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irg_rl.config import RecipeError, load_recipe, parse_recipe
from irg_rl.task import SPLITS, Verdict, task_of
from irg_rl.tasks.prompts import OwnPrompts, PromptsSettings, split_of
from irg_rl.trajectory import Prompt
from tests.learner.world import CONFIG
from tests.paths import CONFIGS

SHARES = {"train": 0.6, "validation": 0.1, "test": 0.2}
IMAGE = np.zeros((8, 8, 3), np.uint8)


def written(path: Path, *texts: str) -> str:
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return str(path)


def task(score=None, **options) -> OwnPrompts:
    return OwnPrompts(PromptsSettings.model_validate(options), 0, (8, 8), score)


# --- where prompts come from


def test_one_file_is_split_by_its_texts_and_what_the_shares_leave_is_left_out(tmp_path):
    texts = [f"a lake at hour {n}" for n in range(400)]
    own = task(file=written(tmp_path / "p.jsonl", *texts), shares=SHARES)
    found = {split: [prompt.text for prompt in own.prompts(split)] for split in SPLITS}
    assert all(abs(len(found[split]) / 400 - share) < 0.08 for split, share in SHARES.items())
    assert len(set().union(*map(set, found.values()))) == sum(map(len, found.values())) < 400
    shuffled = task(file=written(tmp_path / "q.jsonl", *reversed(texts[:200])), shares=SHARES)
    assert {prompt.text for prompt in shuffled.prompts("test")} == set(found["test"]) & set(texts[:200])


@given(st.text(), st.sampled_from(["", " ", "\n"]))
def test_blanks_around_a_text_do_not_move_it_to_another_split(text, blank):
    assert split_of(text, SHARES) == split_of(blank + text + blank, SHARES) in (*SPLITS, None)


def test_three_files_are_three_splits_and_one_that_is_not_named_is_empty(tmp_path):
    own = task(train=written(tmp_path / "a", "a hill"), test=written(tmp_path / "b", "a lake"))
    assert [[prompt.text for prompt in own.prompts(split)] for split in SPLITS] == [["a hill"], [], ["a lake"]]


@pytest.mark.parametrize(("options", "says"), [
    ({}, "name one `file`, or a file for `test`"),
    ({"file": "a", "test": "b"}, "leave out either file or test"),
    ({"file": "a", "shares": {"train": 0.9, "test": 0.2}}, "train, validation and test together are more than 1"),
    ({"fiel": "a"}, "task_options.fiel: unknown setting; did you mean task_options.file?"),
    ({"file": "a", "verdict": {"scorre": "judge"}}, "task_options.verdict.scorre: unknown setting; did you mean"),
])  # fmt: skip
def test_options_that_make_no_sense_are_found_when_the_recipe_is_read(options, says):
    recipe = {"name": "mine", "model": CONFIG.model_dump(mode="json"), "task": "prompts", "task_options": options}
    with pytest.raises(RecipeError, match=says.replace(".", r"\.").replace("?", r"\?")):
        parse_recipe(recipe)


def test_files_that_cannot_be_used_are_said_before_anything_starts(tmp_path):
    [line] = task(file=str(tmp_path / "nowhere.jsonl")).missing()
    assert "nowhere.jsonl" in line
    lake, hill = written(tmp_path / "lake", "a lake"), written(tmp_path / "hill", "a hill", "a lake")
    [line] = task(train=hill, test=lake).missing()
    assert "1 prompt(s) are in train and in test, 'a lake' first" in line
    [line] = task(file=lake, shares={"train": 1.0, "validation": 0.0, "test": 0.0}).missing()
    assert "no prompt falls into the split test" in line
    assert task(test=lake).missing() == []


# --- what is right


def test_a_picture_is_right_from_the_threshold_on_and_a_failed_score_is_no_verdict():
    def score(name, images, prompts):
        return {"judge": [0.5, 0.49, None]}[name]

    own = task(score, file="p.jsonl", verdict={"scorer": "judge", "threshold": 0.5})
    found = own.verdicts([IMAGE] * 3, [Prompt("a", "a lake")] * 3)
    assert found == [Verdict(True, 0.5), Verdict(False, 0.49), None] and own.verdict_scorer == "judge"


def test_without_a_scorer_nobody_says_what_is_right():
    own = task(file="p.jsonl")
    assert own.verdicts([IMAGE], [Prompt("a", "a lake")]) == [None] and "set task_options.verdict" in own.last_error
    assert own.verdict_scorer is None and not own.judges(Prompt("a", "a lake"))


def test_it_has_no_gate_and_cannot_check_a_reflection():
    own = task(file="p.jsonl")
    assert own.thresholds is None and own.check_reflection("too dark", IMAGE, Prompt("a", "a lake")) is None


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("bagel-*.yaml")))
def test_it_is_the_task_of_every_recipe_for_bagel(name):
    recipe = load_recipe(CONFIGS / f"{name}.yaml")
    assert isinstance(task_of(recipe), OwnPrompts)
    assert task_of(recipe).verdict_scorer == (None if "sft" in name else "judge")
