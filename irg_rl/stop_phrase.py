"""Says whether a text says a stop phrase, such as "nothing to change"."""

import re

_CLOSING = r"""(?:[^\S\n\r]|["'”’»›)\]}*_`~]|<[^<>\n\r]{0,40}>)*"""
"""What may stand between a phrase and the end of its sentence: spaces, closing quotes and brackets, and markup."""
_END = r"(?:\.(?!\.)|[!。！\n\r\x85\u2028\u2029]|$)"


def says(phrase: str, text: str) -> bool:
    """Return whether `text` says `phrase`: it has the phrase, in upper or lower case, at the end of a sentence. After
    the phrase stands a full stop, `!`, a line break or the end of the text, but neither `?` nor `...`. Closing quotes,
    brackets and markup may come before it. A phrase whose last character is no letter or digit, such as `<stop>`, may
    stand anywhere.

    >>> says("nothing to change", "All is there: **Nothing to change**.")
    True
    >>> says("nothing to change", "Nothing to change in the sky, but the dog must be red.")
    False
    """
    end = _CLOSING + _END if phrase[-1:].isalnum() else ""
    return re.search(re.escape(phrase.lower()) + end, text.lower()) is not None
