"""Options of something that a recipe names, such as an algorithm. Its class declares its own options, as a section
whose settings have types."""

from typing import Any

from pydantic import ValidationError

from irg_rl.config.explain import ExplainedError, explain
from irg_rl.sections import Section


def options_of(kind: type[Section], given: Any, setting: str) -> Section:
    """Return the options `given` as a section of class `kind`, with the defaults filled in. null gives the defaults.
    `setting` is the place of the options in the recipe, such as rl.options.

    Raises ExplainedError, which names the setting of every mistake and the nearest known setting.
    """
    if isinstance(given, Section):
        given = given.model_dump()
    try:
        return kind.model_validate({} if given is None else given)
    except ValidationError as error:
        raise ExplainedError([line for one in error.errors() for line in explain(one, kind, setting)]) from error
