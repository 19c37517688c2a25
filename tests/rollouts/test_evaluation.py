"""How a checkpoint is sampled in evaluation: by the section `evaluation`, where it differs from `sampling`."""

import torch

from irg_rl.config import EvaluationRecipe, GuidanceRecipe, NoiseRecipe, SamplingRecipe
from irg_rl.model.folder import Folder
from rollouts.evaluation import evaluation_sampler, evaluation_sampling
from tests.rollouts.conftest import Kit, requests

SAMPLING = SamplingRecipe(max_text_tokens=4, points=4, turns=1, image_size=(32, 32))
NOISE = NoiseRecipe(window="all", noise_level=0.9)


def drawn(kit: Kit, settings: EvaluationRecipe, **changes) -> torch.Tensor:
    sampling = evaluation_sampling(SAMPLING, settings)
    sampler = evaluation_sampler(Folder(kit.model, kit.vae, kit.tokenizer), sampling, settings, **changes)
    (trajectory,) = sampler.sample(requests(1))
    assert len(trajectory.images[0].x) == 0  # nothing is recorded
    return trajectory.images[0].latent


def test_images_are_drawn_with_the_noise_and_the_guidance_of_the_evaluation(kit):
    """Fails where the noise or the guidance of the section `evaluation` is dropped."""
    plain, noisy = EvaluationRecipe(), EvaluationRecipe(noise=NOISE)
    guided = EvaluationRecipe(guidance=GuidanceRecipe(text_scale=4.0))
    images = [drawn(kit, settings) for settings in (plain, noisy, guided)]
    assert all(not torch.equal(images[0], image) for image in images[1:])
    assert torch.equal(images[0], drawn(kit, noisy, is_noisy=False))
    assert torch.equal(images[2], drawn(kit, plain, guidance=guided.guidance))


def test_temperature_points_and_shift_are_those_of_the_evaluation_where_it_gives_them():
    kept = evaluation_sampling(SAMPLING, EvaluationRecipe())
    assert (kept.temperature, kept.points, kept.shift) == (0.0, 4, 1.0)
    own = evaluation_sampling(SAMPLING, EvaluationRecipe(temperature=0.5, points=9, shift=3.0))
    assert (own.temperature, own.points, own.shift, own.turns) == (0.5, 9, 3.0, 1)
