"""Drawing one token."""

import math

import torch

from rollouts.text import draw


def test_tokens_are_drawn_with_their_probabilities():
    logits = torch.tensor([[0.0, math.log(3.0), -math.inf, 0.0]]).expand(10_000, -1)  # .2 .6 0 .2
    uniform = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    tokens, logprobs = draw(logits, uniform, 1.0)
    assert torch.bincount(tokens, minlength=4).tolist() == [2000, 6000, 0, 2000]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.2, 0.6, 0.0, 0.2])[tokens])


def test_temperature_scales_the_logits_of_draw_and_logprob():
    logits = torch.tensor([[0.0, 2 * math.log(3.0)]])
    token, logprob = draw(logits, torch.tensor([0.2]), 2.0)
    assert token.item() == 0 and math.isclose(logprob.item(), math.log(0.25), rel_tol=1e-6)


def test_an_impossible_token_is_not_drawn_at_either_end():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]]).expand(2, -1)
    assert draw(logits, torch.tensor([0.0, 1 - 1e-16], dtype=torch.float64), 1.0)[0].tolist() == [1, 1]


def test_logprobs_of_half_precision_logits_are_fp32():
    logits = torch.randn(3, 50, dtype=torch.bfloat16)
    tokens, logprobs = draw(logits, torch.full((3,), 0.5), 1.0)
    torch.testing.assert_close(logprobs, torch.log_softmax(logits.float(), -1).gather(1, tokens[:, None])[:, 0])
    assert logprobs.dtype == torch.float32


def test_temperature_zero_takes_the_most_likely_token_whatever_the_uniform_number():
    logits = torch.tensor([[0.0, math.log(3.0), -1.0]]).expand(5, -1)
    tokens, logprobs = draw(logits, torch.linspace(0, 0.99, 5), 0.0)
    assert tokens.tolist() == [1] * 5
    torch.testing.assert_close(logprobs, torch.log_softmax(logits, -1)[:, 1])
