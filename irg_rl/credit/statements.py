"""Credit of single statements: every token of a reflection is trained by the statement that it belongs to.

A reflection makes several statements, of which some may be true and others false. One advantage for the whole text
would teach its true words and its false words the same.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from irg_rl.credit.statistics import mean
from irg_rl.errors import InputError
from irg_rl.trajectory import Statement, TextSegment, Trajectory


def give_token_advantages(trajectories: Sequence[Trajectory], weights: Mapping[str, float]) -> None:
    """Store the `token_advantages` of all reflections of the trajectories, which belong to one group. `weights` has the
    weight of each scorer of statements.

        A_token = sum over scorers of weight * (score of the token's statement - mean score)

    The mean is taken over all statements that the group makes in this turn. It is not divided by a standard deviation,
    so a group in which every statement has the same score trains nothing. Tokens outside of statements get 0. A text
    that several trajectories share counts once.
    """
    texts = {id(text): text for trajectory in trajectories for text in trajectory.texts if text.turn}.values()
    for name, weight in weights.items():
        scored = [text for text in texts if name in text.statements]
        for turn in sorted({text.turn for text in scored}):
            own = [text for text in scored if text.turn == turn]
            centre = mean([one.score for text in own for one in text.statements[name]] or [0.0])
            for text in own:
                _add(text, weight * on_tokens(text, text.statements[name], centre))


def _add(text: TextSegment, values: Float[Tensor, "T"]) -> None:
    text.token_advantages = values if text.token_advantages is None else text.token_advantages + values


def on_tokens(text: TextSegment, statements: Iterable[Statement], centre: float) -> Float[Tensor, "T"]:
    """Return for each token of a text the score of its statement minus `centre`, or 0 for a token outside of all
    statements. A token belongs to the statement of its last character. The end-of-text token belongs to the statement
    that ends the text. Raises InputError if the sampler has not recorded where the tokens end."""
    if text.ends is None:
        raise InputError(f"a text of turn {text.turn} does not say where its tokens end: sample it with this version")
    last: Int[Tensor, "T"] = text.ends - 1
    values = torch.zeros(len(last))
    for begin, end, score in statements:
        values[(last >= begin) & (last < end)] = score - centre
        if text.finished and end == len(text.text):
            values[-1] = score - centre
    return values
