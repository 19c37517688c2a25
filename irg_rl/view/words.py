"""Words, numbers and addresses as the pages show them."""

import time
from urllib.parse import urlencode

from irg_rl.errors import InputError
from irg_rl.view import charts
from irg_rl.view.evaluated import EvaluatedRow


def sample_address(evaluation: str, row: EvaluatedRow) -> str:
    return "sample?" + urlencode({"evaluation": evaluation, "prompt": row.prompt_id, "sample": row.sample})


def folder_address(folder: str) -> str:
    return "groups?" + urlencode({"folder": folder})


def group_address(folder: str, place: int) -> str:
    return "group?" + urlencode({"folder": folder, "group": place})


def place_words(folder: str) -> str:
    """Return where groups come from, in words: `update 10` for looks/step-000010."""
    name = folder.rsplit("/", 1)[-1]
    digits = name.rpartition("-")[2]
    if not digits.isdecimal():
        return folder
    return f"update {int(digits)}" if name.startswith("step-") else f"{name.rpartition('-')[0]} {int(digits)}"


def turn_words(turn: int, is_text: bool) -> str:
    """Return what a segment is, in words. Turns are counted from 0."""
    if is_text:
        return "think" if turn == 0 else f"reflection {turn}"
    return "first image" if turn == 0 else f"image {turn + 1}"


def shown_number(value: float | None) -> str:
    return "failed" if value is None else charts.shown(value)


def signed(value: float | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def whole(text: str | None, otherwise: int) -> int:
    """Return a whole number of an address. Return `otherwise` if it is missing. Raises InputError if it is something
    else."""
    if not text:
        return otherwise
    if len(text) > 9 or not text.isdecimal():
        raise InputError(f"{text[:40]!r} in the address is no whole number")
    return int(text)


def ago(moment: float) -> str:
    """Return how long ago a moment was, in words. `moment` is in seconds since 1970; 0 means never."""
    if not moment:
        return ""
    seconds = max(0.0, time.time() - moment)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f}\N{NARROW NO-BREAK SPACE}{unit} ago"
    return "now"
