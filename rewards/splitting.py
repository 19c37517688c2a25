"""Splits prompts into yes/no questions with a language model, once per prompt. The questions are kept on disk."""

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from irg_rl.errors import InputError
from irg_rl.redact import redact_text
from irg_rl.sections import nearest
from irg_rl.text_in import parse_json, require_text
from rewards.answer_cache import keep, read_kept
from rewards.atomic import NoAtoms
from rewards.build import ScorerSpec, typed_options
from rewards.endpoint import SHOWN
from rewards.judge_answer import Unanswered, answered
from rewards.judge_client import JudgeFailure, Question
from rewards.judge_connection import connect
from rewards.questions import template

SPLIT = template("prompt-split.1")
MOST_CHARACTERS = 300
"""Largest length of a question."""
MAX_TOKENS = 1024
"""Longest answer of the language model in tokens, if its settings do not say otherwise."""
OF_ANSWERS = ("logprobs", "top_logprobs", "cache_size", "cache_folder")
"""Settings of `connect` that are not for splitting."""
_IS_QUESTION = re.compile(r"\w.*[?\uff1f]\s*$", re.DOTALL)
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)


class Splitter:
    """Splits prompts. `settings` are those of `connect` for the language model's server. `question` is what it gets:
    {prompt} stands for the prompt and {most} for `most`, the largest number of questions. Raises InputError if the
    question lacks {prompt}."""

    def __init__(self, settings: Mapping[str, Any], question: str, most: int, folder: Path) -> None:
        if "{prompt}" not in question:
            raise InputError(f"split_question {question!r} lacks {{prompt}}: the model would not know what to split")
        self.client = connect(**{"max_tokens": MAX_TOKENS, "logprobs": False, "cache_size": 0, **settings})
        self.question, self.most, self.folder = question, most, folder

    def split(self, prompts: Iterable[str]) -> dict[str, list[str] | NoAtoms]:
        """Return the questions of every prompt, or why there are none. Prompts whose questions are on disk are not
        asked about. Raises ScorerUnavailable if the server refuses every request."""
        found: dict[str, list[str] | NoAtoms] = {}
        new: list[str] = []
        for prompt in prompts:
            known = self._known(prompt)
            if known is None:
                new.append(prompt)
            else:
                found[prompt] = known
        with ThreadPoolExecutor(max_workers=self.client.concurrency) as pool:
            return found | dict(zip(new, pool.map(self._split, new), strict=True))

    def ask(self, prompt: str) -> list[str]:
        """Ask the language model, and return the questions. Raises NoAtoms if there is no usable answer."""
        values = {"prompt": prompt, "most": str(self.most)}
        text = re.sub(r"\{(prompt|most)\}", lambda place: values[place[1]], self.question)
        try:
            completion = self.client.chat(Question(text, ()))
            return parse_split(answered(completion)[0], self.most)
        except (JudgeFailure, Unanswered, InputError) as error:
            raise NoAtoms(f"the prompt {prompt!r:.80} is not split: {redact_text(str(error))[:SHOWN]}") from error

    def _split(self, prompt: str) -> list[str] | NoAtoms:
        try:
            questions = self.ask(prompt)
        except NoAtoms as failure:
            return failure
        about = {"prompt": prompt, "model": self.client.model, "template": self.question, "most": self.most}
        keep(self._path(prompt), about | {"questions": questions})
        return questions

    def _known(self, prompt: str) -> list[str] | None:
        """Return the questions on disk, or None if there are none or the file is damaged."""
        content = read_kept(self._path(prompt))
        try:
            return parse_split(json.dumps(content["questions"]), self.most) if isinstance(content, dict) else None
        except (InputError, KeyError):
            return None

    def _path(self, prompt: str) -> Path:
        about = json.dumps([prompt, self.question, self.most, self.client.model])
        return self.folder / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.json"


def splitter_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Check the settings of a language model's server, and return them with the types of `connect`. Raises InputError
    if one is unknown, or has the wrong type, or if `base_url` is missing."""
    known = [name for name in inspect.signature(connect).parameters if name not in OF_ANSWERS]
    for name in settings:
        if name not in known:
            raise InputError(f"splitter has no setting {name!r}{nearest(name, known)}")
    if "base_url" not in settings:
        raise InputError("splitter needs the setting base_url, the address of the language model's server")
    return typed_options(ScorerSpec("splitter", "judge", options=dict(settings)), connect)


def parse_split(text: str, most: int) -> list[str]:
    """Read the answer of the language model: a JSON list of 1 to `most` different questions. A code block around the
    list is removed. Raises InputError if the answer has another form."""
    block = _FENCE.fullmatch(text.strip())
    questions = parse_json(block[1] if block else text, "the questions")
    if not isinstance(questions, list) or not 1 <= len(questions) <= most:
        many = f"{len(questions)} questions" if isinstance(questions, list) else "no list"
        raise InputError(f"{many} where a list of 1 to {most} questions was asked for: {text!r}")
    for question in questions:
        if not isinstance(question, str) or len(question) > MOST_CHARACTERS or not _IS_QUESTION.search(question):
            raise InputError(f"{question!r:.80} is not a question of at most {MOST_CHARACTERS} characters")
        require_text(question, "the questions", control=False)
    asked = [question.strip() for question in questions]
    if len(set(asked)) < len(asked):
        raise InputError(f"the same question was asked twice: {text!r}")
    return asked
