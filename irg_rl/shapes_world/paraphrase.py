"""The same reflection in other words: lists in another order, which says the same and is as long."""

import re

from irg_rl.shapes_world.teacher import parse_reflection

_LISTS = re.compile(r"(?P<opening>i see|also) (?P<items>[^.]+) \.")


def paraphrase(text: str) -> str | None:
    """A reflection whose lists of what is seen are turned round; None when there is nothing to turn round, or the text
    is not in the teacher's grammar."""
    turned = _LISTS.sub(
        lambda found: f"{found['opening']} {' , '.join(reversed(found['items'].split(' , ')))} .", text
    )
    before, after = parse_reflection(text), parse_reflection(turned)
    return turned if turned != text and before is not None and before == after else None
