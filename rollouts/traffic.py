"""The number of bytes that RL keeps in Ray's object store: the groups between sampler and learner, and the published
weights. The object store is shared memory. What does not fit goes to the disk, which is slow.

    store = SPARE * (2 * published weights + 2 * (staleness + 1) * groups * bytes of a group), at least SMALLEST

Two publications are there at once, because samplers may still read the old one when the new one arrives. Every place
for a group counts twice, because a group is there before and after scoring.
"""

from irg_rl.algorithms.base import algorithm_of
from irg_rl.config import Recipe, adapters_of
from irg_rl.learner.sizes import FP32, published_bytes
from rollouts.drawing import window

SMALLEST = 512 * 2**20
SPARE = 1.2
"""The store needs more than its contents, because the free memory is in pieces."""
TOKEN_BYTES = 24
"""Bytes of one token of a text: id (8), log-probability (4), its end (4), its advantage (4), and about four letters."""


def recorded_steps(recipe: Recipe) -> int:
    """Return the largest number of denoising steps of an image that the sampler records. It is 0 if the algorithm does
    not need them."""
    if not algorithm_of(recipe).records_steps:
        return 0
    return len(window(recipe.require_rl().noise, recipe.rl_sampling.points, seed=0, iteration=0))


def group_bytes(recipe: Recipe) -> int:
    """Return the number of bytes of a group (all trajectories of one prompt) whose texts have the maximal length and
    whose turns all draw an image.

    An image has its pixels, two latents (the one that is shown and the one that is looked at), and three for each
    recorded step: before and after the step, and its mean (trajectory.ImageSegment).
    """
    rl, sampling, side = recipe.require_rl(), recipe.sampling, recipe.model.pixels_per_token
    height, width = sampling.image_size
    latent = FP32 * recipe.model.latent_dim * (height // side) * (width // side)
    image = 3 * height * width + (2 + 3 * recorded_steps(recipe)) * latent
    turn = image + TOKEN_BYTES * sampling.max_text_tokens
    return turn * sum(rl.rows(number) for number in range(sampling.turns))


def store_bytes(recipe: Recipe) -> int:
    """Return how many bytes RL needs in the object store at most. The formula is in the docstring of this file."""
    rl = recipe.require_rl()
    weights = published_bytes(recipe.model, adapters_of(rl))
    groups = (rl.staleness + 1) * rl.groups * group_bytes(recipe)
    return max(round(SPARE * 2 * (weights + groups)), SMALLEST)
