"""What a credit scheme declares, and the schemes that can be named."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

from irg_rl.credit.nodes import Sample, Table
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
    """Subtracted, after normalisation, from the advantage of a text that was cut off at the token limit. Inside the
    reward, group centring would undo it (UMM-Reflection: invalid answers rose from .6 to 16 %)."""


class NormalisedOptions(PenaltyOptions):
    """How values become advantages: A = (value - mean) / max(std, std_floor), over the siblings at a place."""

    std_floor: Weight = 0.05
    """Smallest standard deviation that is divided by. Below it, differences are taken for the judge's noise."""
    advantage_clip: Rate | None = 5.0
    """Bound on |advantage|, before the penalty; null: none."""
    mean_only: bool = False
    """Centre without dividing by the standard deviation (Dr. GRPO, arXiv 2503.20783). `std_floor` then does nothing."""


class RightOptions(Section):
    """Of schemes that ask whether an image is right."""

    perfect_scorer: str | None = None
    """The scorer that says so: an image is right where it gives 1 or more. null: the first rewarding scorer of kind
    verifier; without any, an image is right whose combined reward reaches the sum of all positive weights."""


@dataclass(frozen=True)
class Right:
    """When an image is right: score `scorer` (None: the combined reward) is at least `at_least`."""

    scorer: str | None
    at_least: float

    @classmethod
    def by(cls, scorer: str | None, weights: Mapping[str, float]) -> "Right":
        """By a scorer whose 1 means right, or else by the largest reward that scores of at most 1 can make."""
        return cls(scorer, 1.0 if scorer is not None else fsum(w for w in weights.values() if w > 0) - ROUNDING)


def subtract_penalty(table: Table, samples: Sequence[Sample], options: PenaltyOptions) -> None:
    """From the advantages of texts that were cut off."""
    for row, sample in zip(table, samples):
        row.update({place: row[place] - options.malformed_penalty for place in sample.malformed if place in row})


@dataclass(frozen=True)
class CreditScheme:
    """A way to give credit: its function, and what the rest of the program has to know of it."""

    advantages: Callable[[list[Sample], Any], Table]
    """(samples of a group, options) -> per sample, from place to advantage. Called with two samples or more."""
    options: type[Section] = NormalisedOptions
    """The type of `rl.credit_options`."""
    penalise: Callable[[Table, Sequence[Sample], Any], None] | None = subtract_penalty
    """Changes advantages because texts were cut off, after it was counted whether the rewards differ; None: never."""
    whole_trajectories: bool = False
    """It judges whole trajectories, which has no meaning where siblings share segments: no `rl.forks`."""
    asks_if_right: bool = False
    """It reads `Sample.right`; its options are RightOptions."""
    uses_segment_scores: bool = False
    """It reads `Sample.scores`: those of reflections and edits."""
    first_trained_turn: int = 0
    """Segments of earlier turns get no advantage."""


def carried(options: Section, scheme: CreditScheme) -> Section:
    """The options of one scheme as options of another, as far as that one has them."""
    given = {name: value for name, value in options.model_dump().items() if name in scheme.options.model_fields}
    return scheme.options.model_validate(given)


def scheme_named(name: str) -> CreditScheme:
    """InputError for a name that stands for nothing, or for something else."""
    found = import_named(name, SCHEMES, "rl.credit")
    if not isinstance(found, CreditScheme):
        raise InputError(f"rl.credit {name!r} is no CreditScheme but {type(found).__name__}: wrap it in one")
    return found
