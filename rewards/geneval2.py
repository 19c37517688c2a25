"""GenEval 2's Soft-TIFA as a scorer: the metadata of a prompt have questions with their right answers."""

from collections.abc import Sequence
from typing import Any

from irg_rl.soft_tifa import Aggregate, accepted, asked
from irg_rl.trajectory import Prompt
from rewards.atomic import Atom, AtomicScorer, NoAtoms
from rewards.judge import require_answer
from rewards.judge_answer import RightWord
from rewards.judge_connection import connect, with_connection

FIELD = "vqa_list"
"""The field of a prompt's metadata that has its questions: a list of pairs (question, right answer), as in
geneval2_data.jsonl."""
MOST_QUESTIONS = 64


@with_connection
class GenEval2Scorer(AtomicScorer):
    """Scores images by the questions in the metadata of their prompts (Soft-TIFA, see irg_rl/soft_tifa.py). The score
    of a question is the probability that the first token of the judge's answer is right. It needs the server's
    log-probabilities.

    `aggregate`: mean is the published AM, geometric the published GM. `connect` in rewards/judge_connection.py
    explains all other settings.
    """

    def __init__(self, base_url: str, name: str = "geneval2", aggregate: Aggregate = "mean", **connection: Any) -> None:
        usual: dict[str, Any] = {"top_logprobs": RightWord.alternatives, "max_tokens": 1}
        super().__init__(name, connect(base_url, **(usual | connection)), aggregate)

    def check(self) -> None:
        """Ask one question about a grey image. Raises ScorerUnavailable if no usable answer comes."""
        atom = atom_of("Is this image grey?", "yes")
        require_answer(self.client, atom.question, atom.form)

    def atoms(self, prompts: Sequence[Prompt]) -> list[list[Atom] | NoAtoms]:
        return [atoms_of(prompt) for prompt in prompts]


def atoms_of(prompt: Prompt) -> list[Atom] | NoAtoms:
    """Return the questions in the metadata of a prompt, or why there are none."""
    pairs = prompt.metadata.get(FIELD)
    is_list = isinstance(pairs, list | tuple)
    if not is_list or not 0 < len(pairs) <= MOST_QUESTIONS or not all(_is_pair(pair) for pair in pairs):
        return NoAtoms(
            f"prompt {prompt.id!r} has no metadata field {FIELD!r} with 1 to {MOST_QUESTIONS} pairs of question and "
            "answer: limit the scorer to other prompts with `when`"
        )
    return [atom_of(question, answer) for question, answer in pairs]


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(t, str) and t.strip() for t in pair)


def atom_of(question: str, answer: str) -> Atom:
    return Atom(asked(question), RightWord(accepted(answer)))
