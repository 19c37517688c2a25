"""Prints text on a terminal. Text that comes from outside the program is shown literally and never interpreted.

For example, `[/think]` in a text is printed as it is, and not read as markup. Two kinds of characters are printed as
their codes: control characters, and characters that the terminal's encoding does not have. Long lines are not broken or
cut, so that a path can be copied.
"""

import re
from typing import Any

from rich.console import Console, ConsoleDimensions
from rich.text import Text

_SENT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Pattern for characters that are printed as codes. These are control characters except tab and line feed, characters
that change the direction of text, and lone surrogates (halves of a character), which occur in names of files that are
not valid text."""
_WIDE = 100_000  # number of columns if there is no terminal


def shown(text: str, encoding: str = "utf-8") -> str:
    r"""Return the text in a form that is safe to print. A control character is replaced by a code like `\x1b`. A
    character that the encoding does not have is replaced by a code like `\u732b`."""
    visible = _SENT.sub(lambda found: _spelled(found[0]), text.replace("\r\n", "\n"))
    return visible.encode(encoding, errors="backslashreplace").decode(encoding)


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class Terminal(Console):
    """A console of the package rich that prints text from outside safely. The style of the output depends only on the
    argument `style=`, never on the text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, soft_wrap=True, **options)

    @property
    def size(self) -> ConsoleDimensions:
        """Return the size of the console in characters. If the output is not a terminal, return a very large width, so
        that no table is made narrower than its content."""
        found = super().size
        return found if self.is_terminal else ConsoleDimensions(_WIDE, found.height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string for printing, with control characters shown as codes. rich calls this method for every
        string, in lines and in table cells."""
        options["markup"] = options["emoji"] = False
        return super().render_str(shown(text, self.encoding), **options)
