"""The way out to a terminal: what came from outside is shown as it is, and never obeyed.

A `[/think]` in a text is text and not markup; a control sequence is spelled out instead of sent; a stream that cannot
write a character gets its number. Lines are neither broken nor cut, so that a path can be copied.
"""

import re
from typing import Any

from rich.console import Console, ConsoleDimensions
from rich.text import Text

_SENT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tabulator and line feed, marks that turn the direction of what follows, and halves of
characters, as file names that are no text have them."""
_WIDE = 100_000  # columns where no terminal limits them


def shown(text: str, encoding: str = "utf-8") -> str:
    r"""The text with `\x1b` and its like spelled out, and with characters that the encoding lacks as `\u732b`."""
    visible = _SENT.sub(lambda found: _spelled(found[0]), text.replace("\r\n", "\n"))
    return visible.encode(encoding, errors="backslashreplace").decode(encoding)


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class Terminal(Console):
    """A console for text from anywhere. Style comes with `style=`, never from inside a text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, soft_wrap=True, **options)

    @property
    def size(self) -> ConsoleDimensions:
        """Where nobody looks, tables are as wide as what is in them."""
        found = super().size
        return found if self.is_terminal else ConsoleDimensions(_WIDE, found.height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def render_str(self, text: str, **options: Any) -> Text:
        """Every string, of a line or of a cell, becomes visible text here."""
        options["markup"] = options["emoji"] = False
        return super().render_str(shown(text, self.encoding), **options)
