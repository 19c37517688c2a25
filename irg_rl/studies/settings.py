"""What a study can be told, as `study.key=value`: every setting once, typed and documented."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from irg_rl.config import Positive, RecipeError, Section, Seed, Share, nearest

Scheme = Literal["trajectory", "turn", "verifier_gae", "improvement", "umm", "no_improve_clamp"]
Scale = Annotated[float, Field(ge=1)]


class StudySettings(Section):
    """Of every study."""


class PromptSettings(StudySettings):
    """Of a study that samples for prompts of its own choice."""

    prompts: str | None = None
    """jsonl of prompts with metadata; None: those of the first RUN's `split`, in `train` those that RL samples for. How
    many: `evaluation.prompts`; credit takes one a group."""
    split: Literal["test", "validation", "train"] = "test"

    @property
    def needed(self) -> int | None:
        """Prompts that the study cannot do with fewer or more of; None: as many as the recipe evaluates on."""
        return None


class TurnsSettings(PromptSettings):
    turns: Annotated[int, Field(ge=2, le=16)] = 8
    """Images per trajectory: one sampling of n turns gives all fewer."""
    samples: Positive = 1
    """Trajectories per prompt."""
    histories: list[Literal["own", "last", "full"]] = ["own"]
    """What a refinement sees: as its recipe says (`own`), or one and the other for every checkpoint."""
    prices: list[Share] = [0.0, 0.01, 0.02, 0.05, 0.1]
    """What an edit costs, in units of the score."""
    scorers: list[str] | None = None
    """Scorers of the recipe, by name, that score the images beside the verdict; None: all of kind clip and hps."""


class InfluenceSettings(PromptSettings):
    turns: list[Positive] = [1, 2]
    """Refinements to look at, 1 being the second image. History `full` has 1 alone: later contexts cannot be given."""
    siblings: Annotated[int, Field(ge=2)] = 2
    """Samples per prompt that lend each other images and reflections."""
    reflections: Annotated[int, Field(ge=2)] = 4
    """N of the N x S probe."""
    seeds: Annotated[int, Field(ge=2)] = 4
    """S of the N x S probe."""
    probe_prompts: Positive = 48
    """Prompts of the probe, at most."""


class CreditSettings(PromptSettings):
    split: Literal["test", "validation", "train"] = "train"
    schemes: list[Scheme] = ["trajectory", "turn", "verifier_gae", "improvement", "umm", "no_improve_clamp"]
    noises: list[Annotated[float, Field(ge=0)]] = [0.0, 0.1, 0.2, 0.4]
    """Standard deviation of the judge's noise, in units of the verdict's score in [0, 1]."""
    batches: Annotated[int, Field(ge=4)] = 128
    """Batches whose gradients are compared; an even number."""
    groups: Positive = 1
    """Groups per batch, each with a prompt of its own. The signal-to-noise ratio grows in proportion to it."""
    seed: Seed = 0

    @property
    def needed(self) -> int:
        return self.batches * self.groups


class GuidanceSettings(PromptSettings):
    text_scales: list[Scale] = [1.0, 2.0, 3.0, 5.0]
    image_scales: list[Scale] = [1.0, 2.0, 3.0, 5.0]
    """With a text scale of 1 there is no image guidance, so these cells do not exist."""
    turns: Annotated[int, Field(ge=2, le=16)] = 4


class RecoverySettings(PromptSettings):
    kinds: list[Literal["missing", "extra", "color", "shape", "relation"]] = [
        "missing", "extra", "color", "shape", "relation",
    ]  # fmt: skip
    numbers: list[Positive] = [1, 2, 3]
    """Defects of the kind that are put into the first image."""
    turns: Annotated[int, Field(ge=2, le=16)] = 4


class TeacherSettings(PromptSettings):
    kinds: list[Literal["cell", "thing", "drop", "extra", "sight"]] = ["cell", "thing", "drop", "extra", "sight"]
    amounts: list[Share] = [0.25, 0.5, 1.0]
    """Share of what is said that is degraded; none at all is measured too."""


class SeedSettings(StudySettings):
    """Of a study that does RL."""

    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    """Seeds of RL; one cell each."""


class ForkSettings(SeedSettings):
    arms: list[str] | None = None
    """Arms to measure, by name; None: all."""


class SchemesSettings(SeedSettings):
    schemes: Annotated[list[Scheme], Field(min_length=1)] = [
        "trajectory", "turn", "verifier_gae", "improvement", "umm", "no_improve_clamp",
    ]  # fmt: skip
    alone: list[Scheme] = []
    """Of these, those that are trained with the first seed alone, and labelled so."""


class ModesSettings(StudySettings):
    without: list[str] | None = None
    """Modes to leave out, one at a time; None: each of those that the recipe's stages draw from; []: none, so that all
    modes stand beside full trajectories alone."""


def parse_settings(kind: type[StudySettings], given: Mapping[str, Any], study: str) -> StudySettings:
    """RecipeError names every setting that is unknown or has a bad value."""
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
