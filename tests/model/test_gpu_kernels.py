"""What only a GPU can show: the compiled kernels compute what SDPA computes."""

import copy

import pytest
import torch

from irg_rl.model.attention import Backend, ContextGrad
from irg_rl.model.init import initialize
from irg_rl.model.unified import UnifiedModel
from tests.model.sizes import SPECIAL, close, tiny_config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
GRID = (2, 2)


@pytest.fixture
def model() -> UnifiedModel:
    """Four heads of 16 numbers, the fewest that FlexAttention takes, which share two keys and values."""
    config = tiny_config(hidden_size=64)
    made = initialize(UnifiedModel(config, SPECIAL), 0, GRID, GRID)
    torch.nn.init.normal_(made.llm2vae.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    return made.cuda()


def latents(seed: int) -> torch.Tensor:
    return torch.randn(4, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("context_grad", ContextGrad)
@pytest.mark.parametrize("words", [20, 300])
def test_flex_attention_gives_the_numbers_and_the_gradients_of_the_dense_mask(model, words, context_grad):
    builder = model.pack_builder()
    for row in range(3):
        builder.new_row()
        think = builder.add_text([5 + row] * (words // (row + 1)), builder.add_text([1, 2]), loss=True)
        builder.add_noise(latents(row), 0.5, GRID, think)
        clean = builder.add_clean(latents(row + 3), GRID, think)
        seen = builder.add_vit(torch.randn(4, 192, generator=torch.Generator().manual_seed(row)), GRID, clean)
        builder.add_noise(latents(row + 6), 0.25, GRID, builder.add_text([8, 9], seen, loss=True))
    pack = builder.build(touch_all=True).to("cuda")
    found = {}
    for backend in (Backend.SDPA, Backend.FLEX):
        model.attention = backend
        model.zero_grad(set_to_none=True)
        output = model(pack, context_grad=context_grad)
        (output.logits.logsumexp(-1).mean() + output.velocity.square().mean()).backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        found[backend] = (output.logits, output.velocity, gradients)
    for one, other in zip(found[Backend.FLEX], found[Backend.SDPA]):
        close(one, other, 1e-3)


@torch.no_grad()
def test_flash_attention_gives_the_numbers_of_sdpa(model):
    pytest.importorskip("flash_attn")
    found = []
    for backend in (Backend.SDPA, Backend.FLASH):
        half = copy.deepcopy(model).bfloat16()
        half.attention = backend
        cache = half.new_cache(3, 64)
        half.prefill_text(cache, [[1, 2, 3], [4], [5, 6]])
        half.prefill_text(cache, [[7] * 5, [8], [9, 9]])  # texts that see what is cached and not what comes after
        some = torch.tensor([0, 2])
        logits = half.next_logits(cache, torch.tensor([SPECIAL.bos, SPECIAL.bos]), some)
        x = torch.stack([latents(0), latents(1), latents(2)]).cuda()
        found.append((logits, half.velocity(cache, x, torch.tensor([0.3, 0.5, 0.8]), GRID)))
    for one, other in zip(*found):
        close(one, other, 0.03)


@torch.no_grad()
@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 2]])
def test_a_recorded_step_gives_the_logits_of_steps_one_by_one(model, rows):
    ids = torch.randint(5, 40, (6, len(rows)), generator=torch.Generator().manual_seed(2))
    recorded, plain = (model.new_cache(3, 64) for _ in range(2))
    for cache in (recorded, plain):
        model.prefill_text(cache, [[1, 2, 3], [4], [5, 6]])
    where = torch.tensor(rows)
    decode = model.decoder(recorded, where, len(ids))
    for step, tokens in enumerate(ids):
        some = torch.arange(len(rows) - (step > 2))  # the last text ends early
        close(decode(tokens[some], some), model.next_logits(plain, tokens[some], where[some]), 1e-4)
    with pytest.raises(ValueError, match="exceeds"):
        decode(ids[0], torch.arange(len(rows)))
    after = []
    for cache in (recorded, plain):
        model.prefill_text(cache, [[7], [8, 9], [10]])
        after.append(model.next_logits(cache, torch.tensor([3, 4, 5])))
    close(*after, 1e-4)
    assert torch.equal(recorded.lengths, plain.lengths) and torch.equal(recorded.positions, plain.positions)
