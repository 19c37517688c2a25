"""Reinforcement learning for models that think, draw, look at what they drew, and draw again.

Notebooks use the functions and classes of `irg_rl.api`. They can also be imported from `irg_rl`. Each one is loaded
only at its first use, because loading torch takes seconds.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from irg_rl.api import Policy, assign_credit, load_prompts, load_recipe, make_learner, save_model, score

__version__ = "0.2.0"
__all__ = ["Policy", "assign_credit", "load_prompts", "load_recipe", "make_learner", "save_model", "score"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return vars(import_module("irg_rl.api"))[name]


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
