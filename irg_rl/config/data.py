"""Settings of `irg-rl data build`, which builds SFT data: whose prompts and images, which teacher writes the texts, who
draws the improved images, what is kept, and what it may cost."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, ValidationError, field_validator, model_validator

from irg_rl.config.data_questions import (
    IRG_HEADINGS,
    LANGUAGES,
    REFLECT,
    REFLECT_WITH_TARGET,
    THINK,
    THINK_OF_IMAGE,
)
from irg_rl.config.explain import ExplainedError, explain, unknown_setting
from irg_rl.config.load import RecipeError, nearest_shipped, recipe_settings, split_override
from irg_rl.config.recipe import Recipe
from irg_rl.config.shipped import data_recipe_path, shipped_data_recipes
from irg_rl.imports import remember_folders
from irg_rl.learning_modes import MODES
from irg_rl.sections import PathText, Positive, Rate, Section, Share, dotted, nearest, not_finite

Instruction = Annotated[str, Field(min_length=1)]


class ServiceRecipe(Section):
    """A model that is asked over HTTP: the teacher, the judge or the image editor."""

    base_url: str | None = None
    """Address of an OpenAI-compatible server, such as http://host:8000/v1."""
    mind: str | None = None
    """Instead of `base_url`: a Python function that answers, as package.module:function. The program starts a server on
    127.0.0.1 for it. This is for the shapes world and for tests."""
    model: str = "model"
    """Name of the model at the server."""
    api_key_env: str = ""
    """Name of the environment variable that holds the key. The key itself is never in a recipe."""
    key_over_http: str = ""
    """The only host, besides this machine, to which the key may be sent without encryption."""
    timeout_s: Rate = 120.0
    """Seconds that one call may take, with its whole answer."""
    retries: int = Field(default=2, ge=0)
    """How often a call that failed is repeated, with growing pauses."""
    max_tokens: Positive = 2048
    """Longest answer in tokens."""
    extra_body: dict[str, Any] = {}
    """More fields of every request, such as `temperature: 0.7`."""
    headers: dict[str, str] = {}
    """More HTTP headers."""

    @model_validator(mode="after")
    def one_place_is_named(self):
        if (self.base_url is None) == (self.mind is None):
            raise ValueError("give base_url, the address of a server, or mind, but not both")
        return self

    @field_validator("extra_body")
    @classmethod
    def fields_are_finite(cls, fields: dict[str, Any]) -> dict[str, Any]:
        if places := not_finite(fields):
            raise ValueError(f"{', '.join(places)}: a setting must be finite, not NaN or infinity")
        return fields


class TeacherRecipe(ServiceRecipe):
    """The teacher: the multimodal model that writes thinking and reflections. In its questions, {prompt} stands for the
    prompt, {language} for the language, {headings} for a sentence about the headings, and {stop} for `stop_phrase`."""

    language: str = "en"
    """Language of the texts. A text in another language is not used."""
    tries: Positive = 2
    """How often a text may be written. If a filter finds a mistake, the teacher is asked again and told what it is."""
    headings: tuple[str, ...] = IRG_HEADINGS
    """Headings that every reflection must have, in this order, unless it says that nothing has to change. An empty list
    means free text."""
    stop_phrase: str = Field(default="Nothing to change.", min_length=3)
    """What a reflection says if nothing has to change. It must end with the `sampling.stop_phrase` of the recipe that
    trains on the data."""
    think_question: Instruction = THINK
    """Asks for the plan of an image, from the prompt alone."""
    think_of_image_question: Instruction = THINK_OF_IMAGE
    """Asks for the plan that leads to a given good image."""
    reflect_question: Instruction = REFLECT
    """Asks for the reflection on a first image."""
    reflect_with_target_question: Instruction = REFLECT_WITH_TARGET
    """Asks for the reflection on a first image if the improved image exists already (`improve.by: folder`)."""

    @field_validator("language")
    @classmethod
    def language_is_known(cls, name: str) -> str:
        if name not in LANGUAGES:
            raise ValueError(f"{name!r}: choose {', '.join(LANGUAGES)}")
        return name

    @field_validator("think_question", "think_of_image_question", "reflect_question", "reflect_with_target_question")
    @classmethod
    def question_names_the_prompt(cls, question: str) -> str:
        if "{prompt}" not in question:
            raise ValueError("the question lacks {prompt}: the teacher would not know what the image is for")
        return question


class JudgeRecipe(ServiceRecipe):
    max_tokens: Positive = 16
    logprobs: bool = True
    """Whether log-probabilities are asked for. Without them, every probability is 1 or 0."""


class EditorRecipe(ServiceRecipe):
    """An image editor. It gets the first image and an instruction as a chat message, and answers with an image, either
    as a part of the message's content or in the field `images` of the message."""

    instruction: Instruction = "{reflection}"
    """What the editor is told. {prompt} stands for the prompt and {reflection} for the reflection without its tags."""
    timeout_s: Rate = 600.0


class PromptsRecipe(Section):
    file: PathText
    """JSON lines with `prompt` and, optionally, `id` (docs/recipes.md)."""
    exclude: list[PathText] = []
    """More files of prompts, such as those of a benchmark. A prompt with the same words is left out of the data."""


class ImagesRecipe(Section):
    """The first images, one per prompt: a folder of images, or a model that draws them."""

    folder: PathText | None = None
    name: str = "{id}.png"
    """With `folder`: the path of a prompt's image in the folder. {id} stands for the id of the prompt, and {line} for
    its place in the prompts file, from 0. For example, {line:05d}/samples/00000.png is GenEval's layout."""
    model: PathText | None = None
    """A model folder in BAGEL's layout, or a run. The model thinks and draws, and its own think text is used."""
    settings: dict[str, Any] = {}
    """With a model: settings of sampling that replace the model's own, such as `sampling.image_size: [512, 512]`."""

    @field_validator("settings", mode="before")
    @classmethod
    def names_are_dotted(cls, settings: Any) -> Any:
        """Return the settings with dotted names. An override such as images.settings.sampling.shift=3 nests them."""
        return dict(dotted(settings)) if isinstance(settings, dict) else settings

    @field_validator("settings")
    @classmethod
    def names_are_of_a_recipe(cls, settings: dict[str, Any]) -> dict[str, Any]:
        lines = [line for name in settings for line in unknown_setting(name, Recipe, "images.settings")]
        if lines:
            raise ExplainedError(lines)
        return settings

    @model_validator(mode="after")
    def one_source_is_named(self):
        if (self.folder is None) == (self.model is None):
            raise ValueError("give folder, a folder of images, or model, which draws them, but not both")
        if self.settings and self.model is None:
            raise ValueError("settings has no effect without model")
        return self


class ImproveRecipe(Section):
    """Who draws the improved image."""

    by: Literal["none", "folder", "model", "editor"] = "none"
    """none: nobody, so the data have reflections without improved images. folder: the images exist already, as in the
    paper, which used those of a stronger model. model: a model in BAGEL's layout redraws. editor: an image editor."""
    folder: PathText | None = None
    name: str = "{id}.png"
    """With `by: folder`: the path of a prompt's image, as in `images.name`."""
    model: PathText | None = None
    """With `by: model`: the model folder or run. null: `images.model`."""
    editor: EditorRecipe | None = None

    @model_validator(mode="after")
    def settings_are_of_the_kind(self):
        given = {name for name in ("folder", "model", "editor") if vars(self)[name] is not None}
        if foreign := sorted(given - {self.by}):
            raise ValueError(f"{', '.join(foreign)}: no effect with by: {self.by}")
        if self.by in ("folder", "editor") and self.by not in given:
            raise ValueError(f"by: {self.by} needs the setting {self.by}")
        return self


class KeepRecipe(Section):
    """What the judge must say. A probability is p(yes) / (p(yes) + p(no)) at the token of the answer. An improved image
    is kept only if the judge prefers it in both orders."""

    judge: JudgeRecipe
    shows_at_least: Share = 0.5
    """Least probability that an image shows its prompt. Images below it are never targets of the initial modes. A
    reflection that says "nothing to change" needs it too."""
    true_at_least: Share = 0.5
    """Least probability that everything is true which a reflection says about its image."""
    followed_at_least: Share | None = None
    """Least probability that the improved image makes the changes of the reflection and no others. null: not asked."""


class RowsRecipe(Section):
    modes: tuple[str, ...] = MODES
    """Learning modes for which rows are written."""
    stop_share: Share = 0.25
    """Largest share of rows of an improving mode whose reflection says that nothing has to change."""
    initial_question: Instruction = "What must this image show?"
    """What stands before the thinking in the mode initial_thinking_understanding_learning."""
    improving_question: Instruction = "What must change in the first image?"
    """What stands before the reflection in the mode improving_thinking_understanding_learning."""
    prompts_per_part: Positive = 64
    """Number of prompts that are worked on together. Each part becomes one parquet file per mode."""

    @field_validator("modes")
    @classmethod
    def modes_are_known(cls, modes: tuple[str, ...]) -> tuple[str, ...]:
        for mode in modes:
            if mode not in MODES:
                raise ValueError(f"{mode!r} is no learning mode{nearest(mode, MODES)}")
        if not modes or len(set(modes)) < len(modes):
            raise ValueError("name at least one mode, and none twice")
        return modes


class BudgetRecipe(Section):
    """What the folder may cost, all calls of the command together. If it is spent, the command writes what is finished
    and ends. A larger budget continues."""

    calls: Positive | None = None
    """Questions to teacher, judge and editor, failed ones included."""
    tokens: Positive | None = None
    """Tokens, as the servers count them. When it is reached, up to `concurrency` questions may still be under way."""


class DataRecipe(Section):
    """Everything that defines a data set."""

    description: str = ""
    out: PathText
    """The folder that is written: one folder of parquet files per mode, and a data card."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the drawn images, and of the choice among rows."""
    concurrency: Positive = 8
    """Number of prompts that are worked on at the same time."""
    prompts: PromptsRecipe
    images: ImagesRecipe
    teacher: TeacherRecipe
    improve: ImproveRecipe = ImproveRecipe()
    keep: KeepRecipe
    rows: RowsRecipe = RowsRecipe()
    budget: BudgetRecipe = BudgetRecipe()

    @model_validator(mode="after")
    def somebody_redraws(self):
        if self.improve.by == "model" and self.redrawing_model is None:
            raise ValueError("improve.by: model needs improve.model, or images.model")
        return self

    @property
    def redrawing_model(self) -> str | None:
        """The model that draws improved images."""
        return self.improve.model or self.images.model

    def content(self) -> dict[str, Any]:
        """Return the settings that change the data. Where the data are written, what they may cost, and how the servers
        are reached is left out."""
        data = self.model_dump(mode="json", exclude={"out", "description", "budget", "concurrency"})
        for service in (data["teacher"], data["keep"]["judge"], data["improve"]["editor"] or {}):
            for name in REACHED_BY & service.keys():
                del service[name]
        return data

    def digest(self) -> str:
        """Return the first 12 hex digits of the sha256 of `content`."""
        return hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()[:12]

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=110)


REACHED_BY = {"base_url", "api_key_env", "key_over_http", "timeout_s", "retries", "headers"}
"""Settings of a service that say how its server is reached, not what it answers."""


def load_data_recipe(named: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> DataRecipe:
    """Read a data recipe and return it. `named` is a file, or the name of a shipped data recipe. `overrides` have the
    form key.sub=value. Raises RecipeError with every problem that was found."""
    file = data_recipe_path(named)
    if not file.exists():
        near = nearest_shipped(file.name.removesuffix(".yaml"), shipped_data_recipes())
        raise RecipeError(f"{file}: no such recipe{near}; `irg-rl ls` lists all")
    settings = recipe_settings(file)
    remember_folders(file.parent)
    for key, value in (split_override(override, short={}) for override in overrides):
        try:
            OmegaConf.update(settings, key, value, merge=True, force_add=True)
        except (OmegaConfBaseException, ValueError, TypeError, IndexError) as error:
            raise RecipeError(f"'{key}={value}': cannot be applied: {error}") from error
    try:
        data = OmegaConf.to_container(settings, resolve=True)
    except OmegaConfBaseException as error:
        raise RecipeError(f"{named}: {error}") from error
    try:
        return DataRecipe.model_validate(data)
    except ValidationError as error:
        lines = [line for problem in error.errors() for line in explain(problem, DataRecipe)]
        raise RecipeError(f"{named}: {len(lines)} problem(s)\n" + "\n".join(f"  {line}" for line in lines)) from error
