"""Scores images by several questions about each, one for every single fact (atom) of the prompt. A subclass says where
the questions come from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from irg_rl.soft_tifa import Aggregate, aggregate
from irg_rl.trajectory import Prompt
from rewards.base import Image, Score, ScorerUnavailable, require_pairs
from rewards.judge import to_pngs
from rewards.judge_answer import AnswerForm
from rewards.judge_client import JudgeClient, JudgeFailure, Question


@dataclass(frozen=True)
class Atom:
    """A question about one fact of a prompt, and the form of its answer. Its score is in [0, 1]."""

    question: str
    form: AnswerForm


class NoAtoms(ValueError):
    """Raised if a prompt has no questions. The message says why."""


class AtomicScorer(ABC):
    """Asks a judge all questions about an image. The score is the `aggregate` of their scores, in [0, 1]: their mean,
    their geometric mean or their product. If one question fails, the score of the image has failed."""

    def __init__(self, name: str, client: JudgeClient, aggregate: Aggregate) -> None:
        self.name, self.last_error = name, ""
        self.client = client
        self.aggregate: Aggregate = aggregate

    @abstractmethod
    def atoms(self, prompts: Sequence[Prompt]) -> list[list[Atom] | NoAtoms]:
        """Return the questions of every prompt, at least one of each, or why there are none."""

    @abstractmethod
    def check(self) -> None:
        """Raise ScorerUnavailable if the scorer cannot work now."""

    def score(self, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        require_pairs(images, prompts)
        found = self.atoms(prompts)
        pngs = to_pngs(images)
        asked = [_questions(pngs[id(image)], atoms) for image, atoms in zip(images, found, strict=True)]
        answers = iter(self.client.ask_all([question for questions in asked for question in questions]))
        return [
            self._score([next(answers) for _ in questions], atoms)
            for questions, atoms in zip(asked, found, strict=True)
        ]

    def _score(self, answers: Sequence[float | JudgeFailure | ScorerUnavailable], atoms: list[Atom] | NoAtoms) -> Score:
        if isinstance(atoms, NoAtoms):
            self.last_error = str(atoms)
            return None
        scores: list[float] = []
        for answer, atom in zip(answers, atoms, strict=True):
            if isinstance(answer, ScorerUnavailable):
                raise answer
            if isinstance(answer, JudgeFailure):
                self.last_error = f"{atom.question!r}: {answer}"
                return None
            scores.append(answer)
        return aggregate(scores, self.aggregate)


def _questions(png: bytes, atoms: list[Atom] | NoAtoms) -> list[Question]:
    return [] if isinstance(atoms, NoAtoms) else [Question(atom.question, (png,), atom.form) for atom in atoms]
