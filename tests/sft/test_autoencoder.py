"""The autoencoder's own stage in a few steps."""

import numpy as np
import pytest
import torch

from irg_rl.config import VAETraining
from irg_rl.model.autoencoder import Autoencoder, from_uint8
from irg_rl.model.config import VAEConfig
from sft.autoencoder import reconstruct, rescaled, train_autoencoder, trapezoid

CONFIG = VAEConfig(block_out_channels=(8, 8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4)


def pictures(count: int = 48) -> np.ndarray:
    """One coloured rectangle on grey each."""
    rng = np.random.default_rng(0)
    images = np.full((count, 16, 16, 3), 128, np.uint8)
    for image in images:
        top, left = rng.integers(0, 8, 2)
        image[top : top + 8, left : left + 8] = rng.integers(0, 256, 3)
    return images


def fresh() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(CONFIG, latent_patch_size=2)


@pytest.fixture(scope="module")
def trained():
    losses = []
    settings = VAETraining(steps=60, batch_size=8, lr=5e-3)
    vae = train_autoencoder(fresh(), pictures(), settings, seed=1, on_step=lambda step, loss: losses.append(loss))
    return vae, losses


def error(vae: Autoencoder) -> float:
    return float(np.abs(reconstruct(vae, pictures()).astype(float) - pictures()).mean())


def test_a_few_steps_lower_the_loss_and_the_error_of_reconstructions(trained):
    vae, losses = trained
    assert len(losses) == 60 and np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert error(vae) < 0.8 * error(fresh().eval())


def test_scaled_latents_have_mean_zero_and_spread_one(trained):
    vae, _ = trained
    mean, _ = vae.encode(from_uint8(torch.from_numpy(pictures())))
    scaled = vae.scale(mean)
    assert scaled.mean().item() == pytest.approx(0, abs=1e-4) and scaled.std().item() == pytest.approx(1, abs=1e-4)


def test_rescaling_changes_factors_and_no_reconstruction(trained):
    vae, _ = trained
    again = rescaled(vae, pictures(16))
    assert again.config.scaling_factor != vae.config.scaling_factor
    difference = reconstruct(again, pictures()).astype(int) - reconstruct(vae, pictures())
    assert np.abs(difference).max() <= 1


def test_the_same_seed_gives_the_same_autoencoder():
    settings = VAETraining(steps=4, batch_size=4)
    one, other, third = (train_autoencoder(fresh(), pictures(), settings, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], third[name]) for name in one)


def test_the_learning_rate_rises_holds_and_falls():
    factors = [trapezoid(step, 1000) for step in range(1000)]
    assert factors[0] == pytest.approx(0.02) and factors[49] == factors[690] == 1.0
    assert factors[850] == pytest.approx(0.5 + 0.02) and 0.02 < factors[999] < 0.03
