"""Guidance branches: which contexts they are, and that they cost nothing when off."""

import pytest
import torch

from irg_rl.config import GuidanceRecipe
from irg_rl.guidance import guide
from irg_rl.model.transforms import vit_patches
from irg_rl.trajectory import Prompt
from rollouts.contexts import Contexts
from rollouts.images import ImageContext
from rollouts.request import Request
from tests.rollouts.conftest import requests

SYSTEM, PROMPT, THINK = [5, 6, 7], [10, 11, 12, 13], torch.tensor([20, 21])
REFLECTIONS = [torch.tensor([30, 31, 32]), torch.tensor([40, 41, 42, 43])]
GRID = (4, 4)


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(kit) -> list[ImageContext]:
    drawn = []
    for seed in (1, 2):
        pixels = numbers(32, 32, 3, seed=seed).mul(60).add(128).clamp(0, 255).to(torch.uint8)
        drawn.append(ImageContext(numbers(16, 16, seed=seed), GRID, *vit_patches(pixels, 8)))
    return drawn


@torch.no_grad()
def packed_velocity(kit, x: torch.Tensor, t: float, parts: list) -> torch.Tensor:
    """Velocity of x in the context of `parts` (ids or images), by a packed forward without a cache."""
    builder = kit.model.pack_builder()
    parent = None
    for part in parts:
        if isinstance(part, ImageContext):
            parent = builder.add_vit(part.patches, part.patch_grid, builder.add_clean(part.latent, part.grid, parent))
        else:
            parent = builder.add_text(part, parent)
    builder.add_noise(x, t, GRID, parent)
    return kit.model(builder.build()).velocity


def grown(kit, history: str, turn: int, guidance: GuidanceRecipe, system=SYSTEM) -> Contexts:
    """Contexts of two equal rows right before the image of `turn` is drawn."""
    rows = torch.arange(2)
    contexts = Contexts(kit.model, [PROMPT] * 2, system, 200, history, guidance)
    for index, text in enumerate([THINK, *REFLECTIONS][: turn + 1]):
        if index:
            contexts.add_images(rows, [pictures(kit)[index - 1]] * 2)
        contexts.begin_text(index)
        contexts.add_text(rows, [text] * 2)
        contexts.end_text(rows, [text] * 2, index)
    return contexts


def branches(kit, history: str, turn: int) -> tuple[list, list, list]:
    """Full, text and image context of a turn, as the table of contexts has them."""
    if turn == 0:
        return [SYSTEM, PROMPT, THINK], [SYSTEM], []
    images = pictures(kit)
    steps = list(zip(images[:turn], REFLECTIONS[:turn]))
    steps = steps[-1:] if history == "last" else steps
    base = [SYSTEM, PROMPT, THINK]
    full = base + [part for step in steps for part in step]
    return full, full[:-1], base + [reflection for _, reflection in steps]


@pytest.mark.parametrize("history", ["last", "full"])
@pytest.mark.parametrize("turn", [0, 1, 2])
def test_guided_velocities_come_from_the_named_contexts(kit, history, turn):
    recipe = GuidanceRecipe(text_scale=3.0, image_scale=2.0, renorm_min=0.2)
    x, t = numbers(16, 16, seed=9), 0.6
    contexts = grown(kit, history, turn, recipe)
    got = contexts.drawing(GRID, torch.arange(2), turn)(torch.stack([x, x]), t)
    full, text, image = (packed_velocity(kit, x, t, parts) if parts else None for parts in branches(kit, history, turn))
    expected = guide(
        full,
        text,
        image,
        text_scale=3.0,
        image_scale=2.0 if turn else 1.0,
        renorm="text_channel" if turn else "global",
        renorm_min=0.2,
    )
    torch.testing.assert_close(got[0], expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(got[1], expected, atol=2e-5, rtol=1e-5)
    assert (got[0] - full).abs().max() > 1e-2


def test_without_a_system_text_the_first_text_branch_is_an_empty_context(kit):
    recipe = GuidanceRecipe(text_scale=3.0)
    x = numbers(16, 16, seed=9)
    contexts = grown(kit, "last", 0, recipe, system=None)
    got = contexts.drawing(GRID, torch.arange(2), 0)(torch.stack([x, x]), 0.6)
    full, text = packed_velocity(kit, x, 0.6, [PROMPT, THINK]), packed_velocity(kit, x, 0.6, [])
    torch.testing.assert_close(got[0], guide(full, text, text_scale=3.0), atol=2e-5, rtol=1e-5)


def test_guidance_is_on_inside_its_interval_only(kit):
    recipe = GuidanceRecipe(text_scale=3.0, first_interval=(0.4, 1.0))
    contexts, x = grown(kit, "last", 0, recipe), numbers(1, 16, 16, seed=9).expand(2, -1, -1)
    plain = Contexts(kit.model, [PROMPT] * 2, SYSTEM, 200, "last", None)
    plain.add_text(torch.arange(2), [THINK] * 2)
    for t, guided in ((1.0, True), (0.41, True), (0.4, False), (0.1, False)):
        one, other = (drawn.drawing(GRID, torch.arange(2), 0)(x, t) for drawn in (contexts, plain))
        same = torch.equal(one, other)
        assert same is not guided


def test_scales_of_one_are_no_guidance(kit):
    off, ones = (kit.sampler(noise=None, guidance=g) for g in (None, GuidanceRecipe()))
    for one, other in zip(off.sample(requests(2)), ones.sample(requests(2))):
        assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(one.images, other.images))


def test_guided_rows_do_not_depend_on_their_batch(kit):
    recipe = GuidanceRecipe(text_scale=3.0, image_scale=2.0, first_renorm="global", renorm="global")
    sampler = kit.sampler(noise=None, guidance=recipe, is_stop=lambda text: len(text) % 3 == 0)
    asked = [Request(Prompt(f"g{i}", "one star " * (1 + i % 3)), sample=i) for i in range(6)]
    for request, together in zip(asked, sampler.sample(asked)):
        alone = sampler.sample([request])[0]
        assert len(alone.images) == len(together.images)
        for one, other in zip(alone.images, together.images):
            assert (one.pixels.int() - other.pixels.int()).abs().max() <= 1


def test_image_guidance_without_text_guidance_is_refused(kit):
    with pytest.raises(ValueError, match="images are guided only"):
        kit.sampler(guidance=GuidanceRecipe(image_scale=2.0))


def test_a_first_image_and_a_refinement_have_intervals_of_their_own(kit):
    """Fails where refinements use the interval of first images, or first images that of refinements."""
    recipe = GuidanceRecipe(text_scale=3.0, interval=(0.0, 0.5), first_interval=(0.5, 1.0))
    x = torch.stack([numbers(16, 16, seed=9)] * 2)
    guided = {}
    for turn in (0, 1):
        on, off = (grown(kit, "last", turn, settings) for settings in (recipe, GuidanceRecipe()))
        velocities = [contexts.drawing(GRID, torch.arange(2), turn) for contexts in (on, off)]
        guided[turn] = [not torch.equal(velocities[0](x, t), velocities[1](x, t)) for t in (0.3, 0.7)]
    assert guided == {0: [False, True], 1: [True, False]}
