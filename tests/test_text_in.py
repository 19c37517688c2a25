"""Text and JSON from outside."""

import pytest

from irg_rl.errors import InputError
from irg_rl.text_in import parse_json, read_json, read_lines, read_text, require_text


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfhello")
    assert read_text(tmp_path / "a") == "hello"


def test_only_a_line_feed_ends_a_line(tmp_path):
    (tmp_path / "a").write_text("one\r\n\r\ntwo\u2028still\x85two\n", encoding="utf-8", newline="")
    lines = list(read_lines(tmp_path / "a"))
    assert [line for _, line in lines] == ["one", "two\u2028still\x85two"]
    assert [place for place, _ in lines] == [f"{tmp_path / 'a'}, line 1", f"{tmp_path / 'a'}, line 3"]


def test_a_byte_that_is_not_utf8_is_named_with_its_line(tmp_path):
    (tmp_path / "a").write_bytes(b"one\ntwo\xff")
    with pytest.raises(InputError, match="a, line 2: byte 0xff is not UTF-8"):
        read_text(tmp_path / "a")


def test_utf16_is_called_by_its_name(tmp_path):
    (tmp_path / "a").write_bytes("hello".encode("utf-16"))
    with pytest.raises(InputError, match="UTF-16"):
        read_text(tmp_path / "a")


def test_a_file_that_is_missing_a_folder_or_too_large_is_an_input_error(tmp_path):
    (tmp_path / "a").write_text("hello")
    with pytest.raises(InputError, match="does not exist"):
        read_text(tmp_path / "b")
    with pytest.raises(InputError, match="cannot be read"):
        read_text(tmp_path)
    with pytest.raises(InputError, match="has 5 bytes, at most 4"):
        read_text(tmp_path / "a", most_bytes=4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested deeper"),
        ("[" * 200 + "]" * 200, "nested deeper"),
        ("9" * 5000, "5000 digits"),
        ("-" + "9" * 301, "301 digits"),
        ("NaN", "NaN"),
        ("[1e999]", "infinite"),
        ('{"a":', "not JSON .* at character 6"),
        (b'"\xff"', "not UTF-8"),
    ],
)
def test_json_that_crashes_parsers_is_refused_in_words(text, says):
    with pytest.raises(InputError, match=f"^here: .*{says}"):
        parse_json(text, "here")


def test_json_of_several_lines_is_named_with_its_line(tmp_path):
    (tmp_path / "a").write_text('{\n"a": 1,\n  b\n}')
    with pytest.raises(InputError, match=r"a: not JSON \(.* at line 3, character 3\)"):
        read_json(tmp_path / "a")


def test_plain_json_is_read_as_it_is(tmp_path):
    (tmp_path / "a").write_text('{"a": [1, 2.5, "x", null, true]}')
    assert read_json(tmp_path / "a") == {"a": [1, 2.5, "x", None, True]}
    assert parse_json("[-Infinity]", "here", finite=False) == [float("-inf")]


@pytest.mark.parametrize("text", ["nul\0", "bell\x07", "\x1b[31m", "half\ud800", "\x9b31m", "\x7f"])
def test_what_no_model_can_read_is_named_with_its_place(text):
    with pytest.raises(InputError, match="^there: .* at character"):
        require_text(text, "there", control=False)


def test_control_characters_are_refused_only_where_they_are_not_wanted():
    assert require_text("nul\0", "there") == "nul\0"
    with pytest.raises(InputError, match=r"half a character \(lone surrogate U\+D800\) at character 3"):
        require_text("ab\ud800", "there")


@pytest.mark.parametrize("text", ["", "tab\t line\r\n", "next\x85line", "\u2028", "😀é", "\u202e"])
def test_all_other_text_is_taken(text):
    assert require_text(text, "there", control=False) == text
