"""The settings of every study, given as `study.key=value`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from irg_rl.config import Positive, RecipeError, Section, Seed, Share, nearest
from irg_rl.credit import SCHEMES, scheme_named


def _known(scheme: str) -> str:
    scheme_named(scheme)
    return scheme


Scheme = Annotated[str, AfterValidator(_known)]
"""A credit scheme, as `rl.credit` names it."""
Scale = Annotated[float, Field(ge=1)]


class StudySettings(Section):
    """Settings of all studies."""


class PromptSettings(StudySettings):
    """Settings of a study that samples for given prompts."""

    prompts: str | None = None
    """A jsonl file of prompts with metadata; None: the prompts of the first RUN. `split` says which of them: those of
    its test, of its validation or, with train, those of its RL. `evaluation.prompts` says how many; the study credit
    takes one prompt per group instead."""
    split: Literal["test", "validation", "train"] = "test"

    @property
    def needed(self) -> int | None:
        """How many prompts the study needs, exactly; None: as many as the recipe evaluates on."""
        return None


class TurnsSettings(PromptSettings):
    turns: Annotated[int, Field(ge=2, le=16)] = 8
    """Images per trajectory. Sampling n turns also gives the results for fewer turns."""
    samples: Positive = 1
    """Trajectories per prompt."""
    histories: list[Literal["own", "last", "full"]] = ["own"]
    """What a refinement sees. own: as the recipe says. last, full: this history for every checkpoint."""
    prices: list[Share] = [0.0, 0.01, 0.02, 0.05, 0.1]
    """Cost of one edit, in units of the score."""
    scorers: list[str] | None = None
    """Names of the recipe's scorers that score the images in addition to the verdict; None: all of kind clip and hps.
    """


class InfluenceSettings(PromptSettings):
    turns: list[Positive] = [1, 2]
    """Refinements to examine; 1 is the second image. With history `full` only 1 is possible, because later contexts
    cannot be given."""
    siblings: Annotated[int, Field(ge=2)] = 2
    """Samples per prompt that exchange images and reflections with each other."""
    reflections: Annotated[int, Field(ge=2)] = 4
    """Reflections per prompt, each drawn with every seed."""
    seeds: Annotated[int, Field(ge=2)] = 4
    """Seeds per reflection."""
    probe_prompts: Positive = 48
    """Most prompts for which reflections are drawn with several seeds."""


class CreditStudySettings(PromptSettings):
    split: Literal["test", "validation", "train"] = "train"
    schemes: list[Scheme] = list(SCHEMES)
    noises: list[Annotated[float, Field(ge=0)]] = [0.0, 0.1, 0.2, 0.4]
    """Standard deviation of the judge's noise. The unit is the score of the verdict, which lies in [0, 1]."""
    batches: Annotated[int, Field(ge=4)] = 128
    """Number of batches whose gradients are compared. Must be even."""
    groups: Positive = 1
    """Groups per batch, each for another prompt. The signal-to-noise ratio grows in proportion to this number."""
    seed: Seed = 0

    @property
    def needed(self) -> int:
        return self.batches * self.groups


class GuidanceSettings(PromptSettings):
    text_scales: list[Scale] = [1.0, 2.0, 3.0, 5.0]
    image_scales: list[Scale] = [1.0, 2.0, 3.0, 5.0]
    """Without text guidance (scale 1) there is no image guidance, so these cells are left out."""
    turns: Annotated[int, Field(ge=2, le=16)] = 4


class RecoverySettings(PromptSettings):
    kinds: list[Literal["missing", "extra", "color", "shape", "relation"]] = [
        "missing", "extra", "color", "shape", "relation",
    ]  # fmt: skip
    numbers: list[Positive] = [1, 2, 3]
    """Number of defects of one kind in the first image."""
    turns: Annotated[int, Field(ge=2, le=16)] = 4


class TeacherSettings(PromptSettings):
    kinds: list[Literal["cell", "thing", "drop", "extra", "sight"]] = ["cell", "thing", "drop", "extra", "sight"]
    amounts: list[Share] = [0.25, 0.5, 1.0]
    """Share of the reflection that is degraded. An undegraded reflection is measured too."""


class SeedSettings(StudySettings):
    """Settings of a study that trains with RL."""

    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    """Seeds of RL. Each seed is one cell."""


class ForkSettings(SeedSettings):
    arms: list[str] | None = None
    """Names of the arms to measure; None: all."""


class SchemesSettings(SeedSettings):
    schemes: Annotated[list[Scheme], Field(min_length=1)] = list(SCHEMES)
    alone: list[Scheme] = []
    """Schemes that are trained with the first seed only. The results say so."""


class ModesSettings(StudySettings):
    without: list[str] | None = None
    """Modes to leave out, one at a time. None: every mode that the stages of the recipe use. []: none, so that only
    training with all modes and training with full trajectories are compared."""


def parse_settings(kind: type[StudySettings], given: Mapping[str, Any], study: str) -> StudySettings:
    """Validate the settings of a study. The RecipeError names every unknown setting and every bad value."""
    known = sorted(kind.model_fields)
    lines = [f"study.{name}: unknown setting of {study}{nearest(name, known)}" for name in given if name not in known]
    settings = None
    try:
        settings = kind.model_validate({name: value for name, value in given.items() if name in known})
    except ValidationError as error:
        for problem in error.errors():
            place = ".".join(map(str, problem["loc"]))
            lines.append(f"study.{place}: {problem['msg']} (given: {problem['input']!r:.80})")
    if lines or settings is None:
        raise RecipeError("\n".join(lines))
    return settings
