"""Check the options that a recipe gives to an algorithm, a credit scheme or a task. The class of the algorithm, scheme
or task declares its options as a section. A section is a pydantic class with one field per setting."""

from typing import Any

from pydantic import ValidationError

from irg_rl.config.explain import ExplainedError, explain
from irg_rl.sections import Section


def options_of(kind: type[Section], given: Any, setting: str) -> Section:
    """Check the options in `given` and return them as an object of the settings class `kind`. Options that are not
    given get their defaults. If `given` is None (null in the recipe), all options get their defaults. `setting` is the
    name of these options in the recipe, such as rl.options.

    Raises ExplainedError if there are mistakes. The error has one line per mistake. Each line names the setting. If the
    setting is unknown, the line suggests a known one.
    """
    if isinstance(given, Section):
        given = given.model_dump()
    try:
        return kind.model_validate({} if given is None else given)
    except ValidationError as error:
        raise ExplainedError([line for one in error.errors() for line in explain(one, kind, setting)]) from error
