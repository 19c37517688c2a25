"""The settings of all studies, with one class of settings per study. On the command line, a setting is given as
`study.NAME=VALUE`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from irg_rl.config import Positive, RecipeError, Section, Seed, Share, nearest
from irg_rl.credit import SCHEMES, scheme_named


def _known(scheme: str) -> str:
    scheme_named(scheme)
    return scheme


Scheme = Annotated[str, AfterValidator(_known)]
"""Name of a credit scheme, as in the setting `rl.credit`."""
Scale = Annotated[float, Field(ge=1)]


class StudySettings(Section):
    """Base class of the settings of all studies. Each study has a subclass with its own settings."""


class PromptSettings(StudySettings):
    """Base class of the settings of studies that sample images for given prompts."""

    prompts: str | None = None
    """Path of a JSON-lines file of prompts with metadata. null: use prompts of the first run that is named on the
    command line. The option `split` then chooses between the test prompts, the validation prompts and (with `train`)
    the RL prompts of this run. How many prompts are used is the setting `evaluation.prompts`. Only the study `credit`
    computes this number itself, from `study.batches` and `study.groups`."""
    split: Literal["test", "validation", "train"] = "test"

    @property
    def needed(self) -> int | None:
        """Return the exact number of prompts that the study needs. If the study works with any number of prompts,
        return None. The recipe setting `evaluation.prompts` then gives the number."""
        return None


class TurnsSettings(PromptSettings):
    turns: Annotated[int, Field(ge=2, le=16)] = 8
    """Number of images per trajectory: a first image and `turns` - 1 refinements. Sampling n turns also gives the
    results for fewer turns."""
    samples: Positive = 1
    """Number of trajectories per prompt."""
    histories: list[Literal["own", "last", "full"]] = ["own"]
    """Which histories to study. A history says which earlier images and texts a refinement sees. own: the history in
    the recipe of each checkpoint. last: only the last image and the reflection on it, besides the prompt and the think
    text. full: all of them."""
    prices: list[Share] = [0.0, 0.01, 0.02, 0.05, 0.1]
    """Prices of one edit (one refinement) to compare. The price is subtracted from the score for every edit, so its
    unit is that of the score."""
    scorers: list[str] | None = None
    """Names of scorers in the recipe that score the images in addition to the verdict. null: all scorers of the kinds
    clip and hps."""


class InfluenceSettings(PromptSettings):
    turns: list[Positive] = [1, 2]
    """Which refinements to examine, by their number. Refinement 1 makes the second image. With history `full` (a
    refinement sees all earlier images and texts), only 1 is possible, because a later refinement cannot be drawn again
    from given inputs."""
    siblings: Annotated[int, Field(ge=2)] = 2
    """Number of trajectories sampled per prompt. The images and reflections of these trajectories are exchanged with
    each other."""
    reflections: Annotated[int, Field(ge=2)] = 4
    """Number of reflections per prompt. An image is drawn for each pair of a reflection and a seed."""
    seeds: Annotated[int, Field(ge=2)] = 4
    """Number of random seeds per reflection."""
    probe_prompts: Positive = 48
    """Largest number of prompts for the second part of the study, which draws several reflections with several seeds.
    """


class CreditStudySettings(PromptSettings):
    split: Literal["test", "validation", "train"] = "train"
    schemes: list[Scheme] | None = None
    """Credit schemes to compare. null means all that suit the recipe. A scheme that uses scores of reflections and
    edits needs a scorer of such a form. A scheme that judges whole trajectories cannot be used with `rl.forks`."""
    noises: list[Annotated[float, Field(ge=0)]] = [0.0, 0.1, 0.2, 0.4]
    """Noise levels to compare: the standard deviations of noise that the study adds to the judge's scores. The scores
    lie in [0, 1]."""
    batches: Annotated[int, Field(ge=4)] = 128
    """Number of batches of which the gradients are compared. It must be even, because two halves of the batches are
    compared too."""
    groups: Positive = 1
    """Number of groups per batch. A group is several trajectories of one prompt, and each group has its own prompt. The
    signal-to-noise ratio grows in proportion to this number."""
    seed: Seed = 0

    @property
    def needed(self) -> int:
        return self.batches * self.groups


class GuidanceSettings(PromptSettings):
    text_scales: list[Scale] = [1.0, 2.0, 3.0, 5.0]
    image_scales: list[Scale] = [1.0, 2.0, 3.0, 5.0]
    """Scales of image guidance to compare. If the text scale is 1 (no text guidance), only the image scale 1 is
    measured, because there is no image guidance without text guidance."""
    turns: Annotated[int, Field(ge=2, le=16)] = 4


class RecoverySettings(PromptSettings):
    kinds: list[Literal["missing", "extra", "color", "shape", "relation"]] = [
        "missing", "extra", "color", "shape", "relation",
    ]  # fmt: skip
    numbers: list[Positive] = [1, 2, 3]
    """Numbers of defects to compare. For each number, the model is given a first image with this many defects. All
    defects of one image are of one kind."""
    turns: Annotated[int, Field(ge=2, le=16)] = 4


class TeacherSettings(PromptSettings):
    kinds: list[Literal["cell", "thing", "drop", "extra", "sight"]] = ["cell", "thing", "drop", "extra", "sight"]
    amounts: list[Share] = [0.25, 0.5, 1.0]
    """Amounts of degradation to compare: the shares of the reflection that are made wrong on purpose. The reflection
    without degradation is always measured too."""


class SeedSettings(StudySettings):
    """Base class of the settings of studies that train with RL. It has the list of random seeds with which RL is run.
    """

    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    """Random seeds of RL. Every arm (variant of the training settings) is trained once with each seed."""


class ForkSettings(SeedSettings):
    arms: list[str] | None = None
    """Names of the arms (variants of the training settings) to measure. null: all arms."""


class SchemesSettings(SeedSettings):
    schemes: Annotated[list[Scheme], Field(min_length=1)] = list(SCHEMES)
    alone: list[Scheme] = []
    """Credit schemes that are trained with the first seed only, to save time. The results mark these schemes."""


class ModesSettings(StudySettings):
    without: list[str] | None = None
    """Learning modes (kinds of SFT training rows) to leave out, one at a time. null: every mode that the SFT stages of
    the recipe use. []: no mode; then the study compares only two kinds of training, with all modes and with full
    trajectories only."""


def parse_settings(kind: type[StudySettings], given: Mapping[str, Any], study: str) -> StudySettings:
    """Validate the settings of a study and return them. `given` has the values from the user. `kind` is the class of
    the study's settings. `study` is the name of the study, for error messages. Raises RecipeError if a setting is
    unknown or a value is invalid. The message names all wrong settings."""
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
