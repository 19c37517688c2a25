"""Memory of the models that score images (the scorer kinds clip and hps). On a machine with GPUs, these models are on
the GPU of another process. In evaluation, this is the main process. Otherwise, it is one rollout actor (a process that
samples trajectories)."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from irg_rl.config import Recipe, ScorerRecipe
from irg_rl.config.rewards import OF_IMAGES_ALONE
from irg_rl.model.footprint import LiveBytes


@dataclass(frozen=True)
class ScorerMemory:
    """Bytes of a scorer's weights, and of the forward pass of one batch of images without gradients."""

    weights: int
    working: int


def scorer_memory(scorer: ScorerRecipe) -> ScorerMemory | None:
    """Return the memory of a scorer. Return None if its model is not known. Such a model is a class of the user, an
    architecture that open_clip does not have, or a small model that the run trains."""
    if scorer.kind not in OF_IMAGES_ALONE:
        return None
    from rewards import openclip  # imported here, because importing open_clip takes seconds
    from rewards.clip import ClipScorer

    options = scorer.options
    model = openclip.meta_model(options.get("model", ""))
    if model is None:
        return None
    dtype = torch.float32 if options.get("precision", "fp32") == "fp32" else torch.bfloat16
    tower: Any = model.to(dtype).eval()  # open_clip does not declare the parts of its models
    side = tower.visual.image_size
    size = side if isinstance(side, tuple) else (side, side)
    batch = options.get("batch_size", inspect.signature(ClipScorer).parameters["batch_size"].default)
    images = torch.empty(batch, 3, *size, dtype=dtype, device="meta")
    with torch.no_grad(), LiveBytes([*tower.state_dict().values(), images]) as live:
        tower.encode_image(images)
    return ScorerMemory(sum(parameter.nbytes for parameter in tower.parameters()), images.nbytes + live.peak)


def on_gpu(recipe: Recipe) -> int:
    """Return how many bytes of GPU memory the scorers of the recipe need together. They score one after the other, so
    only the largest working memory counts. Scorers that are not on a GPU, and scorers with unknown models, are not
    counted."""
    there = [scorer for scorer in recipe.rewards.scorers if recipe.scorer_device(scorer).startswith("cuda")]
    known = [found for scorer in there if (found := scorer_memory(scorer)) is not None]
    return sum(found.weights for found in known) + max((found.working for found in known), default=0)
