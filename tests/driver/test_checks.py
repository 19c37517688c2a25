"""What a recipe asks of its task, said before anything starts."""

import re

import pytest

from irg_rl.config import load_recipe, parse_recipe
from irg_rl.driver.checks import scorer_problems, task_problems
from irg_rl.driver.evaluator import thresholds_of
from irg_rl.driver.run_folder import Run
from irg_rl.task import Thresholds
from tests.learner.world import CONFIG
from tests.paths import CONFIGS

OWN = {
    "name": "mine", "model": CONFIG.model_dump(mode="json"), "sampling": {"image_size": [16, 16]},
    "task": "prompts", "task_options": {"file": "prompts.jsonl"}, "init_from": "folder",
}  # fmt: skip
HTTP = {"name": "judge", "kind": "judge", "base_url": "http://127.0.0.1:9/v1"}


def of_smoke(*overrides: str) -> list[str]:
    return task_problems(load_recipe(CONFIGS / "shapes-smoke.yaml", overrides))


def of_own(**sections) -> list[str]:
    return task_problems(parse_recipe(OWN | sections))


@pytest.mark.parametrize(("override", "says"), [
    ("prompts=33", "evaluation.prompts 33 is more than task_options.test_prompts 32"),
    ("sft.stage1.sources.0.folder=initial_ful", "sft.stage1.sources.0.folder 'initial_ful' is not made by the task"),
    ("task_options.own_images=0", "'own/improving_full_learning' is not made by the task at that stage"),
    ("task_options.deep_share=0.2", "task_options.deep_share 0.2 makes rows with several refinements, of which "
     "sampling.history last samples none: set sampling.history=full or leave it out"),
    ("task_options.prompt_mix={colurs: 1}", "task_options.prompt_mix.colurs: unknown; did you mean colors?"),
    ("sampling.stop_phrase=all is well", "sampling.stop_phrase 'all is well': no text of the task"),
    ("sampling.image_size=[24, 32]", "pictures of the shapes world are 24 x 24"),
])  # fmt: skip
def test_what_the_shapes_world_does_not_make_is_named(override, says):
    assert of_smoke() == []
    assert any(says in problem for problem in of_smoke(override))


@pytest.mark.parametrize(("sections", "says"), [
    ({"evaluation": {"split": "validation"}}, "evaluation.split validation: the task has no prompts of this split"),
    ({"evaluation": {"split": "train"}}, "evaluation.split 'train': choose one of validation, test"),
    ({"rl": {"prompt_mix": {"scnee": 3}}}, "rl.prompt_mix: no prompt has the tag 'scnee'; the prompts have scene"),
])  # fmt: skip
def test_a_split_without_prompts_and_a_tag_that_no_prompt_has_are_named_before_sft(tmp_path, sections, says):
    line = '{"prompt": "a red circle", "tag": "scene"}\n'
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(line.replace("a red", f"a {split}"))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    rewards = {"rewards": {"scorers": [HTTP]}}
    assert not any(says in problem for problem in of_own(task_options=files, **rewards))
    assert any(says in problem for problem in of_own(task_options=files, **rewards, **sections))


def test_rows_of_ones_own_may_end_with_any_phrase():
    others = "sft.data=/rows", "task_options.own_images=0"
    assert not any("stop_phrase" in problem for problem in of_smoke("sampling.stop_phrase=all is well", *others))
    assert of_smoke("sampling.stop_phrase=Nothing to Change") == []


def test_a_recipe_with_a_model_rows_and_a_judge_needs_no_world():
    sft = {"data": "rows", "stage1": {"steps": 1, "sources": [{"folder": "mode"}]}}
    by_judge = {"file": "prompts.jsonl", "verdict": {"scorer": "judge", "threshold": 0.5}}
    assert of_own(sft=sft, rl={}, rewards={"scorers": [HTTP]}, task_options=by_judge) == []


@pytest.mark.parametrize(("sections", "says"), [
    ({"init_from": None}, "init_from: the task prompts has no pictures to train a model from scratch on"),
    ({"sft": {"stage1": {"steps": 1, "sources": [{"folder": "mode"}]}}}, "sft.data: the task prompts makes no rows"),
    ({"rewards": {"scorers": [{"name": "c", "kind": "clip"}]}}, "c: path: the task prompts can train no small scorers"),
    ({"rewards": {"scorers": [{"name": "j", "kind": "judge"}]}}, "j: base_url: the task prompts has no embedded judge"),
    ({"rewards": {"scorers": [{"name": "v", "kind": "verifier"}]}}, "v: the task prompts has no checker of its own"),
    ({"gate": {"margin": 0.1}}, "gate: the task prompts has no thresholds of its own"),
    ({"task_options": {"file": "f", "verdict": {"scorer": "jugde"}}, "rewards": {"scorers": [HTTP]}},
     "task_options.verdict.scorer: no scorer 'jugde' in rewards.scorers; did you mean judge?"),
    ({"task_options": {"test": "f"}, "rl": {}, "rewards": {"scorers": [HTTP]}}, "task_options.train: RL samples"),
])  # fmt: skip
def test_what_a_task_that_is_no_world_lacks_is_named(sections, says):
    assert any(says in problem for problem in of_own(**sections))


def test_a_threshold_of_the_recipe_replaces_that_of_the_task(tmp_path):
    """Fails where the thresholds of the recipe are ignored."""
    usual = thresholds_of(Run(tmp_path, load_recipe(CONFIGS / "shapes-smoke.yaml")))
    assert usual == Thresholds(first_accuracy=0.40, damage=0.08, margin=0.15)
    own = ["gate.first_accuracy=0.7", "gate.damage=0.02", "gate.margin=0.3"]
    assert thresholds_of(Run(tmp_path, load_recipe(CONFIGS / "shapes-smoke.yaml", own))) == Thresholds(0.7, 0.02, 0.3)
    one = thresholds_of(Run(tmp_path, load_recipe(CONFIGS / "shapes-smoke.yaml", own[1:2])))
    assert one == Thresholds(0.40, 0.02, 0.15)


@pytest.mark.parametrize(("gate", "found"), [
    ({}, None),
    ({"first_accuracy": 0.7, "damage": 0.02, "margin": 0.3}, Thresholds(0.7, 0.02, 0.3)),
])  # fmt: skip
def test_without_thresholds_of_the_task_there_is_a_gate_only_if_the_recipe_gives_all(tmp_path, gate, found):
    assert thresholds_of(Run(tmp_path, parse_recipe(OWN | {"gate": gate}))) == found


VERIFIER = "{name: v, kind: verifier, when: {tag: %s}}"


def test_prompts_that_no_scorer_is_used_for_are_named_before_anything_runs():
    one = "rewards.scorers=[" + VERIFIER % "counting" + "]"
    [problem] = of_smoke(one, "rl.credit=turn")
    assert "no scorer of images is used for prompt" in problem and "'tag'" in problem
    all_tags = "[counting, colors, position, single_object, two_object, color_attr, scene]"
    assert of_smoke("rewards.scorers=[" + VERIFIER % all_tags + "]", "rl.credit=turn") == []


@pytest.mark.parametrize(("scorer", "says"), [
    ("kind: ocr", "x: prompt '.*' asks for no text, neither in its metadata field 'text' nor in quotes"),
    ("kind: ocr, options: {field: tag}", None),  # the shapes world has a tag for every prompt
    ("kind: ocr, when: {tag: none}", None),
    ("kind: geneval2, base_url: 'http://127.0.0.1:9/v1'", "x: prompt '.*' has no metadata field 'vqa_list'"),
])  # fmt: skip
def test_a_prompt_that_a_scorer_finds_nothing_to_score_in_is_named_before_anything_runs(scorer, says):
    """`check` tried one prompt alone; the others failed in RL, after SFT."""
    problems = of_smoke(f"rewards.scorers=[{{name: v, kind: verifier}}, {{name: x, {scorer}}}]", "rl.credit=turn")
    assert len(problems) == (says is not None) and all(re.search(f"rewards.scorers: {says}", p) for p in problems)


@pytest.mark.parametrize(
    ("scorer", "says"),
    [
        ("kind: form, of: reflection, options: {pattern: '('}", "the pattern '\\(' is not a regular expression"),
        ("kind: length, of: reflection", "'x' needs the option 'most'"),
        ("kind: length, of: reflection, options: {most: 3, least: 9}", "least 9 is above most 3"),
        ("kind: 'tests.rewards.functions:shades'", "does not score of: image"),
    ],
)
def test_options_of_quick_scorers_are_tried(scorer, says):
    scorers = f"rewards.scorers=[{{name: v, kind: verifier}}, {{name: x, held_out: true, {scorer}}}]"
    problems = scorer_problems(load_recipe(CONFIGS / "shapes-smoke.yaml", [scorers]))
    assert len(problems) == 1 and re.search(says, problems[0])
