import json
from collections import Counter

import pytest

from irg_rl.prompts import read_prompts, write_prompts
from irg_rl.shapes_world.constraints import TAGS, Relation, Thing, canonical_key, make_metadata, metadata_key
from irg_rl.shapes_world.prompts import SPLITS, make_prompts, split_of
from irg_rl.shapes_world.scene import COLORS, SHAPES
from irg_rl.trajectory import Prompt

DRAWN = {split: make_prompts(n, split, seed=0) for split, n in [("train", 4000), ("validation", 300), ("test", 1000)]}


def test_no_set_of_constraints_is_in_two_splits():
    keys = {split: {metadata_key(prompt.metadata) for prompt in prompts} for split, prompts in DRAWN.items()}
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["validation"]
    assert not keys["validation"] & keys["test"]


@pytest.mark.parametrize("split", SPLITS)
def test_a_prompt_belongs_to_the_split_it_was_drawn_for_and_every_task_is_there(split):
    assert {split_of(prompt.metadata) for prompt in DRAWN[split]} == {split}
    assert {prompt.metadata["tag"] for prompt in DRAWN[split]} == set(TAGS)


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


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_sentences_never_repeat(split):
    assert max(Counter(prompt.text for prompt in DRAWN[split]).values()) == 1


def test_every_held_out_set_is_used_once_before_any_gets_a_second_phrasing():
    singles = [metadata_key(p.metadata) for p in make_prompts(7, "test", 3, {"colors": 1.0})]
    assert len(set(singles)) == 7


def test_train_repeats_small_tasks_to_keep_the_mix():
    tags = Counter(prompt.metadata["tag"] for prompt in DRAWN["train"])
    assert tags["scene"] == pytest.approx(1000, abs=2) and tags["single_object"] == pytest.approx(500, abs=2)


def test_a_held_out_task_that_is_used_up_leaves_its_place_to_the_others():
    tags = Counter(prompt.metadata["tag"] for prompt in DRAWN["test"])
    assert tags["single_object"] < 20 and sum(tags.values()) == 1000
    with pytest.raises(ValueError, match="the test split has only .* different prompts for this mix, not 500"):
        make_prompts(500, "test", 0, {"single_object": 1.0})


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
    with pytest.raises(ValueError, match="unknown split 'tests'.*train, validation, test"):
        make_prompts(1, "tests", 0)
    with pytest.raises(ValueError, match="unknown task 'count'.*counting"):
        make_prompts(1, "test", 0, {"count": 1.0})
