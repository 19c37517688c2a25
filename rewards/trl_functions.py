"""Reward functions of trl as scorers of reflections, and scorers of reflections as reward functions of trl.

A reward function of trl gets lists with one entry per sample: `prompts`, `completions`, `completion_ids` and every
column of the data set. It returns one number per sample, or None where it has nothing to say. A prompt or completion is
a text, or a list of messages `{"role": ..., "content": ...}`, as the data set has them.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PILImage

from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt
from rewards.base import Image, ReflectionScorer, Score, Scorer, ScorerUnavailable, TextScorer, require_pairs

if TYPE_CHECKING:
    from irg_rl.model.tokenizer import TextTokenizer

RewardFunction = Callable[..., list[float | None]]
TEXTS, IDS = "completions", "completion_ids"
"""Parameters by which a reward function of trl is recognised. It has at least one of them."""


class TrlRewardScorer:
    """Scores reflections with a reward function of trl. The prompt of the image is the function's prompt, and the
    reflection is its completion. `images` has a list with the image that the reflection is about. The metadata of the
    prompts are the columns of the data set. What only a trainer knows (`trainer_state`, `log_extra`, `log_metric`) is
    not given.

    conversational: whether prompts and completions are lists of messages, as most functions of trl expect, or texts.
    tokenizer: folder with the tokenizer of the trained model. It is needed if the function reads `completion_ids`.
    """

    def __init__(
        self, name: str, function: RewardFunction, conversational: bool = True, tokenizer: str | Path = ""
    ) -> None:
        self.name, self.last_error = name, ""
        self.function, self.conversational = function, conversational
        self.parameters = inspect.signature(function).parameters
        self.tokenizer = _load(Path(tokenizer)) if tokenizer else None
        if IDS in self.parameters and self.tokenizer is None:
            raise InputError(f"scorer {name!r}: its function reads {IDS}: name the model's folder in options.tokenizer")

    def check(self) -> None:
        """Do nothing, because the function was imported and its tokenizer loaded before."""

    def score_reflections(self, images: list[Image], prompts: list[Prompt], texts: list[str]) -> list[Score]:
        require_pairs(images, prompts)
        given: dict[str, list[Any]] = {
            field: [prompt.metadata.get(field) for prompt in prompts]
            for field in dict.fromkeys(key for prompt in prompts for key in prompt.metadata)
        }
        given |= {
            "prompts": [self._said("user", prompt.text) for prompt in prompts],
            TEXTS: [self._said("assistant", text) for text in texts],
            "images": [[PILImage.fromarray(image)] for image in images],
        }
        if self.tokenizer is not None:
            given[IDS] = [self.tokenizer.encode(text) for text in texts]
        self._require(given)
        scores = self.function(**given)
        if None in scores:
            self.last_error = "the reward function returned None"
        return list(scores)

    def _said(self, role: str, text: str) -> str | list[dict[str, str]]:
        return [{"role": role, "content": text}] if self.conversational else text

    def _require(self, given: dict[str, list[Any]]) -> None:
        """Raise ScorerUnavailable if the function needs an argument that is not given."""
        optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        lacking = [
            name for name, parameter in self.parameters.items()
            if parameter.kind not in optional and parameter.default is parameter.empty and name not in given
        ]  # fmt: skip
        if lacking:
            raise ScorerUnavailable(f"its function needs {', '.join(lacking)}: no prompt has such a field of metadata")


def _load(folder: Path) -> "TextTokenizer":
    from irg_rl.model.tokenizer import load_tokenizer  # imported here, because importing transformers takes seconds

    return load_tokenizer(folder)


def trl_reward(scorer: Scorer) -> RewardFunction:
    """Return a reward function of trl that asks a scorer of reflections. Every completion is scored as a reflection.

    Scorers that read only the text need nothing else. For all others, the data set has a column `images` (a list of
    images per row) or `image`. The first image of a row is the one that the reflection is about. Other columns become
    the metadata of the prompt. A score that failed is None, and trl leaves None out of the reward of a sample.

    Raises InputError if the scorer cannot score reflections.

    >>> GRPOTrainer(model, reward_funcs=[trl_reward(RepetitionScorer())], ...)
    """
    if not isinstance(scorer, ReflectionScorer):
        raise InputError(f"scorer {scorer.name!r} scores no texts, and trl rewards texts: take a scorer of reflections")

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        texts = [_text(completion) for completion in completions]
        if isinstance(scorer, TextScorer):
            return scorer.score_texts(texts)
        metadata = {name: values for name, values in columns.items() if name != IDS and isinstance(values, list)}
        images = _images(scorer, metadata)
        asked = [
            Prompt(str(row), _text(prompt), {name: values[row] for name, values in metadata.items()})
            for row, prompt in enumerate(prompts)
        ]
        return scorer.score_reflections(images, asked, texts)

    reward.__name__ = scorer.name  # trl names its metrics by it
    return reward


def _text(said: str | Sequence[dict[str, Any]]) -> str:
    """Return the text of a prompt or completion of trl. Of several messages, the last one counts."""
    if isinstance(said, str):
        return said
    content = said[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _images(scorer: Scorer, columns: dict[str, list[Any]]) -> list[Image]:
    """Remove the images from the columns and return the first image of each row."""
    many, single = columns.pop("images", None), columns.pop("image", None)
    if many is None and single is None:
        raise InputError(f"scorer {scorer.name!r} looks at images: the data set needs a column `images` or `image`")
    found = [row[0] for row in many] if many is not None else single or []
    return [np.asarray(image.convert("RGB")) for image in found]
