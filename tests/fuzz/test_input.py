"""One property for all that comes from outside: a value, or an error of our own that says where."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from irg_rl.config import Recipe, load_recipe
from irg_rl.driver.run_folder import Run
from irg_rl.errors import InputError, UserError
from irg_rl.learner import checkpoint
from irg_rl.learner.checkpoint import CheckpointError, Snapshot
from irg_rl.model.config import ModelConfig
from irg_rl.prompts import read_prompts, write_prompts
from rewards.endpoint import Reply
from rewards.judge_answer import YES_OR_NO, Grade, RightWord
from rewards.judge_client import JudgeFailure, parse_answer
from rewards.splitting import parse_split
from sft.rows import BrokenRow, decode_row, parse_row
from tests.fuzz.mutations import VALUES, WORDS, mutated, mutated_bytes
from tests.golden import ROOT
from tests.paths import CONFIGS
from tests.rewards.servers import spoken
from tests.sft.material import improving_full, thinking

pytestmark = pytest.mark.fuzz
CHECKPOINT = ROOT / "bagel" / "checkpoint"
ROW = improving_full(0)
INCLUDE = [{"class": "circle", "count": 1}]
PROMPTS = [{"id": "a", "prompt": "a red circle", "metadata": {"tag": "x", "include": INCLUDE}},
           {"prompt": "a dog", "tag": "y", "include": []}]  # fmt: skip
ANSWER = spoken("<think>hm</think> Yes", ("<think>", {"<think>": 0.0}), ("hm", {"hm": -0.1, "Yes": -3.0}),
                ("</think>", {"</think>": 0.0}), (" Yes", {" Yes": -0.2, "ĠNo": -1.7}))  # fmt: skip
TEN = spoken("10", ("1", {"1": -0.3, "9": -1.5, "The": -4.0}), ("0", {"0": -0.1, "\n": -2.5}))
EIGHT = spoken("8/10", ("8", {"8": -0.4, "9": -1.6, "1": -3.0, "10": -3.2}), ("/", {"/": 0.0}), ("10", {"10": 0.0}))
WORD = spoken("Two", ("Two", {"Two": -0.2, "2": -2.0, "Three": -3.0}))
ANSWERS = [(ANSWER, YES_OR_NO), (TEN, Grade()), (EIGHT, Grade()), (WORD, RightWord(("two", "Two", "2")))]
SMOKE = yaml.safe_load((CONFIGS / "shapes-smoke.yaml").read_text())


@given(mutated_bytes(ROW) | mutated_bytes(thinking(1)))
def test_a_row_is_read_or_broken(data):
    try:
        row = parse_row(data)
        assert row
        decode_row(row)
    except BrokenRow as error:
        assert str(error)


@given(st.lists(st.sampled_from(PROMPTS).flatmap(mutated_bytes), max_size=3))
def test_prompts_are_read_or_the_line_is_named(tmp_path, lines):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\n".join(lines))
    try:
        prompts = read_prompts(path)
    except InputError as error:
        assert str(error).startswith(str(path))
        return
    write_prompts(path, prompts)
    assert read_prompts(path) == prompts


@given(st.one_of(*(st.tuples(mutated_bytes(answer), st.just(form)) for answer, form in ANSWERS)))
def test_an_answer_of_a_judge_is_a_score_or_a_failure(answered):
    data, form = answered
    reply = Reply(200, data.decode("utf-8", errors="replace"), None)
    try:
        value = parse_answer(reply, form)
    except JudgeFailure as error:
        assert "the judge" in str(error)
        return
    assert isinstance(value, float) and math.isfinite(value) and 0 <= value <= 1


@given(mutated_bytes(["Is there a cat?", "Is the cat black?"]))
def test_a_split_prompt_is_questions_or_says_why_not(data):
    try:
        questions = parse_split(data.decode("utf-8", errors="replace"), most=4)
    except InputError as error:
        assert str(error)
        return
    assert 1 <= len(questions) <= 4 and all(question.endswith("?") for question in questions)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, Path, dict]:
    """A run with a checkpoint, the path of its manifest, and what stands in it."""
    run = tmp_path_factory.mktemp("run")
    snapshot = Snapshot(3, {"model": {"w": torch.ones(2)}}, {"epoch": 1}, {"seed": 0}, "abc", "data")
    manifest = checkpoint.save(run, snapshot, keep_last=1) / checkpoint.MANIFEST
    return run, manifest, json.loads(manifest.read_text())


@given(data=st.data())
def test_a_manifest_is_read_or_its_checkpoint_is_refused(saved, data):
    run, manifest, content = saved
    manifest.write_bytes(data.draw(mutated_bytes(content)))
    try:
        assert isinstance(checkpoint.load(manifest.parent), Snapshot)
    except CheckpointError as error:
        assert manifest.parent.name in str(error)
    newest, problems = checkpoint.latest(run)
    assert newest is not None or problems


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """A run folder and its files."""
    recipe = load_recipe(CONFIGS / "shapes-smoke.yaml", [f"output_dir={tmp_path_factory.mktemp('runs')}"])
    run = Run.create(recipe)
    for name in ("world", "vae"):
        with run.stage(name) as facts:
            facts["rows"] = 3
    names = ("stages.json", "environment.json", "recipe.yaml")
    return run.folder, {name: (run.folder / name).read_bytes() for name in names}


@given(data=st.data(), name=st.sampled_from(["stages.json", "environment.json", "recipe.yaml"]))
def test_a_run_folder_is_opened_or_called_damaged(begun, data, name):
    folder, files = begun
    content = json.loads(files[name]) if name.endswith("json") else yaml.safe_load(files[name])
    (folder / name).write_bytes(data.draw(mutated_bytes(content)))
    try:
        for stage, entry in Run.open(folder).stages.items():
            assert entry["seconds"] is not None, stage
    except UserError as error:
        assert folder.name in str(error) or name in str(error)
    finally:
        (folder / name).write_bytes(files[name])


@given(mutated(SMOKE) | VALUES)
def test_a_recipe_is_one_or_says_what_is_wrong(tmp_path, value):
    path = tmp_path / "r.yaml"
    path.write_bytes(yaml.safe_dump(value, allow_unicode=True).encode("utf-8", errors="surrogatepass"))
    try:
        recipe = load_recipe(path)
    except UserError as error:
        assert str(path) in str(error)
        return
    assert isinstance(recipe, Recipe)
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(path) == recipe


@given(st.text(max_size=30) | st.tuples(st.sampled_from(["rl.updates", "seed", "rl", "rewards.scorers.0.weight", "a..b",
       "rl.forks", "sft.stage1.sources.9.folder", "world.sft_rows"]), WORDS).map("=".join))  # fmt: skip
def test_an_override_is_applied_or_named(override):
    try:
        assert isinstance(load_recipe(CONFIGS / "shapes-smoke.yaml", [override]), Recipe)
    except UserError as error:
        assert str(error)


@given(data=st.data(), name=st.sampled_from(["config.json", "llm_config.json", "vit_config.json"]))
def test_the_sizes_of_a_model_folder_are_read_or_named(tmp_path, data, name):
    for file in ("config.json", "llm_config.json", "vit_config.json"):
        (tmp_path / file).write_bytes((CHECKPOINT / file).read_bytes())
    (tmp_path / name).write_bytes(data.draw(mutated_bytes(json.loads((CHECKPOINT / name).read_text()))))
    try:
        assert isinstance(ModelConfig.read(tmp_path), ModelConfig)
    except InputError as error:
        assert str(tmp_path) in str(error)
