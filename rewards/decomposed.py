"""Scores images by decomposed questions: a language model splits each prompt into yes/no questions about single facts,
and a judge answers them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from irg_rl.soft_tifa import Aggregate
from irg_rl.trajectory import Prompt
from rewards.atomic import Atom, AtomicScorer, NoAtoms
from rewards.base import ScorerUnavailable
from rewards.judge import TESTED, require_answer
from rewards.judge_answer import YES_OR_NO
from rewards.judge_connection import connect, with_connection
from rewards.questions import template
from rewards.splitting import OF_ANSWERS, SPLIT, Splitter, splitter_settings

PART = template("part-yes-no.1")


@with_connection
class DecomposedScorer(AtomicScorer):
    """Scores images by the questions into which a language model splits their prompts. The score of a question is the
    probability of yes, as with `judge`.

    A prompt is split once. Its questions are kept in `split_folder`, and later runs use them again. `split_question` is
    what the language model is asked; {prompt} stands for the prompt and {most} for `most_questions`, the largest number
    of questions. `splitter` has the settings of the language model's server: those of `connect` in
    rewards/judge_connection.py. If it is empty, the judge itself splits the prompts. `connect` explains all other
    settings.
    """

    def __init__(
        self,
        base_url: str,
        split_folder: str | Path,
        name: str = "decomposed",
        aggregate: Aggregate = "mean",
        split_question: str = SPLIT,
        most_questions: Annotated[int, Field(ge=1, le=64)] = 16,
        splitter: Mapping[str, Any] | None = None,
        **connection: Any,
    ) -> None:
        super().__init__(name, connect(base_url, **connection), aggregate)
        own = {setting: value for setting, value in connection.items() if setting not in (*OF_ANSWERS, "max_tokens")}
        asked = splitter_settings(splitter) if splitter else {"base_url": base_url, **own}
        self.splitter = Splitter(asked, split_question, most_questions, Path(split_folder).expanduser())

    def check(self) -> None:
        """Split one prompt without keeping it, and ask one question about a grey image. Raises ScorerUnavailable if no
        usable answer comes."""
        try:
            self.splitter.ask(TESTED.text)
        except NoAtoms as failure:
            raise ScorerUnavailable(f"{failure}. Start the server, or correct base_url or splitter") from failure
        require_answer(self.client, _asked("Is this image grey?"), YES_OR_NO)

    def atoms(self, prompts: Sequence[Prompt]) -> list[list[Atom] | NoAtoms]:
        found = self.splitter.split(dict.fromkeys(prompt.text for prompt in prompts))
        return [
            questions if isinstance(questions := found[prompt.text], NoAtoms)
            else [Atom(_asked(question), YES_OR_NO) for question in questions]
            for prompt in prompts
        ]  # fmt: skip


def _asked(question: str) -> str:
    return PART.replace("{question}", question)
