"""Makes scorers from the list in a recipe."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from irg_rl.errors import InputError
from irg_rl.imports import imported
from rewards.base import Scorer, ScorerUnavailable


@dataclass(frozen=True)
class ScorerSpec:
    """One scorer of a recipe. `options` are arguments of its constructor, checked against its signature."""

    name: str  # key of its values in rewards, metrics and reports
    kind: str  # verifier, clip, hps, judge, or "package.module:Class" for one's own
    weight: float = 1.0  # share in the combined reward
    held_out: bool = False  # logged, never rewarded
    of: str = "image"  # what it scores: image, reflection or edit
    options: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise InputError(f"scorer name {self.name!r} becomes a metric name: give one without '/'")

    @classmethod
    def from_dict(cls, spec: dict) -> "ScorerSpec":
        """Make a spec from a flat dict: all keys except the five above are options of the scorer."""
        own = {f.name for f in fields(cls)} - {"options"}
        missing = {"name", "kind"} - spec.keys()
        if missing:
            raise ValueError(f"scorer {spec} lacks {' and '.join(sorted(missing))}")
        options = {k: v for k, v in spec.items() if k not in own | {"options"}}
        return cls(**{k: v for k, v in spec.items() if k in own}, options=spec.get("options", {}) | options)


# Imported on demand: a recipe with only a judge does not pay for open_clip.
KINDS = {
    "verifier": "rewards.verifier:VerifierScorer",
    "clip": "rewards.clip:ClipScorer",
    "hps": "rewards.hps:HpsScorer",
    "judge": "rewards.judge:JudgeScorer",
}


def scorer_class(kind: str) -> Callable[..., Scorer]:
    """The constructor of a built-in kind or of one's own "package.module:Class"."""
    if ":" not in KINDS.get(kind, kind):
        raise InputError(f"scorer kind {kind!r} is unknown{_nearest(kind, KINDS)}, or 'package.module:Class'")
    try:
        return imported(KINDS.get(kind, kind))
    except InputError as error:
        raise ScorerUnavailable(f"scorer kind {error}") from error


def _nearest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{guess} known: {', '.join(known) or 'none'}"


def check_spec(spec: ScorerSpec) -> Callable[..., Scorer]:
    """The constructor of the scorer, after checking the names of its options. InputError names a wrong option and the
    nearest known one, or a missing option."""
    make = scorer_class(spec.kind)
    parameters = {name: p for name, p in inspect.signature(make).parameters.items() if name != "name"}
    known = list(parameters)
    for option in spec.options:
        if option not in known:
            raise InputError(f"scorer {spec.name!r} has no option {option!r}{_nearest(option, known)}")
    single = {name: p for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    missing = [name for name, p in single.items() if p.default is p.empty and name not in spec.options]
    if missing:
        raise InputError(f"scorer {spec.name!r} needs the option {missing[0]!r}")
    typed_options(spec, make)
    return make


def typed_options(spec: ScorerSpec, make: Callable[..., Scorer]) -> dict[str, Any]:
    """The options as the types of the constructor's parameters take them; InputError names the one that is none."""
    parameters = inspect.signature(make, eval_str=True).parameters
    typed = dict(spec.options)
    for name, value in spec.options.items():
        if name not in parameters or parameters[name].annotation is inspect.Parameter.empty:
            continue
        try:
            typed[name] = TypeAdapter(parameters[name].annotation).validate_python(value)
        except PydanticSchemaGenerationError:
            continue  # a type of the scorer's own
        except ValidationError as error:
            raise InputError(
                f"scorer {spec.name!r}: option {name}: {error.errors()[0]['msg']} (given: {value!r:.80})"
            ) from None
    return typed


def build_scorer(spec: ScorerSpec) -> Scorer:
    """Construct the scorer and load its model. ScorerUnavailable, naming the scorer, if this fails."""
    make = check_spec(spec)
    try:
        return make(name=spec.name, **typed_options(spec, make))
    except ScorerUnavailable as error:
        raise ScorerUnavailable(f"scorer {spec.name!r}: {error}") from error
