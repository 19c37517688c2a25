"""Find the task that a recipe names, and check its options. A task gives the prompts, and can decide whether an image
fits its prompt. Each task declares its own options."""

from typing import Any

from irg_rl.config.options import options_of
from irg_rl.imports import import_named
from irg_rl.sections import Section

TASKS = {
    "shapes_world": "irg_rl.shapes_world.task:ShapesWorld",
    "prompts": "irg_rl.tasks.prompts:OwnPrompts",
}
"""Short name of a task that comes with the program -> its import path. Other tasks are named as package.module:Class.
"""


def task_class(name: str) -> Any:
    """Return the class of a task (a subclass of irg_rl.task.Task). Raises InputError if the name is unknown or cannot
    be imported."""
    return import_named(name, TASKS, "task")


def task_settings(name: str, options: Any) -> Section:
    """Return the task options of a recipe, validated as the `settings_type` of the task. Raises ExplainedError, which
    names every mistake."""
    return options_of(task_class(name).settings_type, options, "task_options")
