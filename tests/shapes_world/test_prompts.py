import hashlib
import json
from collections import Counter
from itertools import combinations

import pytest

from irg_rl.prompts import read_prompts, write_prompts
from irg_rl.shapes_world.constraints import TAGS, Relation, Thing, canonical_key, make_metadata, metadata_key
from irg_rl.shapes_world.prompts import HARD, SPLITS, make_prompts, set_name, split_of
from irg_rl.shapes_world.scene import COLORS, SHAPES
from irg_rl.trajectory import Prompt

SIZES = {"train": 4000, "validation": 300, "test": 1000, "hard": 400}
DRAWN = {split: make_prompts(n, split, seed=0) for split, n in SIZES.items()}
HELD_OUT = [split for split in SPLITS if split != "train"]


def tags(prompts: list[Prompt]) -> Counter:
    return Counter(prompt.metadata["tag"] for prompt in prompts)


@pytest.mark.parametrize(("one", "other"), list(combinations(SPLITS, 2)))
def test_no_set_of_constraints_is_in_two_splits(one, other):
    keys = {split: {metadata_key(prompt.metadata) for prompt in DRAWN[split]} for split in (one, other)}
    assert not keys[one] & keys[other]


@pytest.mark.parametrize("split", SPLITS)
def test_a_prompt_belongs_to_the_split_it_was_drawn_for_and_every_task_is_there(split):
    assert {split_of(prompt.metadata) for prompt in DRAWN[split]} == {split}
    assert tags(DRAWN[split]).keys() == ({"scene"} if split == "hard" else set(TAGS))


@pytest.mark.parametrize("split", HELD_OUT)
def test_every_held_out_prompt_has_a_set_of_constraints_of_its_own_and_names_it(split):
    keys = [metadata_key(prompt.metadata) for prompt in DRAWN[split]]
    assert len(set(keys)) == len(keys) == SIZES[split]
    assert [prompt.metadata["set"] for prompt in DRAWN[split]] == [set_name(key) for key in keys]
    assert len({prompt.metadata["set"] for prompt in DRAWN[split]}) == len(keys)


def test_the_name_of_a_set_says_what_it_asks_for():
    things = [(Thing("bar"), 2), (Thing("ring", "red"), 1), (Thing("circle"), 1)]
    key = canonical_key(things, [Relation(1, "below", 2)])
    assert set_name(key) == "1 circle, 1 red ring, 2 bar; circle above red ring"


def test_held_out_tasks_have_equal_parts_as_far_as_they_have_sets():
    """The sets of each task are those that docs/world.md states."""
    assert tags(make_prompts(300, "test", 0)) == {
        "single_object": 1, "two_object": 3, "colors": 7, "position": 12, "counting": 25, "color_attr": 126,
        "scene": 126,
    }  # fmt: skip
    assert tags(make_prompts(300, "validation", 0)) == {
        "single_object": 1, "two_object": 2, "colors": 4, "position": 6, "counting": 13, "color_attr": 63, "scene": 211,
    }  # fmt: skip


@pytest.mark.parametrize("split", HELD_OUT)
def test_the_first_prompts_of_a_long_list_are_those_of_a_short_one(split):
    assert make_prompts(40, split, 0) == DRAWN[split][:40]


def test_hard_prompts_have_three_to_six_constraints_in_equal_parts():
    assert Counter(prompt.metadata["constraints"] for prompt in DRAWN["hard"]) == dict.fromkeys(HARD, 100)
    assert HARD == (3, 4, 5, 6)


@pytest.mark.parametrize(
    ("n", "seed", "mix", "digest"),
    [
        (200, 0, None, "b1abec97e6341e15569c4609e86fb871ac0648885fa2eba459194ac147873b8c"),
        (6000, 0, None, "624bca398051bc25fced8259d10f710265890d09fd15f83082627605e958d863"),
        (600, 11, None, "13c0681c0c517e4f8d8f5e69107766526426a2b72f863e286979add1f4fb7a01"),
        (1500, 1, {"scene": 1.0}, "918e5b9812b881b9633f96c84b39a6a0df1a8d448b71737e15e0e4e5714c0755"),
    ],
)
def test_train_prompts_of_a_seed_never_change_between_releases(tmp_path, n, seed, mix, digest):
    write_prompts(tmp_path / "train.jsonl", make_prompts(n, "train", seed, mix))
    assert hashlib.sha256((tmp_path / "train.jsonl").read_bytes()).hexdigest() == digest


def test_the_split_ignores_order_and_the_side_a_relation_is_said_from():
    ring, bar = Thing("ring", "red"), Thing("bar")
    one = canonical_key([(ring, 1), (bar, 1)], [Relation(1, "left of", 0)])
    other = canonical_key([(bar, 1), (ring, 1)], [Relation(1, "right of", 0)])
    assert one == other
    assert one != canonical_key([(ring, 1), (bar, 1)], [Relation(1, "right of", 0)])
    assert one != canonical_key([(ring, 2), (bar, 1)], [Relation(1, "left of", 0)])


def test_the_split_never_changes_between_releases():
    splits = [split_of(make_metadata("single_object", "", [(Thing(shape), 1)], [])) for shape in SHAPES]
    assert dict(zip(SHAPES, splits)) == {
        "circle": "train",
        "square": "test",
        "triangle": "train",
        "cross": "validation",
        "ring": "train",
        "bar": "train",
    }


def test_train_repeats_small_tasks_to_keep_the_mix():
    found = tags(DRAWN["train"])
    assert found["scene"] == pytest.approx(1000, abs=2) and found["single_object"] == pytest.approx(500, abs=2)


def test_a_mix_says_how_often_each_task_comes_and_needs_enough_sets():
    assert tags(make_prompts(40, "test", 0, {"counting": 1.0, "scene": 3.0})) == {"counting": 10, "scene": 30}
    with pytest.raises(ValueError, match="the test split has only 8 different sets for this mix, not 9"):
        make_prompts(9, "test", 0, {"single_object": 1.0, "colors": 1.0})


def test_scenes_have_two_to_six_constraints_and_at_most_seven_objects():
    drawn = [prompt.metadata for prompt in make_prompts(1500, "train", 1, {"scene": 1.0})]
    assert Counter(item["constraints"] for item in drawn).keys() == {2, 3, 4, 5, 6}
    assert max(sum(entry["count"] for entry in item["include"]) for item in drawn) == 7
    counted = [len(item["include"]) + sum("position" in entry for entry in item["include"]) for item in drawn]
    assert counted == [item["constraints"] for item in drawn]


def test_relations_hold_between_single_things_and_look_back():
    for prompt in DRAWN["train"]:
        include = prompt.metadata["include"]
        for index, entry in enumerate(include):
            if "position" in entry:
                assert entry["position"][1] < index
                assert entry["count"] == include[entry["position"][1]]["count"] == 1


def test_metadata_is_geneval_s():
    metadata = make_metadata("scene", "p", [(Thing("ring", "red"), 2), (Thing("bar"), 1)], [Relation(1, "above", 0)])
    assert metadata["include"] == [
        {"class": "ring", "count": 2, "color": "red"},
        {"class": "bar", "count": 1, "position": ["above", 0]},
    ]
    assert metadata["exclude"] == [
        {"class": "ring", "count": 3, "color": "red"},
        {"class": "bar", "count": 2},
        {"class": "ring", "count": 3},
    ]
    assert metadata["constraints"] == 3


def test_the_sentence_says_what_the_metadata_says():
    for prompt in DRAWN["test"]:
        for entry in prompt.metadata["include"]:
            assert entry["class"] in prompt.text and entry.get("color", "") in prompt.text
            if entry["count"] > 1:
                assert ["two", "three", "four"][entry["count"] - 2] in prompt.text
        named = {color for color in COLORS if color in prompt.text.split()}
        assert named == {entry["color"] for entry in prompt.metadata["include"] if "color" in entry}


def test_the_same_seed_gives_the_same_prompts_and_another_seed_others():
    assert make_prompts(50, "train", 5) == make_prompts(50, "train", 5) != make_prompts(50, "train", 6)


def test_prompts_survive_the_jsonl(tmp_path):
    write_prompts(tmp_path / "p.jsonl", DRAWN["test"])
    assert read_prompts(tmp_path / "p.jsonl") == DRAWN["test"]
    assert json.loads((tmp_path / "p.jsonl").read_text().splitlines()[0]).keys() == {"id", "prompt", "metadata"}


def test_a_users_own_jsonl_needs_no_more_than_prompts(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "a dog"}\n\n{"id": "x", "prompt": "a cat", "metadata": {"tag": "t"}}\n')
    assert read_prompts(path) == [Prompt("1", "a dog"), Prompt("x", "a cat", {"tag": "t"})]


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("{oops", "not JSON"),
        ("[1]", "needs a `prompt`"),
        ('{"prompt": ""}', "needs a `prompt`"),
        ('{"prompt": "a", "metadata": 3}', "`metadata` is 3"),
        ('{"prompt": "a", "id": "same"}', "'same' was used before"),
    ],
)
def test_a_broken_line_is_named_with_its_file(tmp_path, line, complaint):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "fine", "id": "same"}\n' + line + "\n")
    with pytest.raises(ValueError, match=rf"bad.jsonl, line 2: .*{complaint}"):
        read_prompts(path)


def test_an_empty_file_an_unknown_split_and_an_unknown_task_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="empty.jsonl has no prompts"):
        read_prompts(tmp_path / "empty.jsonl")
    with pytest.raises(ValueError, match="unknown split 'tests'.*train, validation, test, hard"):
        make_prompts(1, "tests", 0)
    with pytest.raises(ValueError, match="unknown task 'count'.*counting"):
        make_prompts(1, "test", 0, {"count": 1.0})
