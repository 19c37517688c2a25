"""Finds the task that a recipe names, and checks its options. Each task declares its own options."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from irg_rl.config.explain import ExplainedError, explain
from irg_rl.imports import import_named
from irg_rl.sections import Section

TASKS = {
    "shapes_world": "irg_rl.shapes_world.task:ShapesWorld",
    "prompts": "irg_rl.tasks.prompts:OwnPrompts",
}
"""Short names of the tasks that come with the program. Any other task is named as package.module:Class."""


def task_class(name: str) -> Any:
    """The class of a task (irg_rl.task.Task). InputError if the name is unknown or cannot be imported."""
    return import_named(name, TASKS, "task")


def task_settings(name: str, options: Mapping[str, Any] | Section) -> Section:
    """Options of a recipe, validated as the `settings_type` of the task. ExplainedError names every mistake."""
    kind = task_class(name).settings_type
    if isinstance(options, Section):
        options = options.model_dump()
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        raise ExplainedError([line for one in error.errors() for line in explain(one, kind, "task_options")]) from error
