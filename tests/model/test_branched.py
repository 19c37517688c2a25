"""Rows with branches: attention a branch at a time gives the numbers and gradients of the whole row."""

from dataclasses import replace

import pytest
import torch

from irg_rl.model.attention import Backend, ContextGrad
from irg_rl.model.branched import alike
from irg_rl.model.flops import Workload
from irg_rl.model.layout import Kind, Layout, views
from irg_rl.model.unified import UnifiedModel
from tests.model.sizes import SPECIAL, close
from tests.model.test_pack import GRID, _latents, _patches


def image(builder, parent, seed):
    """A drawn image: its noise block, then its clean latents and patches; returns the block to continue."""
    builder.add_noise(_latents(seed), 0.5, GRID, parent)
    return builder.add_vit(_patches(seed), GRID, builder.add_clean(_latents(seed + 1), GRID, parent))


def a_fork_of_a_fork(builder):
    """prompt, think, image; two reflections of different length, the second of which is followed by an image and two
    reflections; then an ordinary row."""
    seen = image(builder, builder.add_text([5, 6, 7], builder.add_text([1, 2]), loss=True), 0)
    builder.new_branch()
    first = builder.add_text([8, 9, 10, 11, 12, 13], seen, loss=True)
    builder.add_noise(_latents(4), 0.25, GRID, first)
    builder.new_branch()
    again = image(builder, builder.add_text([14], seen, loss=True), 6)
    for ids in ([15, 16], [17, 18, 19]):
        builder.new_branch()
        builder.add_noise(_latents(ids[0]), 0.75, GRID, builder.add_text(ids, again, loss=True))
    builder.new_row()
    builder.add_noise(_latents(5), 0.7, GRID, builder.add_text([3, 4, 5], loss=True))


@pytest.fixture
def pack(tiny):
    builder = tiny.pack_builder()
    a_fork_of_a_fork(builder)
    return builder.build()


def outcome(model, pack, **options):
    model.zero_grad(set_to_none=True)
    out = model(pack, **options)
    weight = torch.randn(out.logits.shape, generator=torch.Generator().manual_seed(3))
    (out.logits * weight).sum().add(out.velocity.square().sum()).backward()
    return out, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("context_grad", list(ContextGrad))
def test_branches_give_the_numbers_and_gradients_of_the_whole_row(tiny, pack, context_grad):
    assert len(pack.views) == 6
    branched, gradients = outcome(tiny, pack, context_grad=context_grad)
    whole, expected = outcome(tiny, replace(pack, views=[]), context_grad=context_grad)
    close(branched.logits, whole.logits, 1e-5)
    close(branched.velocity, whole.velocity, 1e-5)
    assert gradients.keys() == expected.keys()
    rounding = 1e-7 * max(float(gradient.abs().max()) for gradient in expected.values())  # a key's bias has gradient 0
    for name, gradient in expected.items():
        assert float((gradients[name] - gradient).abs().max()) <= 1e-5 * float(gradient.abs().max()) + rounding, name


def test_a_branch_is_what_a_row_of_its_own_would_be(tiny, pack):
    builder = tiny.pack_builder()
    seen = image(builder, builder.add_text([5, 6, 7], builder.add_text([1, 2])), 0)
    again = image(builder, builder.add_text([14], seen), 6)
    last = builder.add_text([17, 18, 19], again, loss=True)
    noise = builder.add_noise(_latents(17), 0.75, GRID, last)
    alone = builder.build()
    with torch.no_grad():
        own, shared = tiny(alone), tiny(pack)
    targets = alone.logit_targets.tolist()
    (place,) = [s for s in pack.logit_slices.values() if pack.logit_targets[s].tolist() == targets]
    close(shared.logits[place], own.logits, 1e-5)
    velocities = [shared.velocity[s] for s in pack.velocity_slices.values()]
    gaps = [float((v - own.velocity[alone.velocity_slices[noise]]).abs().max()) for v in velocities]
    assert sorted(gaps)[0] < 1e-5 < sorted(gaps)[1]


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_needs_no_branches_and_gives_the_same(tiny, pack):
    flex = UnifiedModel(tiny.config, SPECIAL, Backend.FLEX)
    flex.load_state_dict(tiny.state_dict())
    with torch.no_grad():
        close(flex(pack).velocity, tiny(pack).velocity, 1e-5)


def test_views_hold_every_token_once_and_see_ancestors_alone():
    row = Layout()
    think = row.add(Kind.TEXT, 3)
    row.add(Kind.NOISE, 4, think)
    vit = row.add(Kind.VIT, 2, think)
    row.new_branch()
    row.add(Kind.NOISE, 4, row.add(Kind.TEXT, 1, vit))
    row.new_branch()
    row.new_branch()  # nothing was added: still the same branch
    row.add(Kind.TEXT, 2, think)
    trunk, first, second = views([row])
    assert [v.own for v in (trunk, first, second)] == [range(0, 15), range(15, 24), range(24, 28)]
    assert trunk.context.tolist() == []
    assert first.context.tolist() == [*range(0, 5), *range(11, 15)]  # the noise block between is nobody's ancestor
    assert second.context.tolist() == [*range(0, 5)]


def test_a_row_without_branches_has_no_views(tiny):
    builder = tiny.pack_builder()
    builder.add_text([1], builder.add_text([2]))
    assert builder.build().views == []


def test_the_pairs_of_branches_are_counted_as_they_are_attended(pack):
    batches = alike(pack.views)
    assert sum(map(len, batches)) == 6
    padded = sum(len(b) * max(len(v.own) for v in b) * max(v.keys for v in b) for b in batches)
    assert Workload.of(pack).pairs == padded < Workload.of(replace(pack, views=[])).pairs
