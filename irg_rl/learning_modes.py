"""The six learning modes (kinds of SFT rows) of Interleaving Reasoning Generation (IRG), and the conversations of their
rows.

A row is a conversation: a list of turns. A user turn is {role, content: str, need_loss}. The content of an assistant
turn is a list of texts and images: {type: text, content, need_loss} or {type: image, content: base64 of an image file,
need_loss, need_vae, need_vit}. `need_loss` says whether this text or image is a training target. `need_vae` and
`need_vit` say whether the model sees the image, through its VAE and its ViT. These flags alone define the mode.

    mode                                       sequence; what is in brackets is only a condition
    initial_thinking_understanding_learning    [prompt] [image] [question] thinking
    initial_thinking_generation_learning       [prompt] thinking
    initial_full_learning                      [prompt] thinking, image
    improving_thinking_understanding_learning  [prompt] [image 1] [image 2] [question] reflection
    improving_thinking_generation_learning     [prompt] [thinking] [image 1] reflection
    improving_full_learning                    [prompt] [thinking] [image 1] reflection, image 2, ...

The table is that of the paper (arXiv 2509.06945, equations 4 to 9).
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

INITIAL_UNDERSTANDING = "initial_thinking_understanding_learning"
INITIAL_GENERATION = "initial_thinking_generation_learning"
INITIAL_FULL = "initial_full_learning"
IMPROVING_UNDERSTANDING = "improving_thinking_understanding_learning"
IMPROVING_GENERATION = "improving_thinking_generation_learning"
IMPROVING_FULL = "improving_full_learning"
INITIAL = (INITIAL_UNDERSTANDING, INITIAL_GENERATION, INITIAL_FULL)
"""The modes that teach thinking and the first image."""
IMPROVING = (IMPROVING_UNDERSTANDING, IMPROVING_GENERATION, IMPROVING_FULL)
"""The modes that teach reflections on a first image, and the refined image."""
MODES = (*INITIAL, *IMPROVING)

ROW_GROUPS = 8
"""Number of row groups (blocks of rows) per file. SFT shuffles the groups, and holds one of them in memory."""

Messages = list[dict]
"""A conversation."""
EncodedStep = tuple[str, str | None]
"""A reflection, and the refined image that it leads to, as base64. The image is None if nothing is to be changed."""


def user_turn(text: str) -> dict:
    return {"role": "user", "content": text, "need_loss": False}


def assistant_turn(*parts: dict) -> dict:
    return {"role": "assistant", "content": list(parts)}


def text_part(content: str, need_loss: bool) -> dict:
    return {"type": "text", "content": content, "need_loss": need_loss}


def condition_image(encoded: str) -> dict:
    """Return an image that the model sees. `encoded` is the base64 of an image file."""
    return {"type": "image", "content": encoded, "need_loss": False, "need_vae": True, "need_vit": True}


def target_image(encoded: str, seen_later: bool = False) -> dict:
    """Return an image that the model learns to draw. If `seen_later` is True, the model also sees it in what follows.
    `encoded` is the base64 of an image file."""
    return {"type": "image", "content": encoded, "need_loss": True, "need_vae": seen_later, "need_vit": seen_later}


def initial_conversation(mode: str, prompt: str, think: str, image: str, question: str) -> Messages:
    """Return a row of an initial mode. `image` is the base64 of a good image of the prompt. `question` is used only by
    the mode initial_thinking_understanding_learning. Raises KeyError if the mode is not an initial mode."""
    trained = text_part(think, True)
    return {
        INITIAL_UNDERSTANDING: [
            user_turn(prompt), assistant_turn(condition_image(image)), user_turn(question), assistant_turn(trained),
        ],
        INITIAL_GENERATION: [user_turn(prompt), assistant_turn(trained)],
        INITIAL_FULL: [user_turn(prompt), assistant_turn(trained, target_image(image))],
    }[mode]  # fmt: skip


def improving_conversation(
    mode: str, prompt: str, think: str, first: str, steps: Sequence[EncodedStep], question: str
) -> Messages:
    """Return a row of an improving mode. `first` is the base64 of the first image. `steps` are the reflections with the
    refined images. Only the mode improving_full_learning may have several. `question` is used only by the mode
    improving_thinking_understanding_learning. Raises KeyError if the mode is not an improving mode."""
    return {
        IMPROVING_UNDERSTANDING: _reflection_with_both_images,
        IMPROVING_GENERATION: _reflection_alone,
        IMPROVING_FULL: _reflections_and_images,
    }[mode](prompt, think, first, steps, question)


def _reflection_with_both_images(
    prompt: str, think: str, first: str, steps: Sequence[EncodedStep], question: str
) -> Messages:
    [(reflection, second)] = steps
    seen = assistant_turn(*(condition_image(image) for image in (first, second) if image is not None))
    return [user_turn(prompt), seen, user_turn(question), assistant_turn(text_part(reflection, True))]


def _reflection_alone(prompt: str, think: str, first: str, steps: Sequence[EncodedStep], question: str) -> Messages:
    [(reflection, _)] = steps
    parts = text_part(think, False), condition_image(first), text_part(reflection, True)
    return [user_turn(prompt), assistant_turn(*parts)]


def _reflections_and_images(
    prompt: str, think: str, first: str, steps: Sequence[EncodedStep], question: str
) -> Messages:
    parts = [text_part(think, False), condition_image(first)]
    for number, (reflection, image) in enumerate(steps, 1):
        parts.append(text_part(reflection, True))
        if image is not None:
            parts.append(target_image(image, seen_later=number < len(steps)))
    return [user_turn(prompt), assistant_turn(*parts)]


def write_columns(path: Path, columns: Mapping[str, Sequence[str]]) -> None:
    """Write columns of texts as a parquet file in several row groups. The file appears only when it is complete, and if
    writing fails, no incomplete file is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    try:
        pq.write_table(table, aside, row_group_size=max(1, -(-len(table) // ROW_GROUPS)), compression="NONE")
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
