"""Paraphrases a reflection by changing the order of its lists. Its meaning and its length stay the same."""

import re

from irg_rl.shapes_world.teacher import parse_reflection

_LISTS = re.compile(r"(?P<opening>i see|also) (?P<items>[^.]+) \.")


def paraphrase(text: str) -> str | None:
    """Return the reflection with its lists of seen objects in reverse order. Return None if this changes nothing, or if
    the text does not follow the teacher's grammar."""
    turned = _LISTS.sub(
        lambda found: f"{found['opening']} {' , '.join(reversed(found['items'].split(' , ')))} .", text
    )
    before, after = parse_reflection(text), parse_reflection(turned)
    return turned if turned != text and before is not None and before == after else None
