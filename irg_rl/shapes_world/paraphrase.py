"""Paraphrases a reflection (the model's text about the errors of its picture) by changing the order of its lists. The
meaning and the length of the text stay the same."""

import re

from irg_rl.shapes_world.teacher import parse_reflection

_LISTS = re.compile(r"(?P<opening>i see|also) (?P<items>[^.]+) \.")


def paraphrase(text: str) -> str | None:
    """Return a reflection in other words. `text` is the reflection, a text about the errors of a picture. It contains
    lists of objects. In the result, the order of each list is reversed. Return None if the result equals `text`. Also
    return None if `text` does not follow the grammar of the teacher, the program that writes reflections for
    training."""
    turned = _LISTS.sub(
        lambda found: f"{found['opening']} {' , '.join(reversed(found['items'].split(' , ')))} .", text
    )
    before, after = parse_reflection(text), parse_reflection(turned)
    return turned if turned != text and before is not None and before == after else None
