"""Makes the rows of the six learning modes from a finished candidate, with columns that say where each row comes from.

A row has the column `conversation`, which SFT reads, and the columns of `COLUMNS`, which people read.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from irg_rl.config.data import DataRecipe
from irg_rl.data.candidates import Candidate, Steps
from irg_rl.data.judging import QUESTIONS
from irg_rl.data.texts import tagged
from irg_rl.learning_modes import (
    IMPROVING,
    IMPROVING_GENERATION,
    INITIAL,
    EncodedStep,
    Messages,
    improving_conversation,
    initial_conversation,
)

COLUMNS = {
    "prompt_id": "id of the prompt",
    "prompt": "text of the prompt",
    "first_image": "the model that drew the first image, or its folder",
    "improved_image": "the model or editor that drew the improved image, or its folder; empty: the row shows none",
    "teacher": "model that wrote the texts",
    "template": "digest of the questions that teacher and judge were asked",
    "judge": "model that decided what is kept",
    "scores": "JSON: what the judge said, as probabilities",
    "repairs": "JSON: how the texts were repaired",
    "recipe": "digest of the recipe",
}
"""Columns beside `conversation`, and what they hold."""


@dataclass(frozen=True)
class DataRow:
    """A row of one learning mode. `is_stop` is True if its reflection says that nothing has to change."""

    mode: str
    conversation: Messages
    origin: dict[str, str]
    is_stop: bool = False


def rows_of(one: Candidate, steps: Steps) -> list[DataRow]:
    """Return all rows of a candidate, one for each mode that has what it needs."""
    wanted = steps.recipe.rows.modes
    made = [*_initial_rows(one, steps), *_improving_rows(one, steps)]
    return [row for row in made if row.mode in wanted]


def _initial_rows(one: Candidate, steps: Steps) -> list[DataRow]:
    image = steps.good_image(one)
    if image is None or one.thinking is None:
        return []
    question, think = steps.recipe.rows.initial_question, tagged(one.thinking)
    origin = _origin(one, steps.recipe, shows_improved=one.is_kept)
    return [
        DataRow(mode, initial_conversation(mode, one.prompt.text, think, image.encoded, question), origin)
        for mode in INITIAL
    ]


def _improving_rows(one: Candidate, steps: Steps) -> list[DataRow]:
    if one.first is None or one.plan is None or one.reflection is None:
        return []
    changes = steps.asks_for_change(one)
    second = one.improved.encoded if one.is_kept and one.improved is not None else None
    step: EncodedStep = (tagged(one.reflection), second)
    # Without an improved image, a reflection that asks for a change can only teach the mode that ends with it.
    modes = IMPROVING if second is not None or not changes else (IMPROVING_GENERATION,)
    question, plan, first = steps.recipe.rows.improving_question, tagged(one.plan), one.first.encoded
    origin = _origin(one, steps.recipe, shows_improved=second is not None)
    return [
        DataRow(
            mode, improving_conversation(mode, one.prompt.text, plan, first, [step], question), origin, not changes
        )
        for mode in modes
    ]


def thinned(rows: Sequence[DataRow], stop_share: float, seed: int) -> tuple[list[DataRow], list[DataRow]]:
    """Leave out stop rows (rows whose reflection says that nothing has to change) until they are at most the share
    `stop_share` of their mode. Return (kept rows, left-out rows). A hash of the prompt's id decides which ones stay, so
    every mode keeps the same prompts.

    With c rows that ask for a change, at most c p / (1 - p) stop rows stay, where p is the share.
    """
    kept, left_out = [], []
    for mode in dict.fromkeys(row.mode for row in rows):
        mine = [row for row in rows if row.mode == mode]
        stops = sorted((row for row in mine if row.is_stop), key=lambda row: _order(row, seed))
        changes = len(mine) - len(stops)
        most = len(stops) if mode in INITIAL or stop_share == 1 else int(changes * stop_share / (1 - stop_share))
        over = {id(row) for row in stops[most:]}
        kept += [row for row in mine if id(row) not in over]
        left_out += stops[most:]
    return kept, left_out


def _order(row: DataRow, seed: int) -> str:
    return hashlib.sha256(f"{seed}\n{row.origin['prompt_id']}".encode()).hexdigest()


def columns_of(rows: Sequence[DataRow]) -> dict[str, list[str]]:
    """Return the columns of a parquet file with these rows."""
    columns = {"conversation": [json.dumps(row.conversation) for row in rows]}
    return columns | {name: [row.origin[name] for row in rows] for name in COLUMNS}


def template_digest(recipe: DataRecipe) -> str:
    """Return a digest of all questions to teacher and judge. Rows with equal digests were asked for in equal words."""
    words = recipe.teacher
    asked = [
        words.think_question, words.think_of_image_question, words.reflect_question,
        words.reflect_with_target_question, list(words.headings), words.stop_phrase, words.language, QUESTIONS,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]


def _origin(one: Candidate, recipe: DataRecipe, shows_improved: bool) -> dict[str, str]:
    repairs = [repair for writing in one.writings for repair in writing.provenance]
    images, improve = recipe.images, recipe.improve
    drawn_by = {
        "folder": improve.folder, "model": recipe.redrawing_model,
        "editor": improve.editor.model if improve.editor else None,
    }.get(improve.by)  # fmt: skip
    return {
        "prompt_id": one.prompt.id,
        "prompt": one.prompt.text,
        "first_image": f"model: {images.model}" if images.model else f"folder: {images.folder}",
        "improved_image": f"{improve.by}: {drawn_by}" if shows_improved else "",
        "teacher": recipe.teacher.model,
        "template": template_digest(recipe),
        "judge": recipe.keep.judge.model,
        "scores": json.dumps({name: round(score, 4) for name, score in one.scores.items()}),
        "repairs": json.dumps(repairs),
        "recipe": recipe.digest(),
    }
