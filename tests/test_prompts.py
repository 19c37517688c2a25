"""Prompt files as people make them."""

import json
from collections import Counter

import pytest

from irg_rl.errors import InputError
from irg_rl.prompts import MOST_CHARACTERS, PromptOrder, fits, read_prompts, write_prompts
from irg_rl.trajectory import Prompt


def read(tmp_path, data: str | bytes, **options) -> list[Prompt]:
    path = tmp_path / "own.jsonl"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_prompts(path, **options)


def test_genevals_own_layout_is_read(tmp_path):
    line = {"tag": "counting", "include": [{"class": "bus", "count": 2}], "prompt": "a photo of two buses"}
    (prompt,) = read(tmp_path, json.dumps(line))
    assert prompt.metadata == {"tag": "counting", "include": [{"class": "bus", "count": 2}]}


def test_a_mark_of_byte_order_and_line_ends_of_other_systems_are_read_over(tmp_path):
    data = b'\xef\xbb\xbf{"prompt": "a dog"}\r\n{"prompt": "a cat"}\r\n'
    assert [prompt.text for prompt in read(tmp_path, data)] == ["a dog", "a cat"]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"])
def test_a_character_that_only_python_takes_for_a_line_end_is_legal_inside_a_line(tmp_path, character):
    """It cut the line in two, and neither half was JSON."""
    (prompt,) = read(tmp_path, json.dumps({"prompt": f"a{character}dog"}, ensure_ascii=False))
    assert prompt.text == f"a{character}dog"


@pytest.mark.parametrize(("line", "says"), [
    ('{"prompt": "half \\ud83d"}', "half a character"),
    ('{"prompt": "nul \\u0000"}', "control character U\\+0000"),
    ('{"prompt": "\\u001b[31mred"}', "control character U\\+001B"),
    ('{"prompt": "   "}', "non-empty"),
    ('{"prompt": 7}', "non-empty"),
    ('{"prompt": "a", "id": {"a": 1}}', "`id` is"),
    ('{"prompt": "a", "id": true}', "`id` is True"),
    ('{"prompt": "a", "id": "\\ud800"}', "`id`: half a character"),
    ('{"prompt": "a", "metadata": {"x": NaN}}', "NaN"),
    ('{"prompt": "a", "x": ' + "9" * 5000 + "}", "5000 digits"),
    ("[" * 100_000, "nested deeper"),
    (json.dumps({"prompt": "x" * (MOST_CHARACTERS + 1)}), "20001 characters"),
])  # fmt: skip
def test_what_no_model_can_be_asked_is_named_with_file_and_line(tmp_path, line, says):
    with pytest.raises(InputError, match=f"own.jsonl, line 2.*{says}"):
        read(tmp_path, '{"prompt": "fine"}\n' + line)


def test_a_long_prompt_and_one_in_any_script_are_taken(tmp_path):
    texts = ["x" * MOST_CHARACTERS, "ein Hünd 犬 😀 \u202e", "a\ttab"]
    write_prompts(tmp_path / "p.jsonl", [Prompt(str(i), text) for i, text in enumerate(texts)])
    assert [prompt.text for prompt in read_prompts(tmp_path / "p.jsonl")] == texts


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path):
    with pytest.raises(InputError, match="own.jsonl, line 2: byte 0xe9 is not UTF-8"):
        read(tmp_path, b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n')


def test_null_is_as_good_as_absent(tmp_path):
    assert read(tmp_path, '{"prompt": "a", "id": null, "metadata": null}') == [Prompt("1", "a")]


def test_what_a_check_finds_is_named_with_file_and_line(tmp_path):
    def refuse(prompt):
        raise ValueError(f"{prompt.text} is not wanted")

    with pytest.raises(InputError, match="own.jsonl, line 1: a is not wanted"):
        read(tmp_path, '{"prompt": "a"}', check=refuse)


TAGGED = [Prompt(str(number), f"prompt {number}", {"tag": "scene" if number < 10 else "color"}) for number in range(40)]


def test_every_prompt_is_used_once_in_an_epoch_and_each_epoch_has_an_order_of_its_own():
    order = PromptOrder(TAGGED, seed=3)
    first, second = ([order[epoch * 40 + place].id for place in range(40)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == sorted(prompt.id for prompt in TAGGED) and first != second
    assert [PromptOrder(TAGGED, seed=3)[place].id for place in range(40)] == first


@pytest.mark.parametrize("mix", [{}, {"scene": 3.0, "color": 0.5}])
def test_another_seed_gives_another_order(mix):
    """Fails where the order of the prompts does not depend on the seed."""
    one, other = ([PromptOrder(TAGGED, seed, mix)[place].id for place in range(40)] for seed in (3, 4))
    assert one != other


def test_prompts_with_a_larger_weight_are_used_more_often():
    order = PromptOrder(TAGGED, seed=3, mix={"scene": 3.0, "color": 0.5})
    used = Counter(order[group].id for group in range(40 * 50))
    share = 40 / (10 * 3.0 + 30 * 0.5)
    for prompt in TAGGED:
        wanted = 50 * share * (3.0 if prompt.metadata["tag"] == "scene" else 0.5)
        assert abs(used[prompt.id] - wanted) < 0.2 * wanted
    assert sum(used.values()) == 2000


def test_a_weight_of_0_leaves_prompts_out_and_prompts_without_a_weight_have_1():
    order = PromptOrder(TAGGED, seed=0, mix={"scene": 0.0})
    assert {order[group].metadata["tag"] for group in range(200)} == {"color"}


def test_a_tag_that_is_not_a_text_counts_as_none():
    odd = [Prompt("a", "one", {"tag": ["scene"]}), Prompt("b", "two", {"tag": "scene"})]
    assert {PromptOrder(odd, 0)[group].id for group in range(2)} == {"a", "b"}
    assert {PromptOrder(odd, 0, {"scene": 0.0})[group].id for group in range(8)} == {"a"}


def test_a_tag_that_no_prompt_has_and_weights_that_leave_no_prompt_are_refused():
    with pytest.raises(InputError, match="no prompt has the tag 'scenes'; the prompts have color, scene"):
        PromptOrder(TAGGED, 0, {"scenes": 2.0})
    with pytest.raises(InputError, match="the weights of all prompts are 0"):
        PromptOrder(TAGGED, 0, {"scene": 0.0, "color": 0.0})


SIZED = [Prompt(str(n), f"prompt {n}", {"tag": "scene", "constraints": 2 + n % 3}) for n in range(30)]


def test_a_kind_with_a_number_of_constraints_goes_before_its_tag():
    order = PromptOrder(SIZED, seed=0, mix={"scene": 0.0, "scene/2": 1.0, "scene/3": 3.0})
    used = Counter(order[group].metadata["constraints"] for group in range(3000))
    assert set(used) == {2, 3} and used[3] == pytest.approx(3 * used[2], rel=0.02)


def test_a_kind_that_no_prompt_has_is_refused_with_those_of_its_tag():
    with pytest.raises(InputError, match="tag .scene/9.; the prompts have scene, scene/2, scene/3"):
        PromptOrder(SIZED, 0, {"scene/9": 2.0})


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({}, True),
        ({"tag": "counting"}, True),
        ({"tag": "colors"}, False),
        ({"tag": ["colors", "counting"]}, True),
        ({"tag": []}, False),
        ({"tag": "counting", "constraints": 3}, True),
        ({"tag": "counting", "constraints": 2}, False),
        ({"level": None}, False),
    ],
)
def test_a_prompt_fits_if_all_fields_have_one_of_the_values(when, expected):
    assert fits(Prompt("p", "two cats", {"tag": "counting", "constraints": 3}), when) is expected
