"""Drawing one image per row: noise of its own for every step, and a record of it."""

import torch

from irg_rl import flow
from irg_rl.config import NoiseRecipe, SamplingRecipe
from rollouts.drawing import draw_images
from rollouts.noise import Noise

SHAPE = (4, 3)


def noises_of_steps(windows: list[list[int]]) -> torch.Tensor:
    """The standard normal numbers that every recorded step of every row was drawn with."""
    sampling, noise = SamplingRecipe(points=6), NoiseRecipe(noise_level=0.7)
    sources = [Noise(0, "p", row) for row in range(len(windows))]
    velocity = lambda x, t: torch.zeros_like(x)  # noqa: E731
    where = torch.device("cpu")
    _, records = draw_images(velocity, SHAPE, sources, sources, windows, 0, sampling, noise, where)
    second = flow.bagel_grid(6, sampling.shift)[1]
    found = []
    for record in records:
        for x, x_next, mean, t, t_next in zip(record.x, record.x_next, record.mean, record.t, record.t_next):
            now, then, after = (torch.full((1,), float(value)) for value in (t, t_next, second))
            none = torch.zeros(1, *SHAPE)
            _, _, std = flow.step(x[None], none, now, then, 0.7, noise.kind, noise=none, t_second=after)
            found.append(((x_next - mean) / std[0]).flatten())
    return torch.stack(found)


def test_every_noisy_step_of_an_image_has_noise_of_its_own():
    """Fails where all noisy steps of an image reuse the noise of one step."""
    found = noises_of_steps([[0, 1, 2], [0, 1, 2]])
    distances = torch.cdist(found, found) + 10 * torch.eye(len(found))
    assert len(found) == 6 and distances.min() > 0.5
