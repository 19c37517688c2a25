"""Types and helper functions for all sections of a recipe (the settings of a run)."""

import difflib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
PathText = Annotated[str, AfterValidator(os.path.expanduser)]
"""Path of a file or folder. `~` is replaced by the home folder, because in `output_dir=~/runs` a shell does not do
this."""


class Section(BaseModel):
    """Base class of all sections of a recipe. A section is a group of settings. Unknown settings, NaN and infinity are
    errors. This check prevents hidden mistakes. For example, a weight of NaN would make every advantage NaN. Clipping
    would then replace each NaN by the largest allowed value, and no error would be raised."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def not_finite(value: Any, where: str = "") -> list[str]:
    """Return the dotted names, such as `extra_body.temperature`, of all values in nested settings that are NaN or
    infinite. `where` is put before the names; callers can leave it empty."""
    if isinstance(value, float):
        return [] if math.isfinite(value) else [where]
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    inside = value.items() if isinstance(value, Mapping) else ()
    return [place for name, inner in inside for place in not_finite(inner, f"{where}.{name}".lstrip("."))]


def dotted(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value), such as ("sampling.shift", 3.0), for every value in nested settings."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def nearest(word: str, known: Sequence[str]) -> str:
    """Return the end of an error message about an unknown word. It names the most similar known word, or all known
    words if none is similar."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
