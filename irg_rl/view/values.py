"""Reads single values of files that may be damaged."""

import math
from typing import Any


def section(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a section of nested settings, or an empty dict if it is missing or something else."""
    found: Any = settings
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def number(value: Any) -> float | None:
    """Return a number from a file as a float. Return None if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
