"""Guidance against BAGEL's own combinations, and the rules a batch of images must keep.

Left out of R3's `r3_apply_cfg`: its groups of two or one, which it passes through unguided (a defect: the learner then
scores another policy than the one that drew).
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irg_rl.guidance import Renorm, guide, is_active
from tests.golden import agree, golden

VELOCITY = "bagel/inference_velocity"


@pytest.mark.parametrize("smallest", [0.0, 0.3])
@pytest.mark.parametrize("renorm", list(Renorm))
@pytest.mark.parametrize("conditions", ["text_img", "text_only"])
@pytest.mark.parametrize("case", ["a", "b"])
def test_the_formula_equals_bagel_on_made_up_velocities(case, conditions, renorm, smallest):
    g = golden(VELOCITY)
    v, no_text, no_image = (g[f"formula.{case}.v_{name}"] for name in ("full", "notext", "noimage"))
    out = guide(
        v,
        no_text,
        no_image,
        text_scale=4.0,
        image_scale=2.0 if conditions == "text_img" else 1.0,
        renorm=renorm,
        renorm_min=smallest,
    )
    agree(out, g[f"formula.{case}.{conditions}.{renorm}.min{smallest}"])


@pytest.mark.parametrize("t", ["0.2", "0.7", "1.0"])
@pytest.mark.parametrize("smallest", [0.0, 0.3])
@pytest.mark.parametrize("renorm", list(Renorm))
@pytest.mark.parametrize("conditions", ["text_img", "text_only"])
def test_the_formula_equals_bagel_on_the_models_velocities(conditions, renorm, smallest, t):
    g = golden(VELOCITY)
    v, no_text, no_image = (g[f"v.turn2.{name}.t{t}"] for name in ("full", "notext", "noimage"))
    scale = 2.0 if conditions == "text_img" else 1.0
    out = guide(v, no_text, no_image, text_scale=4.0, image_scale=scale, renorm=renorm, renorm_min=smallest)
    agree(out, g[f"cfg.{conditions}.{renorm}.min{smallest}.t{t}"], 1e-4, 2e-5)


@pytest.mark.parametrize("renorm", list(Renorm))
@pytest.mark.parametrize("image_scale", [1.0, 1.5])
def test_r3_applies_the_same_formula_to_its_groups_of_three(renorm, image_scale):
    g = golden("rl/2_flow_policy_loss")
    v, no_text, no_image = g.input("r3/cfg_v")[:12].split(4)
    out = guide(v, no_text, no_image, text_scale=4.0, image_scale=image_scale, renorm=renorm)
    agree(out, g[f"r3_apply_cfg/{renorm}_img{image_scale}/f64"][:4], 1e-6, 1e-7)


def test_a_hand_worked_token():
    v, no_text, no_image = (torch.tensor([[a, b]]) for a, b in ((3.0, 4.0), (0.0, 0.0), (1.0, 0.0)))
    scales = {"text_scale": 2.0, "image_scale": 2.0}
    agree(guide(v, no_text, no_image, renorm="text_channel", **scales), torch.tensor([[5.0, 8.0]]))
    for renorm in ("channel", "global"):
        # unscaled (11, 16), norm 19.4165; |v| = 5
        agree(guide(v, no_text, no_image, renorm=renorm, **scales), torch.tensor([[2.8326, 4.1202]]), 1e-4)


@given(renorm=st.sampled_from(list(Renorm)), seed=st.integers(0, 99), scale=st.floats(1.1, 8.0))
@settings(max_examples=30, deadline=None)
def test_an_image_is_guided_alone_or_in_a_batch_alike(renorm, seed, scale):
    """BAGEL's `global` takes one norm over all images of the batch; here batching never changes an image."""
    generator = torch.Generator().manual_seed(seed)
    v, no_text, no_image = torch.randn(3, 4, 6, 5, generator=generator)
    options = {"text_scale": scale, "image_scale": 2.0, "renorm": renorm}
    batch = guide(v, no_text, no_image, **options)
    for i in range(4):
        agree(guide(v[i], no_text[i], no_image[i], **options), batch[i], 1e-6, 1e-7)


@given(seed=st.integers(0, 99), scale=st.floats(1.1, 8.0))
@settings(max_examples=20, deadline=None)
def test_global_and_channel_never_enlarge_the_velocity(seed, scale):
    v, no_text = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(seed))
    assert (guide(v, no_text, text_scale=scale).norm(dim=(1, 2)) <= v.norm(dim=(1, 2)) * 1.0001).all()
    assert (guide(v, no_text, text_scale=scale, renorm="channel").norm(dim=2) <= v.norm(dim=2) * 1.0001).all()


def test_where_both_branches_agree_nothing_changes():
    v = torch.randn(2, 3, 4)
    for renorm in Renorm:
        agree(guide(v, v, v, text_scale=4.0, image_scale=2.0, renorm=renorm), v)


def test_guidance_is_on_above_the_lower_end_and_up_to_the_upper_end():
    assert [is_active(t, (0.4, 1.0), 4.0) for t in (0.4, 0.41, 1.0)] == [False, True, True]
    assert not is_active(0.5, (0.5, 0.95), 4.0) and is_active(0.95, (0.5, 0.95), 4.0)
    assert not is_active(0.7, (0.0, 1.0), 1.0)


def test_scales_that_would_be_ignored_are_refused():
    v = torch.ones(1, 2, 3)
    with pytest.raises(ValueError, match="guides nothing, images included"):
        guide(v, v, v, text_scale=1.0, image_scale=2.0)
    with pytest.raises(ValueError, match="needs the velocity without images"):
        guide(v, v, text_scale=4.0, image_scale=2.0)
