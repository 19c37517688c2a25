"""The class that declares a credit scheme, its options, and the names of the built-in schemes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

from pydantic import model_validator

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
"""The built-in credit schemes: short name that `rl.credit` accepts -> where the scheme is defined."""


class PenaltyOptions(Section):
    malformed_penalty: Weight = 1.0
    """Penalty for a text that was cut at the token limit. It is subtracted from the advantage of the text after
    normalisation. If it were part of the reward, centring over the group would remove it (in UMM-Reflection, invalid
    answers then rose from 0.6 % to 16 %).
    """


class NormalisedOptions(PenaltyOptions):
    """Options for the normalisation of values: A = (value - mean) / max(std, std_floor). A segment is compared with
    other segments of the same turn and modality (text or image). The mean and the standard deviation are taken over all
    segments of such a comparison.
    """

    std_floor: Weight = 0.05
    """Smallest number that values are divided by. Differences with a smaller standard deviation are probably noise of
    the judge.
    """
    advantage_clip: Rate | None = 5.0
    """Largest allowed |advantage| before the penalty is subtracted. null means no limit."""
    mean_only: bool = False
    """If true, values are centred but not divided by the standard deviation (Dr. GRPO, arXiv 2503.20783). Then
    `std_floor` must be left out.
    """

    @model_validator(mode="after")
    def the_floor_is_for_a_division(self):
        if self.mean_only and self.std_floor != type(self).model_fields["std_floor"].default:
            raise ValueError("std_floor has no effect with mean_only, which does not divide: leave one of them out")
        return self


class RightOptions(Section):
    """Options of those credit schemes that need to know whether an image is right (completely correct)."""

    perfect_scorer: str | None = None
    """Name of a scorer. An image is right if this scorer gives it a score of at least 1. null means the first scorer of
    kind verifier that is part of the reward. If there is no such scorer, an image is right if its combined reward is at
    least the sum of all positive weights.
    """


@dataclass(frozen=True)
class Right:
    """The rule that decides whether an image is right. The score from `scorer` must be at least `at_least`. If `scorer`
    is None, the combined reward is used as the score.
    """

    scorer: str | None
    at_least: float

    @classmethod
    def by(cls, scorer: str | None, weights: Mapping[str, float]) -> "Right":
        """Return the rule that says when an image is right. With a scorer, its score must be at least 1. If `scorer` is
        None, the combined reward must be at least the sum of all positive weights. This sum is the largest possible
        reward if all scores are between 0 and 1.
        """
        return cls(scorer, 1.0 if scorer is not None else fsum(w for w in weights.values() if w > 0) - ROUNDING)


def subtract_penalty(table: Advantages, samples: Sequence[Sample], options: PenaltyOptions) -> None:
    """Subtract the option `malformed_penalty` from the advantage of each text that was cut off at the token limit. The
    advantages in `table` are changed."""
    for row, sample in zip(table, samples):
        row.update({place: row[place] - options.malformed_penalty for place in sample.malformed if place in row})


@dataclass(frozen=True)
class CreditScheme:
    """A credit scheme: the function that computes advantages, and the properties of the scheme."""

    advantages: Callable[[list[Sample], Any], Advantages]
    """The function of the scheme: (samples of a group, options) -> advantages. It is called only if there are at least
    two samples.
    """
    options: type[Section] = NormalisedOptions
    """The type of the options that users set in `rl.credit_options`."""
    penalise: Callable[[Advantages, Sequence[Sample], Any], None] | None = subtract_penalty
    """A function that changes the advantages of texts that were cut off. It is called after the program has checked
    whether any advantage differs from 0 (`Summary.has_spread`). None means no penalty.
    """
    whole_trajectories: bool = False
    """True if the scheme gives credit to whole trajectories. Such a scheme cannot be used with `rl.forks`, because
    there trajectories share segments.
    """
    asks_if_right: bool = False
    """True if the scheme reads `Sample.right`. Then its options must be RightOptions."""
    uses_segment_scores: bool = False
    """True if the scheme reads `Sample.scores`, the scores of reflections and edits."""
    first_trained_turn: int = 0
    """The first turn that gets advantages. Segments of earlier turns get none."""


def carried(options: Section, scheme: CreditScheme) -> Section:
    """Convert options that were set for another scheme to options of `scheme`. Options that `scheme` does not have are
    left out.
    """
    given = {name: value for name, value in options.model_dump().items() if name in scheme.options.model_fields}
    return scheme.options.model_validate(given)


def scheme_named(name: str) -> CreditScheme:
    """Return the scheme with this name. Raises InputError if nothing has this name, or if the named object is not a
    `CreditScheme` (for example a function)."""
    found = import_named(name, SCHEMES, "rl.credit")
    if not isinstance(found, CreditScheme):
        raise InputError(f"rl.credit {name!r} is not a CreditScheme but a {type(found).__name__}: wrap it in one")
    return found
