"""Options of something that a recipe names, as the typed section that the thing itself declares."""

from typing import Any

from pydantic import ValidationError

from irg_rl.config.explain import ExplainedError, explain
from irg_rl.sections import Section


def options_of(kind: type[Section], given: Any, setting: str) -> Section:
    """`given` at `setting` (such as rl.options) as a section of its kind, defaults filled in; null gives the defaults.

    ExplainedError names every mistake by its setting, and the nearest known one.
    """
    if isinstance(given, Section):
        given = given.model_dump()
    try:
        return kind.model_validate({} if given is None else given)
    except ValidationError as error:
        raise ExplainedError([line for one in error.errors() for line in explain(one, kind, setting)]) from error
