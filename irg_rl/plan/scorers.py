"""Memory of the models that score images (the scorer kinds clip, hps, pickscore, mllm). On a machine with GPUs, these
models are on the GPU of another process. In evaluation, this is the main process. Otherwise, it is one rollout actor (a
process that samples trajectories)."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from irg_rl.config import Recipe, ScorerRecipe
from irg_rl.config.rewards import OPEN_CLIP_KINDS
from irg_rl.model.footprint import LiveBytes

QUESTION_TOKENS = 256
"""Assumed length of a question to an mllm, without its images."""
FALLBACK_PIXELS = 1024 * 1024
"""Assumed largest number of pixels of an image for an mllm whose image processor states none."""


@dataclass(frozen=True)
class ScorerMemory:
    """Bytes of a scorer's weights, and of the forward pass of one batch without gradients."""

    weights: int
    working: int


def scorer_memory(scorer: ScorerRecipe, image_size: tuple[int, int]) -> ScorerMemory | None:
    """Return the memory of a scorer that scores images of `image_size` (height, width). Return None if its model is not
    known. Such a model is a class of the user, an architecture that open_clip does not have, a small model that the run
    trains, a folder that is not on this machine, or a folder of a model whose sizes have other names."""
    if scorer.kind in OPEN_CLIP_KINDS:
        return _open_clip(scorer)
    known = {"pickscore": _pickscore, "mllm": _mllm}
    path = scorer.options.get("path", scorer.path)
    if scorer.kind not in known or path is None or not (Path(path) / "config.json").is_file():
        return None
    try:
        return known[scorer.kind](scorer, Path(path), image_size)
    except (AttributeError, KeyError, TypeError, ValueError, OSError):  # a configuration with other names of sizes
        return None


def on_gpu(recipe: Recipe) -> int:
    """Return how many bytes of GPU memory the scorers of the recipe need together. They score one after the other, so
    only the largest working memory counts. Scorers that are not on a GPU, and scorers with unknown models, are not
    counted."""
    there = [scorer for scorer in recipe.rewards.scorers if recipe.scorer_device(scorer).startswith("cuda")]
    size = recipe.sampling.image_size
    known = [found for scorer in there if (found := scorer_memory(scorer, size)) is not None]
    return sum(found.weights for found in known) + max((found.working for found in known), default=0)


def _open_clip(scorer: ScorerRecipe) -> ScorerMemory | None:
    from rewards import openclip  # imported here, because importing open_clip takes seconds
    from rewards.clip import ClipScorer

    model = openclip.meta_model(scorer.options.get("model", ""))
    if model is None:
        return None
    dtype = torch.float32 if scorer.options.get("precision", "fp32") == "fp32" else torch.bfloat16
    tower: Any = model.to(dtype).eval()  # open_clip does not declare the parts of its models
    side = tower.visual.image_size
    size = side if isinstance(side, tuple) else (side, side)
    images = torch.empty(_setting(scorer, ClipScorer, "batch_size"), 3, *size, dtype=dtype, device="meta")
    with torch.no_grad(), LiveBytes([*tower.state_dict().values(), images]) as live:
        tower.encode_image(images)
    return ScorerMemory(_weights(tower), images.nbytes + live.peak)


def _pickscore(scorer: ScorerRecipe, path: Path, _: tuple[int, int]) -> ScorerMemory:
    """Run the model on tensors without contents, with one batch of images and their texts."""
    from transformers import CLIPConfig, CLIPModel  # imported here, because importing transformers takes seconds

    from rewards.pickscore import PickScorer
    from rewards.released import DTYPES

    dtype, batch = DTYPES[_setting(scorer, PickScorer, "precision")], _setting(scorer, PickScorer, "batch_size")
    config: Any = CLIPConfig.from_pretrained(path, local_files_only=True)  # its parts are declared as dicts
    with torch.device("meta"):
        model: Any = CLIPModel(config)
        model.to(dtype).eval()
        side = config.vision_config.image_size
        images = torch.empty(batch, 3, side, side, dtype=dtype)
        texts = torch.zeros(batch, config.text_config.max_position_embeddings, dtype=torch.long)
        with torch.no_grad(), LiveBytes([*model.state_dict().values(), images, texts]) as live:
            model(input_ids=texts, pixel_values=images)
    return ScorerMemory(_weights(model), images.nbytes + texts.nbytes + live.peak)


def _mllm(scorer: ScorerRecipe, path: Path, image_size: tuple[int, int]) -> ScorerMemory:
    """The weights are exact. The working memory is estimated, because the code of these models reads numbers from its
    tensors and cannot run on tensors without contents."""
    from transformers import AutoConfig, AutoModelForImageTextToText  # importing transformers takes seconds

    from rewards.mllm import MllmScorer
    from rewards.released import DTYPES

    dtype = DTYPES[_setting(scorer, MllmScorer, "precision")]
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    with torch.device("meta"):
        weights = _weights(AutoModelForImageTextToText.from_config(config).to(dtype))
    images = _setting(scorer, MllmScorer, "batch_size") * (2 if scorer.of in ("edit", "group") else 1)
    pixels = image_size[0] * image_size[1]
    largest = _setting(scorer, MllmScorer, "max_pixels") or _largest_pixels(path)
    working = mllm_working(config, images, min(pixels, largest), _setting(scorer, MllmScorer, "batch_size"))
    return ScorerMemory(weights, working * dtype.itemsize)


def mllm_working(config: Any, images: int, pixels: int, questions: int) -> int:
    """Return how many numbers a multimodal model holds at the peak of one batch, apart from its weights:

        max(vision tower, language model)
        vision tower = patches * (3 patch^2 t + 4 d_v + 3 f_v)
        language model = tokens * (2 layers kv + 4 d + 3 f) + questions * vocabulary

    d, f: width of the states and of the MLP (d_v, f_v: in the vision tower). kv: width of the keys. t: frames of a
    patch. `images` of `pixels` pixels each give the patches, and merge^2 patches are one token. The answer's few tokens
    are left out.
    """
    text, vision = config.get_text_config(), config.vision_config
    patches = images * pixels // vision.patch_size**2
    tokens = patches // getattr(vision, "spatial_merge_size", 1) ** 2 + questions * QUESTION_TOKENS
    kv = text.num_key_value_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    inputs = 3 * vision.patch_size**2 * getattr(vision, "temporal_patch_size", 1)
    seen = patches * (inputs + 4 * vision.hidden_size + 3 * vision.intermediate_size)
    read = tokens * (2 * text.num_hidden_layers * kv + 4 * text.hidden_size + 3 * text.intermediate_size)
    return max(seen, read + questions * text.vocab_size)


def _largest_pixels(path: Path) -> int:
    """Return the largest number of pixels of an image in the settings of an image processor."""
    from transformers import AutoImageProcessor  # importing transformers takes seconds

    size = AutoImageProcessor.from_pretrained(path, local_files_only=True).size
    return int(size.get("longest_edge") or FALLBACK_PIXELS)  # Qwen's image processors call numbers of pixels edges


def _setting(scorer: ScorerRecipe, kind: Callable[..., Any], name: str) -> Any:
    return scorer.options.get(name, inspect.signature(kind).parameters[name].default)


def _weights(model: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())
