"""The declaration of a credit scheme, and the names of the schemes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

from irg_rl.credit.nodes import Advantages, Sample
from irg_rl.credit.statistics import ROUNDING
from irg_rl.errors import InputError
from irg_rl.imports import import_named
from irg_rl.sections import Rate, Section, Weight

SCHEMES = {
    "trajectory": "irg_rl.credit.schemes:TRAJECTORY",
    "turn": "irg_rl.credit.schemes:TURN",
    "verifier_gae": "irg_rl.credit.schemes:VERIFIER_GAE",
    "improvement": "irg_rl.credit.schemes:IMPROVEMENT",
    "umm": "irg_rl.credit.schemes:UMM",
    "no_improve_clamp": "irg_rl.credit.schemes:NO_IMPROVE_CLAMP",
    "factorised": "irg_rl.credit.schemes:FACTORISED",
}
"""Short names of `rl.credit`."""


class PenaltyOptions(Section):
    malformed_penalty: Weight = 1.0
    """Subtracted, after normalisation, from the advantage of a text that was cut at the token limit. As part of the
    reward, group centring would remove it (UMM-Reflection: invalid answers rose from .6 to 16 %)."""


class NormalisedOptions(PenaltyOptions):
    """Normalisation of values: A = (value - mean) / max(std, std_floor), over the siblings at a place."""

    std_floor: Weight = 0.05
    """Smallest divisor. Differences with a smaller standard deviation are probably noise of the judge."""
    advantage_clip: Rate | None = 5.0
    """Largest |advantage|, before the penalty. null: no limit."""
    mean_only: bool = False
    """Centre without dividing by the standard deviation (Dr. GRPO, arXiv 2503.20783). Then `std_floor` has no
    effect."""


class RightOptions(Section):
    """Options of schemes that need to know whether an image is right."""

    perfect_scorer: str | None = None
    """An image is right if this scorer gives at least 1. null: the first rewarding scorer of kind verifier. If there is
    none, an image is right if its combined reward is at least the sum of all positive weights."""


@dataclass(frozen=True)
class Right:
    """The rule for right images: the score of `scorer` (None: the combined reward) is at least `at_least`."""

    scorer: str | None
    at_least: float

    @classmethod
    def by(cls, scorer: str | None, weights: Mapping[str, float]) -> "Right":
        """With a scorer: its score must be at least 1. Without: the reward must be the largest one for scores up to
        1."""
        return cls(scorer, 1.0 if scorer is not None else fsum(w for w in weights.values() if w > 0) - ROUNDING)


def subtract_penalty(table: Advantages, samples: Sequence[Sample], options: PenaltyOptions) -> None:
    """Subtract the penalty from the advantages of texts that were cut off."""
    for row, sample in zip(table, samples):
        row.update({place: row[place] - options.malformed_penalty for place in sample.malformed if place in row})


@dataclass(frozen=True)
class CreditScheme:
    """A credit scheme: its function, and its properties."""

    advantages: Callable[[list[Sample], Any], Advantages]
    """(samples of a group, options) -> advantages. It is called only with two or more samples."""
    options: type[Section] = NormalisedOptions
    """The type of `rl.credit_options`."""
    penalise: Callable[[Advantages, Sequence[Sample], Any], None] | None = subtract_penalty
    """Changes advantages of texts that were cut off. It is called after `has_spread` was decided. None: no penalty."""
    whole_trajectories: bool = False
    """It gives credit to whole trajectories. So it cannot be used with `rl.forks`, where siblings share segments."""
    asks_if_right: bool = False
    """It reads `Sample.right`. Its options must be RightOptions."""
    uses_segment_scores: bool = False
    """It reads `Sample.scores`: those of reflections and edits."""
    first_trained_turn: int = 0
    """Segments of earlier turns get no advantage."""


def carried(options: Section, scheme: CreditScheme) -> Section:
    """Options of another scheme converted to options of `scheme`. Options that it does not have are left out."""
    given = {name: value for name, value in options.model_dump().items() if name in scheme.options.model_fields}
    return scheme.options.model_validate(given)


def scheme_named(name: str) -> CreditScheme:
    """The scheme of a name. InputError if the name is unknown or is not a CreditScheme."""
    found = import_named(name, SCHEMES, "rl.credit")
    if not isinstance(found, CreditScheme):
        raise InputError(f"rl.credit {name!r} is not a CreditScheme but a {type(found).__name__}: wrap it in one")
    return found
