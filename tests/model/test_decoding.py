"""Attention of single tokens, as the recorded step of a GPU has it, computes what the cache's own attention computes.
(That the recorded step does: tests/model/test_gpu_kernels.py.)"""

import pytest
import torch

from irg_rl.model.decoding import GraphDecoder, SingleTokens
from irg_rl.model.init import initialize
from irg_rl.model.unified import UnifiedModel
from tests.model.sizes import SPECIAL, close, tiny_config


@torch.no_grad()
@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 2]])
def test_single_tokens_see_what_next_logits_sees(rows):
    model = initialize(UnifiedModel(tiny_config(), SPECIAL), 0, (2, 2), (2, 2))
    assert model.config.llm.num_attention_heads > model.config.llm.num_key_value_heads
    mine, theirs = (model.new_cache(3, 32) for _ in range(2))
    for cache in (mine, theirs):
        model.prefill_text(cache, [[1, 2, 3], [4], [5, 6]])
    where, tokens = torch.tensor(rows), torch.tensor([7, 8, 9][: len(rows)])
    which = None if len(rows) == 3 else where
    trunk = model.language_model.model
    attend = SingleTokens(mine, which, mine.lengths[where], span=int(mine.lengths.max()) + 4)
    und, _ = trunk(trunk.embed_tokens(tokens), None, mine.positions[where], attend)
    close(model.language_model.lm_head(und), model.next_logits(theirs, tokens, which), 1e-5)
    for one, other in zip(mine.keys + mine.values, theirs.keys + theirs.values):
        close(one, other, 1e-5)


def test_a_full_context_is_refused_before_anything_is_recorded():
    """On a card an index beyond the cache would end every later call of the process."""
    model = initialize(UnifiedModel(tiny_config(), SPECIAL), 0, (2, 2), (2, 2))
    cache = model.new_cache(2, 5)  # three tokens and the marks around them
    model.prefill_text(cache, [[1, 2, 3], [4]])
    with pytest.raises(ValueError, match="a context of 6 tokens exceeds the 5"):
        GraphDecoder(model.language_model, cache, torch.tensor([0, 1]), 2)
