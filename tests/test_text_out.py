"""What comes from outside is shown on a terminal, and never obeyed."""

import io

import pytest
from rich.table import Table

from irg_rl.text_out import Terminal, shown


def printed(*things, encoding="utf-8", **options) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    terminal = Terminal(file=stream, **options)
    for thing in things:
        terminal.print(thing)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize(
    "text", ["a [/think] b", "[open]", "[old] x", "[red]a[/red]", "[link=http://a]b", ":smile:", "\\[a]"]
)
def test_nothing_from_outside_is_markup(text):
    """[/think] was a traceback, [open] and [old] vanished."""
    table = Table("what", title=text)
    table.add_row(text)
    assert printed(text) == f"{text}\n"
    assert printed(table).count(text) == 2


@pytest.mark.parametrize(("text", "seen"), [
    ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
    ("back\x08\x7f\x9bspace\r", "back\\x08\\x7f\\x9bspace\\x0d"),
    ("\u202etxt.exe", "\\u202etxt.exe"),
    ("name\udcff", "name\\udcff"),
    ("two\nlines\tand a tab\r\n", "two\nlines\tand a tab\n"),
    ("犬 é 😀", "犬 é 😀"),
])  # fmt: skip
def test_control_sequences_are_shown_and_not_sent(text, seen):
    assert shown(text) == seen
    table = Table("what")
    table.add_row(text)
    assert "\x1b" not in printed(text, table) and "\x9b" not in printed(text, table)


def test_a_terminal_of_ascii_gets_ascii():
    table = Table("what")
    table.add_row("犬 é")
    assert printed("犬 é", table, encoding="ascii").isascii()
    assert "\\u72ac \\xe9" in printed(table, encoding="ascii")


def test_a_path_is_neither_broken_nor_cut_where_nobody_looks():
    path = "/a/" + "very-long-name/" * 40
    table = Table("run")
    table.add_row(path)
    assert path in printed(path) and path in printed(table)


def test_a_path_is_not_broken_on_a_narrow_terminal():
    path = "/a/" + "very-long-name/" * 40
    assert path in printed(path, force_terminal=True, width=40)
