"""Reads the sizes of a model from the three JSON files in the folder of a released model, such as BAGEL.

For some settings, such as the activation function, this program supports only one value. If a file has another value,
an error is raised. If the setting were ignored instead, the model would give worse results without a warning. The base
of the rotary position embedding may be written in two ways: as `rope_theta`, or in `rope_parameters`, as transformers 5
writes it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from irg_rl.errors import InputError
from irg_rl.text_in import read_json

UNUSED_VIT_LAYERS = 1
"""The number of layers at the end of the SigLIP tower that are not used: BAGEL takes the features before SigLIP's last
layer."""
_LLM = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
    "rms_norm_eps",
)  # fmt: skip
_VIT = ("hidden_size", "num_attention_heads", "intermediate_size", "patch_size")
_ONLY = {
    "llm_config.json": {"model_type": "qwen2", "hidden_act": "silu", "tie_word_embeddings": False,
                        "use_sliding_window": False, "use_mrope": False},
    "vit_config.json": {"hidden_act": "gelu_pytorch_tanh", "num_channels": 3},
    "config.json": {"connector_act": "gelu_pytorch_tanh", "interpolate_pos": False},
}  # fmt: skip
"""For each JSON file, the settings for which this program supports only one value, with that value."""


class _JsonFile:
    """The settings of one JSON file. A setting that is null counts as absent."""

    def __init__(self, path: Path, content: Any) -> None:
        if not isinstance(content, dict):
            raise InputError(f"{path} holds no JSON object")
        self.path = path
        self.settings: dict[str, Any] = {name: value for name, value in content.items() if value is not None}
        for name, only in _ONLY.get(path.name, {}).items():
            if self.settings.get(name, only) != only:
                raise InputError(f"{path}: {name} {self.settings[name]!r:.80} is not supported, only {only!r} is")

    def __getitem__(self, name: str) -> Any:
        if name not in self.settings:
            raise InputError(f"{self.path} lacks {name!r}")
        return self.settings[name]

    def whole(self, name: str, default: int | None = None) -> int:
        """Return the setting `name`, which must be a whole number above 0. If it is absent from the file, return
        `default`. Raises InputError if it is absent and there is no default, or if its value is not allowed."""
        value = self[name] if default is None else self.settings.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{self.path}: {name} is {value!r:.80}, it must be a whole number above 0")
        return value

    def section(self, name: str) -> "_JsonFile":
        content = self.settings.get(name, {})
        if not isinstance(content, dict):
            raise InputError(f"{self.path}: {name} is {content!r:.80}, it must be an object")
        return _JsonFile(self.path / name, content)

    def known(self, names: Mapping[str, str]) -> dict[str, Any]:
        """Return those settings in `names` that the file has. `names` maps the name that a setting has in this program
        to its name in the file. The result has the names of this program."""
        return {ours: self.settings[theirs] for ours, theirs in names.items() if theirs in self.settings}


def released_sizes(folder: Path) -> dict[str, Any]:
    """Read the sizes of a released model folder. Return the fields of a ModelConfig as nested dicts. Raises InputError
    if a setting is missing or not supported. The message names the file and the setting."""
    llm, vit = (_read(folder / name) for name in ("llm_config.json", "vit_config.json"))
    path = folder / "config.json"
    top = _read(path) if path.exists() else _JsonFile(path, {})
    sizes = {
        "llm": {name: llm[name] for name in _LLM} | {"rope_theta": _rope_theta(llm)},
        "vit": {name: vit[name] for name in _VIT}
        | {"num_hidden_layers": vit.whole("num_hidden_layers") - UNUSED_VIT_LAYERS}
        | {"max_patches_per_side": top.whole("vit_max_num_patch_per_side", 70)}
        | vit.known({"layer_norm_eps": "layer_norm_eps"}),
        "vae": _autoencoder(top.section("vae_config")),
    }
    _require_plain_heads(llm)
    return sizes | top.known({name: name for name in ("latent_patch_size", "max_latent_size", "timestep_shift")})


def _read(path: Path) -> _JsonFile:
    if not path.exists():
        raise InputError(f"{path} does not exist; a model folder has llm_config.json and vit_config.json")
    return _JsonFile(path, read_json(path))


def _autoencoder(vae: _JsonFile) -> dict[str, Any]:
    """Return the sizes of the autoencoder, read from the section `vae_config`. Settings that are absent get the values
    of the FLUX.1 autoencoder."""
    base, factors = vae.whole("ch", 128), vae.settings.get("ch_mult", [1, 2, 4, 4])
    if not isinstance(factors, list) or not all(type(factor) is int and 0 < factor < 1024 for factor in factors):
        raise InputError(f"{vae.path}: ch_mult is {factors!r:.80}, it must be a list of small whole numbers")
    return {
        "block_out_channels": tuple(base * factor for factor in factors),
        "layers_per_block": vae.whole("num_res_blocks", 2),
        "latent_channels": vae.whole("z_channels", 16),
    } | vae.known(
        {"scaling_factor": "scale_factor", "shift_factor": "shift_factor", "norm_num_groups": "norm_num_groups"}
    )


def _rope_theta(llm: _JsonFile) -> Any:
    """Return theta, the base of the rotary position embedding. Raises InputError if it is missing, if two values
    differ, or if the file asks for scaled positions."""
    parameters = llm.section("rope_parameters").settings
    scaling = llm.section("rope_scaling").settings
    for place, settings in (("rope_parameters", parameters), ("rope_scaling", scaling)):
        kind = settings.get("rope_type", settings.get("type", "default"))
        if kind != "default" or settings.get("factor", 1) != 1:
            raise InputError(f"{llm.path}: {place} {kind!r} is not supported: positions are scaled by nothing here")
    found = [place["rope_theta"] for place in (parameters, llm.settings) if "rope_theta" in place]
    if not found:
        raise InputError(f"{llm.path} lacks 'rope_theta', also in 'rope_parameters'")
    if found[0] != found[-1]:
        raise InputError(f"{llm.path}: rope_theta is {found[-1]!r:.40}, but {found[0]!r:.40} in rope_parameters")
    return found[0]


def _require_plain_heads(llm: _JsonFile) -> None:
    if "head_dim" not in llm.settings:
        return
    expected = llm.whole("hidden_size") // llm.whole("num_attention_heads")
    if llm.whole("head_dim") != expected:
        raise InputError(f"{llm.path}: head_dim {llm['head_dim']} is not supported: heads have {expected} numbers here")
