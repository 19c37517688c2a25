"""Settings of the scorers, and of how their scores are combined into a reward."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from irg_rl.sections import PathText, Positive, Rate, Section, Share, not_finite

Form = Literal["image", "reflection", "statement", "edit", "group"]
"""What a scorer scores."""
OF_IMAGES: tuple[Form, ...] = ("image", "group")
"""Forms whose scores belong to images, and so are part of the reward of an image."""
FORMS_OF_KIND: dict[str, tuple[Form, ...]] = {
    "verifier": ("image", "reflection", "statement", "edit"),
    "clip": ("image",),
    "hps": ("image",),
    "pickscore": ("image",),
    "jpeg": ("image",),
    "judge": ("image", "reflection", "edit", "group"),
    "remote": ("image", "reflection", "edit"),
    "mllm": ("image", "reflection", "edit", "group"),
    "form": ("reflection",),
    "length": ("reflection",),
    "repetition": ("reflection",),
    "decomposed": ("image",),
    "geneval2": ("image",),
    "ocr": ("image",),
}
"""The built-in kinds of scorers, and what each of them can score."""
SCORER_KINDS = tuple(FORMS_OF_KIND)
OPEN_CLIP_KINDS = ("clip", "hps")
"""Kinds of scorers with a model of open_clip. The run trains it itself if the recipe names no released model."""
ATOMIC_KINDS = ("decomposed", "geneval2")
"""Kinds of scorers that ask a judge over HTTP several questions about each image. The embedded judge cannot answer
them."""
JUDGE_KINDS = ("judge", *ATOMIC_KINDS)
"""Kinds of scorers with a judge over HTTP."""
WITH_MODEL = (*OPEN_CLIP_KINDS, "pickscore", "mllm")
"""Kinds of scorers that load a model into the process that scores. They have a path and a device."""
Condition = str | int | bool
"""Value that a field of a prompt's metadata must have."""


class ScorerRecipe(Section):
    name: str
    kind: str
    """Kind of scorer: verifier, clip, hps, pickscore, jpeg, ocr, judge, decomposed, geneval2, mllm, form, length,
    repetition, remote (served by `irg-rl reward serve`), or your own class or function as package.module:Name."""
    of: Form = Field(default="image", exclude_if=lambda of: of == "image")
    """What the scorer scores. image: every image, for its prompt. reflection: every reflection, together with the image
    that it is about. statement: every single statement of every reflection, so that each word is trained by the
    statement that it belongs to. edit: every refined image, together with the image before it and the reflection
    between the two. group: every image, in comparison with all other images of its group. Scores of reflections,
    statements and edits are used by `rl.credit: factorised`. Scores of a group are part of the reward of an image, as
    scores of images are."""
    when: dict[str, Condition | list[Condition]] = Field(default={}, exclude_if=lambda when: not when)
    """The prompts that the scorer is used for. A key is a field of the prompt's metadata, and the value is what the
    field must be, or a list of values of which it must be one. `{tag: counting}` means prompts with the tag counting.
    If there are several keys, all of them must fit. The scorer gives no score for other prompts, and this is not a
    failure. {} means all prompts."""
    weight: float = 1.0
    held_out: bool = False
    """True: the score is logged but is never part of the reward."""
    path: PathText | None = None
    """Only for clip, hps, pickscore and mllm: folder of a released model. For clip and hps it may also be a checkpoint
    file. null: the run trains a small clip or hps model on the task."""
    base_url: str | None = None
    """judge, decomposed, geneval2: address of an OpenAI-compatible endpoint. null, only for judge: the embedded judge
    on 127.0.0.1. remote: address that `irg-rl reward serve` has printed."""
    model: str = "judge"
    api_key_env: str | None = None
    """Only for scorers with a `base_url`: name of the environment variable that holds the key or token."""
    timeout_s: Rate = 30.0
    concurrency: Positive = 8
    options: dict[str, Any] = {}
    """More arguments for the constructor of the scorer, such as `model: ViT-H-14` for a checkpoint file. They win over
    the settings above."""

    @model_validator(mode="after")
    def settings_are_of_the_kind(self):
        over_http = {"base_url", "api_key_env", "timeout_s", "concurrency"}
        foreign = {"remote": {"model"}}.get(self.kind, {*over_http, "model"})
        foreign = set() if self.kind in JUDGE_KINDS else foreign
        foreign |= set() if self.kind in WITH_MODEL else {"path"}
        fields = type(self).model_fields
        given = sorted(name for name in foreign if vars(self)[name] != fields[name].default)
        if given:
            raise ValueError(
                f"{', '.join(given)}: not a setting of scorers of kind {self.kind!r}; put arguments of "
                "their constructor into `options`"
            )
        return self

    @model_validator(mode="after")
    def kind_scores_what_is_asked(self):
        can = FORMS_OF_KIND.get(self.kind, (self.of,))
        if self.of not in can:
            others = ", ".join(kind for kind, forms in FORMS_OF_KIND.items() if self.of in forms)
            own = "a class" if self.of == "statement" else "a class or function"
            raise ValueError(
                f"of: {self.of}: scorers of kind {self.kind!r} score {' and '.join(f'{form}s' for form in can)} alone; "
                f"{self.of}s are scored by {others}, or by {own} of your own"
            )
        return self

    @model_validator(mode="after")
    def a_served_scorer_has_an_address(self):
        if self.base_url is not None or "base_url" in self.options:
            return self
        if self.kind == "remote":
            raise ValueError("base_url: a remote scorer needs the address that `irg-rl reward serve` has printed")
        if self.kind in ATOMIC_KINDS:
            raise ValueError(f"base_url: a scorer of kind {self.kind!r} needs the address of a judge")
        return self

    @model_validator(mode="after")
    def the_embedded_judge_gives_no_grades(self):
        embedded = self.kind == "judge" and self.base_url is None and "base_url" not in self.options
        if embedded and self.options.get("answer") == "grade":
            raise ValueError("options.answer grade: the embedded judge gives no grades; name a judge by base_url")
        return self

    @model_validator(mode="after")
    def a_model_has_a_path(self):
        released_only = self.kind in WITH_MODEL and self.kind not in OPEN_CLIP_KINDS
        if released_only and self.path is None and "path" not in self.options:
            raise ValueError(f"path: name the folder of the model; a run trains no scorers of kind {self.kind!r}")
        return self

    @field_validator("options")
    @classmethod
    def options_are_finite(cls, options: dict[str, Any]) -> dict[str, Any]:
        if places := not_finite(options):
            raise ValueError(f"{', '.join(places)}: a setting must be finite, not NaN or infinity")
        return options

    @field_validator("name")
    @classmethod
    def name_is_of_a_metric(cls, name: str) -> str:
        if not re.fullmatch(r"[\w.+-]+", name):
            raise ValueError(f"{name!r} becomes the name of a metric: use letters, digits and . + - _ alone")
        return name

    @field_validator("kind")
    @classmethod
    def kind_is_known(cls, kind: str) -> str:
        module, colon, name = kind.partition(":")
        if kind not in SCORER_KINDS and not (colon and module and name.isidentifier()):
            raise ValueError(f"{kind!r}: choose {', '.join(SCORER_KINDS)}, or your own as package.module:Name")
        return kind


CRITIC_SHARE = 0.1
"""Share of its GPU that every rollout actor leaves free in Ray's books if the critic needs a GPU. So the critic always
finds a place beside one of them, and the number of GPUs does not change. Ray does not limit the memory."""


class RewardRecipe(Section):
    scorers: list[ScorerRecipe] = []
    combine: Literal["sum", "zscore_sum"] = "sum"
    device: Literal["cpu", "cuda"] | None = Field(default=None, exclude_if=lambda device: device is None)
    """Device of the clip, hps, pickscore and mllm models. null: `engine.device`. In RL on GPUs these models are on the
    GPU of one of the rollout actors. A scorer may have its own device in its `options`, which wins."""
    offload: bool = Field(default=False, exclude_if=lambda on: not on)
    """True: while the learner of RL works, the clip, hps, pickscore and mllm models are in main memory and not on their
    GPU. So a learner on the same GPU has more room. It needs `engine.gpu_share` below 1 and `rl.staleness` 0."""
    max_failure_share: Share = 0.2
    """The run stops if more than this share of a scorer's recent scores failed. Each critic counts for itself."""
    judge_errs: Share = Field(default=0.0, exclude_if=lambda share: not share)
    """Only for the embedded judge: share of its answers that are turned around on purpose, so that yes becomes no and 1
    becomes 2. With it you can measure how RL copes with a judge that errs."""
    training_steps: Positive = 300
    """Number of training steps of each small CLIP or HPS model that the run trains."""

    @model_validator(mode="after")
    def a_judge_is_there_to_err(self):
        if self.judge_errs and not any(s.kind == "judge" and s.base_url is None for s in self.scorers):
            raise ValueError("judge_errs has no effect: only the embedded judge errs, a judge without a base_url")
        return self

    @model_validator(mode="after")
    def names_are_unique(self):
        names = [s.name for s in self.scorers]
        if len(names) != len(set(names)):
            raise ValueError(f"scorer names must differ, found {names}")
        if self.scorers and all(s.held_out for s in self.scorers):
            raise ValueError("every scorer is held out: there is no reward; set held_out: false on one of them")
        return self
