"""Sizes of a unified model, and the JSON files of a released model folder that hold these sizes.

A released folder has three JSON files. `llm_config.json` is a plain Qwen2 configuration and `vit_config.json` a SigLIP
configuration. `config.json` holds the sizes of the latent patch, the position tables and the autoencoder. It also holds
the timestep shift. If this file or a setting in it is missing, the constants from BAGEL's own loading code are used.

Three facts are not in the files. Queries and keys are normed. The input and output embeddings are not tied. The vision
tower has one layer fewer than its JSON says, because BAGEL reads the features before SigLIP's last layer. When weights
are loaded, their shapes are compared with these sizes.
"""

import json
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from irg_rl.errors import InputError
from irg_rl.model.released import UNUSED_VIT_LAYERS, released_sizes


class _Sizes(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LLMConfig(_Sizes):
    """Sizes of the Qwen2 language model. Both experts (und for text and image understanding, gen for image generation)
    have the same sizes."""

    hidden_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    vocab_size: int = Field(gt=0)
    rope_theta: float = Field(1e6, gt=0)
    rms_norm_eps: float = Field(1e-6, gt=0)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of {self.num_attention_heads} heads")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} attention heads cannot share {self.num_key_value_heads} key/value heads"
            )
        if self.head_dim % 2 or self.hidden_size % 4:
            raise ValueError(f"head size {self.head_dim} must be even and hidden_size a multiple of 4")
        return self

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


class ViTConfig(_Sizes):
    """Sizes of the SigLIP vision tower. `num_hidden_layers` counts only the layers that are used: all but the last one
    of the released tower."""

    hidden_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    patch_size: int = Field(gt=0)
    max_patches_per_side: int = Field(gt=0)
    layer_norm_eps: float = Field(1e-6, gt=0)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"ViT hidden_size {self.hidden_size} is no multiple of {self.num_attention_heads} heads")
        return self

    @property
    def patch_dim(self) -> int:
        """The number of values in one RGB patch."""
        return 3 * self.patch_size**2


class VAEConfig(_Sizes):
    """Sizes of the FLUX autoencoder. It has one resolution level (a group of layers) for each entry of
    `block_out_channels`. Every level except the last one halves the height and width of the image."""

    block_out_channels: tuple[Annotated[int, Field(gt=0)], ...] = Field(min_length=1)
    layers_per_block: int = Field(gt=0)
    latent_channels: int = Field(gt=0)
    scaling_factor: float = Field(0.3611, gt=0)
    shift_factor: float = 0.1159
    norm_num_groups: int = Field(32, gt=0)

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                raise ValueError(f"{channels} VAE channels are no multiple of norm_num_groups={self.norm_num_groups}")
        return self

    @property
    def downsample(self) -> int:
        """The side, in pixels, of the image square that one latent position stands for."""
        return 2 ** (len(self.block_out_channels) - 1)


class ModelConfig(_Sizes):
    """All sizes of a unified model and its autoencoder."""

    llm: LLMConfig
    vit: ViTConfig
    vae: VAEConfig
    latent_patch_size: int = Field(2, gt=0)
    max_latent_size: int = Field(64, gt=0)
    """The number of rows, and of columns, of latent tokens in the position table. Larger images are not possible."""
    timestep_shift: float = Field(1.0, gt=0)
    """The timestep shift used in *training*. Sampling has its own setting for the shift."""

    @property
    def latent_dim(self) -> int:
        """The number of values in one latent token."""
        return self.latent_patch_size**2 * self.vae.latent_channels

    @property
    def pixels_per_token(self) -> int:
        """The side, in pixels, of the image square that one latent token stands for."""
        return self.vae.downsample * self.latent_patch_size

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the sizes from the JSON files of a released model folder. Raises an InputError if a value is missing or
        not allowed. The error names the file and the key of the value."""
        try:
            return cls.model_validate(released_sizes(folder))
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise InputError(f"{folder}: config.json, llm_config.json or vit_config.json cannot be: {wrong}") from error

    def to_dict(self) -> dict:
        """Return all sizes as a dict. peft calls a method of this name to read a model's configuration."""
        return self.model_dump()

    def write(self, folder: Path) -> None:
        """Write the sizes into the three JSON files of a released model folder: config.json, llm_config.json and
        vit_config.json."""
        llm = self._llm_json()
        vit = self._vit_json()
        top = {
            "architectures": ["BagelForConditionalGeneration"],
            "model_type": "bagel",
            "visual_gen": True,
            "visual_und": True,
            "llm_config": llm,
            "vit_config": vit,
            "vae_config": self._vae_json(),
            "latent_patch_size": self.latent_patch_size,
            "max_latent_size": self.max_latent_size,
            "vit_max_num_patch_per_side": self.vit.max_patches_per_side,
            "connector_act": "gelu_pytorch_tanh",
            "interpolate_pos": False,
            "timestep_shift": self.timestep_shift,
        }
        for name, content in (("config.json", top), ("llm_config.json", llm), ("vit_config.json", vit)):
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _llm_json(self) -> dict:
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "tie_word_embeddings": False,
            "use_sliding_window": False,
            "max_position_embeddings": 32768,
            **self.llm.model_dump(),
        }

    def _vit_json(self) -> dict:
        return {
            "model_type": "siglip_vision_model",
            "hidden_size": self.vit.hidden_size,
            "num_hidden_layers": self.vit.num_hidden_layers + UNUSED_VIT_LAYERS,
            "num_attention_heads": self.vit.num_attention_heads,
            "intermediate_size": self.vit.intermediate_size,
            "image_size": self.vit.patch_size * self.vit.max_patches_per_side,
            "patch_size": self.vit.patch_size,
            "num_channels": 3,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": self.vit.layer_norm_eps,
        }

    def _vae_json(self) -> dict:
        base = self.vae.block_out_channels[0]
        if any(channels % base for channels in self.vae.block_out_channels):
            raise ValueError(f"block_out_channels {self.vae.block_out_channels} are not multiples of the first entry")
        return {
            "in_channels": 3,
            "out_ch": 3,
            "ch": base,
            "ch_mult": [channels // base for channels in self.vae.block_out_channels],
            "num_res_blocks": self.vae.layers_per_block,
            "z_channels": self.vae.latent_channels,
            "downsample": self.vae.downsample,
            "scale_factor": self.vae.scaling_factor,
            "shift_factor": self.vae.shift_factor,
            "norm_num_groups": self.vae.norm_num_groups,
        }
