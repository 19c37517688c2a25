"""Create scorers from the list of scorers in a recipe."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from irg_rl.errors import InputError
from irg_rl.imports import imported
from rewards.base import (
    EditScorer,
    GroupScorer,
    ImageScorer,
    Preferring,
    ReflectionScorer,
    Scorer,
    ScorerUnavailable,
    StatementScorer,
)
from rewards.functions import constructor_of


@dataclass(frozen=True)
class ScorerSpec:
    """The settings of one scorer in a recipe. `options` are arguments for the constructor of the scorer. They are
    checked against the signature of the constructor."""

    name: str  # name of its scores in rewards, metrics and reports
    kind: str  # a key of KINDS, or "package.module:Name" for your own class or function
    weight: float = 1.0  # share in the combined reward
    held_out: bool = False  # logged, but never part of the reward
    of: str = "image"  # what the scorer scores: a key of FORMS
    when: dict[str, Any] = field(default_factory=dict)  # the prompts that it is used for; see irg_rl.prompts.fits
    options: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise InputError(f"scorer name {self.name!r} becomes a metric name: give one without '/'")
        if self.of not in FORMS:
            raise InputError(f"scorer {self.name!r}: of {self.of!r} is unknown{_nearest(self.of, FORMS)}")

    @classmethod
    def from_dict(cls, spec: dict) -> "ScorerSpec":
        """Create a ScorerSpec from one entry of the list of scorers in a recipe. The entry is a flat dict. Its keys
        `name`, `kind`, `weight`, `held_out`, `of` and `when` become fields of the ScorerSpec. All other keys become
        `options`, the arguments for the constructor of the scorer."""
        own = {f.name for f in fields(cls)} - {"options"}
        missing = {"name", "kind"} - spec.keys()
        if missing:
            raise ValueError(f"scorer {spec} lacks {' and '.join(sorted(missing))}")
        options = {k: v for k, v in spec.items() if k not in own | {"options"}}
        return cls(**{k: v for k, v in spec.items() if k in own}, options=spec.get("options", {}) | options)


# A class is imported only when a recipe uses it. So a recipe with only a judge does not import open_clip.
KINDS = {
    "verifier": "rewards.verifier:VerifierScorer",
    "clip": "rewards.clip:ClipScorer",
    "hps": "rewards.hps:HpsScorer",
    "pickscore": "rewards.pickscore:PickScorer",
    "jpeg": "rewards.jpeg:JpegScorer",
    "judge": "rewards.judge:JudgeScorer",
    "decomposed": "rewards.decomposed:DecomposedScorer",
    "geneval2": "rewards.geneval2:GenEval2Scorer",
    "ocr": "rewards.ocr:OcrScorer",
    "remote": "rewards.remote:RemoteScorer",
    "mllm": "rewards.mllm:MllmScorer",
    "form": "rewards.texts:FormScorer",
    "length": "rewards.texts:LengthScorer",
    "repetition": "rewards.texts:RepetitionScorer",
}
FORMS: dict[str, tuple[type, ...]] = {
    "image": (ImageScorer,),
    "reflection": (ReflectionScorer,),
    "statement": (StatementScorer,),
    "edit": (EditScorer,),
    "group": (GroupScorer, Preferring),
}
"""What a scorer has to be able to do for each form: at least one of these."""


def can_score(scorer: Scorer, of: str) -> bool:
    return isinstance(scorer, FORMS[of])


def scorer_constructor(kind: str, of: str) -> Callable[..., Scorer]:
    """Return the constructor of a scorer of the form `of`. `kind` is a built-in name such as `clip`, or the import path
    of your own class or function (package.module:Name). Raises InputError if the name is unknown or if the function
    does not score what `of` says. Raises ScorerUnavailable if it cannot be imported."""
    if ":" not in KINDS.get(kind, kind):
        raise InputError(f"scorer kind {kind!r} is unknown{_nearest(kind, KINDS)}, or 'package.module:Name'")
    try:
        found = imported(KINDS.get(kind, kind))
    except InputError as error:
        raise ScorerUnavailable(f"scorer kind {error}") from error
    return found if isinstance(found, type) else constructor_of(found, of)


def _nearest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{guess} known: {', '.join(known) or 'none'}"


def check_spec(spec: ScorerSpec) -> Callable[..., Scorer]:
    """Check the options of a scorer, and return the constructor of the scorer. Raises InputError if an option is
    unknown, missing or of the wrong type. For an unknown option the message names the nearest known one."""
    make = scorer_constructor(spec.kind, spec.of)
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


def typed_options(spec: ScorerSpec, make: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of `spec`, converted to the types of the parameters of `make`, the constructor of the scorer.
    Raises InputError if an option cannot be converted; the message names the option."""
    parameters = inspect.signature(make, eval_str=True).parameters
    typed = dict(spec.options)
    for name, value in spec.options.items():
        if name not in parameters or parameters[name].annotation is inspect.Parameter.empty:
            continue
        try:
            typed[name] = TypeAdapter(parameters[name].annotation).validate_python(value)
        except PydanticSchemaGenerationError:
            continue  # pydantic does not know this type: keep the value as it is
        except ValidationError as error:
            raise InputError(
                f"scorer {spec.name!r}: option {name}: {error.errors()[0]['msg']} (given: {value!r:.80})"
            ) from None
    return typed


def build_scorer(spec: ScorerSpec) -> Scorer:
    """Create the scorer that `spec` describes, load its model, and return the scorer. Raises ScorerUnavailable if this
    fails; the message names the scorer."""
    make = check_spec(spec)
    try:
        return make(name=spec.name, **typed_options(spec, make))
    except ScorerUnavailable as error:
        raise ScorerUnavailable(f"scorer {spec.name!r}: {error}") from error
