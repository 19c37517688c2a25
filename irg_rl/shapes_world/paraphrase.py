"""Paraphrases a reflection: its lists get another order. Meaning and length stay the same."""

import re

from irg_rl.shapes_world.teacher import parse_reflection

_LISTS = re.compile(r"(?P<opening>i see|also) (?P<items>[^.]+) \.")


def paraphrase(text: str) -> str | None:
    """The reflection with its lists of seen objects in reverse order. None if there is nothing to reverse, or if the
    text is not in the teacher's grammar."""
    turned = _LISTS.sub(
        lambda found: f"{found['opening']} {' , '.join(reversed(found['items'].split(' , ')))} .", text
    )
    before, after = parse_reflection(text), parse_reflection(turned)
    return turned if turned != text and before is not None and before == after else None
