"""Settings of the scorers, and of how their scores are combined into a reward."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from irg_rl.sections import PathText, Positive, Rate, Section, Share, not_finite

SCORER_KINDS = ("verifier", "clip", "hps", "judge", "remote")
OF_IMAGES_ALONE = ("clip", "hps")
"""Kinds of scorers that score only images. They cannot score reflections or edits."""


class ScorerRecipe(Section):
    name: str
    kind: str
    """Kind of scorer: verifier, clip, hps, judge, remote (served by `irg-rl reward serve`), or your own class as
    package.module:Class."""
    of: Literal["image", "reflection", "edit"] = Field(default="image", exclude_if=lambda of: of == "image")
    """What the scorer scores. image: every image, for its prompt. reflection: every reflection, together with the image
    that it is about. edit: every refined image, together with the image before it and the reflection between the two.
    Scores of reflections and edits are used by `rl.credit: factorised`."""
    weight: float = 1.0
    held_out: bool = False
    """True: the score is logged but is never part of the reward."""
    path: PathText | None = None
    """Only for clip and hps: folder or checkpoint file of a released model. null: the run trains a small model on the
    task."""
    base_url: str | None = None
    """judge: address of an OpenAI-compatible endpoint. null: the embedded judge on 127.0.0.1. remote: address that
    `irg-rl reward serve` has printed."""
    model: str = "judge"
    api_key_env: str | None = None
    """Only for judge and remote: name of the environment variable that holds the key or token."""
    timeout_s: Rate = 30.0
    concurrency: Positive = 8
    options: dict[str, Any] = {}
    """More arguments for the constructor of the scorer, such as `model: ViT-H-14` for a checkpoint file. They win over
    the settings above."""

    @model_validator(mode="after")
    def settings_are_of_the_kind(self):
        over_http = {"base_url", "api_key_env", "timeout_s", "concurrency"}
        foreign = {"judge": set(), "remote": {"model"}}.get(self.kind, {*over_http, "model"})
        foreign |= set() if self.kind in ("clip", "hps") else {"path"}
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
        if self.of != "image" and self.kind in OF_IMAGES_ALONE:
            raise ValueError(
                f"of: {self.of}: scorers of kind {self.kind!r} score images alone; verifier and judge score all"
            )
        return self

    @model_validator(mode="after")
    def a_remote_scorer_has_an_address(self):
        if self.kind == "remote" and self.base_url is None and "base_url" not in self.options:
            raise ValueError("base_url: a remote scorer needs the address that `irg-rl reward serve` has printed")
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
            raise ValueError(f"{kind!r}: choose {', '.join(SCORER_KINDS)}, or your own as package.module:Class")
        return kind


CRITIC_SHARE = 0.1
"""Share of its GPU that every rollout actor leaves free in Ray's books if the critic needs a GPU. So the critic always
finds a place beside one of them, and the number of GPUs does not change. Ray does not limit the memory."""


class RewardRecipe(Section):
    scorers: list[ScorerRecipe] = []
    combine: Literal["sum", "zscore_sum"] = "sum"
    device: Literal["cpu", "cuda"] | None = Field(default=None, exclude_if=lambda device: device is None)
    """Device of the clip and hps models. null: `engine.device`. In RL on GPUs these models are on the GPU of one of the
    rollout actors. A scorer may have its own device in its `options`, which wins."""
    max_failure_share: Share = 0.2
    """The run stops if more than this share of a scorer's recent scores failed."""
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
