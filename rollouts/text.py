"""Sample texts from a batch of contexts, token by token.

A text is sampled from softmax(logits / temperature), without top-k or top-p. So training uses the same distribution as
sampling. At temperature 0 (evaluation), every token is the most likely one. The sampled ids stay in the key-value
cache; the text is not tokenized again. If a text reaches the token limit, an eos that was not sampled is added to the
cache.

Letters: R rows, T token limit, V vocabulary.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from irg_rl.model.cache import KVCache
from irg_rl.model.unified import UnifiedModel


@dataclass(frozen=True)
class SampledText:
    """The sampled ids of a text, and their log-probabilities in fp32. The ids include eos only if it was sampled."""

    ids: Int[Tensor, "T"]
    logprobs: Float[Tensor, "T"]
    finished: bool


def sample_texts(
    model: UnifiedModel, cache: KVCache, rows: Int[Tensor, "R"], uniforms: Float[Tensor, "R T"], temperature: float
) -> list[SampledText]:
    """Sample one text per row of the key-value cache, and return the texts. The start token (bos), the sampled ids and
    the end token (eos) of each text are added to the cache. Token i of each text is chosen by the random numbers
    `uniforms[:, i]`. A text ends when its eos is sampled, or when it has T tokens."""
    count, limit = uniforms.shape
    bos, eos = model.special.bos, model.special.eos
    device = cache.keys[0].device
    ids = torch.full((count, limit), eos)
    logprobs = torch.zeros(count, limit)
    lengths = torch.full((count,), limit)
    finished = torch.zeros(count, dtype=torch.bool)
    alive = torch.arange(count)
    token = torch.full((count,), bos)
    decode = model.decoder(cache, rows, limit + 2)
    for step in range(limit + 1):
        logits = decode(token, alive)
        going_on = token != eos  # the other rows have just put their eos into the context
        if not going_on.all():
            alive, logits = alive[going_on], logits[going_on.to(device)]
        if step == limit or not len(alive):
            break
        token, logprob = draw(logits, uniforms[alive, step].to(device), temperature)
        token = token.cpu()
        ids[alive, step], logprobs[alive, step] = token, logprob.cpu()
        ended = token == eos
        finished[alive[ended]], lengths[alive[ended]] = True, step + 1
    if len(alive):
        decode(torch.full((len(alive),), eos), alive)
    return [
        SampledText(ids[row, :length].clone(), logprobs[row, :length].clone(), bool(finished[row]))
        for row, length in enumerate(lengths.tolist())
    ]


def draw(
    logits: Float[Tensor, "R V"], uniform: Float[Tensor, "R"], temperature: float
) -> tuple[Int[Tensor, "R"], Float[Tensor, "R"]]:
    """Draw one token per row, and return (the tokens, their log-probabilities in fp32). The token is found by inverting
    the cumulative distribution of the row at the random number `uniform`, which lies in [0, 1).

    The cumulative sum is in fp64, and `uniform` is multiplied by the last value of this sum. So a token of probability
    0 is never drawn. At temperature 0, the most likely tokens are returned, with their log-probabilities at temperature
    1.
    """
    if temperature == 0:
        logprob, token = torch.log_softmax(logits.float(), dim=-1).max(-1)
        return token, logprob
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    cumulative = logprobs.double().exp().cumsum(-1)
    place = uniform.double()[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, place, right=True).clamp_(max=logits.shape[1] - 1)
    return token[:, 0], logprobs.gather(1, token)[:, 0]
