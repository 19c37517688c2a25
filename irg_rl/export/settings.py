"""The settings files of an exported model: `preprocessor_config.json` says how images are prepared, and
`generation_config.json` how the model is sampled.

Both use the names of Hugging Face's libraries and of BAGEL where these have a name. `generation_config.json` also has
the sections `sampling` and `evaluation` of the recipe, so that `irg-rl generate` samples an exported model as its run
did.
"""

import json
from pathlib import Path
from typing import Any

from irg_rl.config import Recipe
from irg_rl.errors import InputError
from irg_rl.model.config import ModelConfig
from irg_rl.model.pack import SpecialIds
from irg_rl.model.transforms import Resize
from irg_rl.text_in import read_json
from rollouts.evaluation import evaluation_sampling
from rollouts.images import vit_resize
from sft.encode import vae_resize

GENERATION, PREPROCESSOR = "generation_config.json", "preprocessor_config.json"
OWN = "irg_rl"
"""Name of the entry in generation_config.json that has sections of the recipe."""
_SECTIONS = ("sampling", "evaluation")
_OF_SCORERS = {"evaluation": ("preference",)}
"""Section -> settings that name a scorer of the recipe. They are not exported, because an exported model has no
scorers."""
_BICUBIC = 3  # number of the filter in Pillow and in transformers


def write_settings(folder: Path, recipe: Recipe, model: ModelConfig, special: SpecialIds) -> None:
    """Write both files into `folder`."""
    for name, content in ((PREPROCESSOR, preprocessor(model)), (GENERATION, generation(recipe, special))):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def preprocessor(model: ModelConfig) -> dict[str, Any]:
    """Return how images are prepared for the model: for the autoencoder, and for the vision tower. Sizes are in
    pixels."""
    return {
        "do_convert_rgb": True, "do_resize": True, "resample": _BICUBIC, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "vae": _sides(vae_resize(model)), "vit": _sides(vit_resize(model)) | {"patch_size": model.vit.patch_size},
    }  # fmt: skip


def generation(recipe: Recipe, special: SpecialIds) -> dict[str, Any]:
    """Return how the model is sampled. BAGEL's names are num_timesteps, timestep_shift, and those that begin with
    cfg_."""
    sampling, guidance = evaluation_sampling(recipe.sampling, recipe.evaluation), recipe.evaluation.guidance
    texts = {"do_sample": True, "temperature": sampling.temperature} if sampling.temperature else {"do_sample": False}
    return {
        "bos_token_id": special.bos, "eos_token_id": special.eos, "max_new_tokens": sampling.max_text_tokens, **texts,
        "num_timesteps": sampling.points, "timestep_shift": sampling.shift,
        "cfg_text_scale": guidance.text_scale, "cfg_img_scale": guidance.image_scale,
        "cfg_interval": list(guidance.interval), "cfg_renorm_type": guidance.renorm,
        "cfg_renorm_min": guidance.renorm_min,
        OWN: _sections(recipe.model_dump(mode="json", include=set(_SECTIONS))),
    }  # fmt: skip


def exported_sections(folder: Path) -> dict[str, Any]:
    """Return those sections of a recipe that `generation_config.json` of a model folder has: name -> settings. The
    result is empty if the folder has no such file, or if another program wrote the file. Settings in `_OF_SCORERS` are
    left out. Raises InputError if the file is no JSON, or if the sections are not objects. The settings themselves are
    not checked."""
    path = folder / GENERATION
    if not path.is_file():
        return {}
    content = read_json(path)
    own = content.get(OWN, {}) if isinstance(content, dict) else {}
    if not isinstance(own, dict) or not all(isinstance(own.get(name, {}), dict) for name in _SECTIONS):
        raise InputError(f"{path}: {OWN} must hold the objects {' and '.join(_SECTIONS)}: export again, or remove it")
    return _sections(own)


def _sections(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: value for key, value in settings[name].items() if key not in _OF_SCORERS.get(name, ())}
        for name in _SECTIONS if name in settings
    }  # fmt: skip


def _sides(resize: Resize) -> dict[str, int]:
    return {"max_size": resize.max_side, "min_size": resize.min_side, "stride": resize.stride}
