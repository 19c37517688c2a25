"""Makes scorers from functions. A recipe names a function by its import path, as `kind: my.module:function`.

The names of the first parameters say what a function scores. All other parameters are options.

| first parameters | `of` in the recipe |
|---|---|
| images, prompts | image |
| images, prompts, texts | reflection |
| before, texts, after, prompts | edit |
| images, prompt | group |
| those of a reward function of trl | reflection (see rewards/trl_functions.py) |

A function returns one number per image or reflection, and None where it failed. Single statements (`of: statement`) are
scored by classes alone. An exception is a bug of the function.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt
from rewards.base import Image, Score, Scorer, require_pairs
from rewards.trl_functions import IDS, TEXTS, TrlRewardScorer

PARAMETERS = {
    "image": ("images", "prompts"),
    "reflection": ("images", "prompts", "texts"),
    "edit": ("before", "texts", "after", "prompts"),
    "group": ("images", "prompt"),
}
"""The parameters with which a function of each form begins."""


class FunctionScorer:
    """What all scorers in this module share. `options` are arguments for the function by name."""

    def __init__(self, name: str, function: Callable[..., Sequence[Score]], options: Mapping[str, Any]) -> None:
        self.name, self.function, self.options = name, function, options
        self.last_error = ""

    def check(self) -> None:
        """Do nothing, because the function was imported before."""

    def ask(self, *columns: Any) -> list[Score]:
        scores = list(self.function(*columns, **self.options))
        if None in scores:
            self.last_error = "its function returned None"
        return scores


class ImageFunction(FunctionScorer):
    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        require_pairs(images, prompts)
        return self.ask(images, prompts)


class ReflectionFunction(FunctionScorer):
    def score_reflections(self, images: list[Image], prompts: list[Prompt], texts: list[str]) -> list[Score]:
        require_pairs(images, prompts)
        return self.ask(images, prompts, texts)


class EditFunction(FunctionScorer):
    def score_edits(
        self, before: list[Image], texts: list[str], after: list[Image], prompts: list[Prompt]
    ) -> list[Score]:
        require_pairs(before, prompts)
        return self.ask(before, texts, after, prompts)


class GroupFunction(FunctionScorer):
    def score_group(self, images: list[Image], prompt: Prompt) -> list[Score]:
        return self.ask(images, prompt)


TYPES: dict[str, type[FunctionScorer]] = {
    "image": ImageFunction, "reflection": ReflectionFunction, "edit": EditFunction, "group": GroupFunction,
}  # fmt: skip


def is_of_trl(signature: inspect.Signature) -> bool:
    """Return whether a function with this signature is a reward function of trl."""
    return TEXTS in signature.parameters or IDS in signature.parameters


def form_of(signature: inspect.Signature) -> str | None:
    """Return what a function with this signature scores: image, reflection, edit or group. Return None if it has other
    parameters than a scoring function."""
    if is_of_trl(signature):
        return "reflection"
    names = tuple(signature.parameters)
    fitting = [form for form, own in PARAMETERS.items() if names[: len(own)] == own]
    return max(fitting, key=lambda form: len(PARAMETERS[form]), default=None)


def constructor_of(function: Callable[..., Any], of: str) -> Callable[..., Scorer]:
    """Return a constructor of scorers that call `function`. Its parameters are `name` and the options of the function.
    A function with a parameter `name` is a constructor itself and is returned as it is.

    Raises InputError if the function does not score what `of` says.
    """
    signature = inspect.signature(function, eval_str=True)
    form = form_of(signature)
    if form is None and "name" in signature.parameters:
        return function
    if form != of:
        known = ", ".join(f"({', '.join(own)}) for of: {name}" for name, own in PARAMETERS.items())
        raise InputError(
            f"a function with the parameters ({', '.join(signature.parameters)}) does not score of: {of}; functions "
            f"begin with {known}, or are reward functions of trl for of: reflection"
        )
    options = list(signature.parameters.values())[len(PARAMETERS[of]) :]
    if is_of_trl(signature):
        options = list(inspect.signature(TrlRewardScorer).parameters.values())[2:]  # without name and function

    def make(name: str, **given: Any) -> Scorer:
        return TrlRewardScorer(name, function, **given) if is_of_trl(signature) else TYPES[of](name, function, given)

    named = inspect.Parameter("name", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    make.__dict__["__signature__"] = inspect.Signature([named, *options])  # the options are checked against it
    return make
