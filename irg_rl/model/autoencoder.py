"""The FLUX autoencoder. The computation is done by the class AutoencoderKL of diffusers. Files are read and written
with the weight names of FLUX's released file `ae.safetensors`.

FLUX's and diffusers' implementations compute the same function. They differ only in the names of the weights and in the
attention. The attention has 1x1 convolutions in FLUX and linear layers in diffusers. Images are encoded one by one, or
in batches of images of equal size, because padding would change their latents.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from irg_rl.model.config import VAEConfig
from irg_rl.model.latents import patchify, unpatchify
from irg_rl.model.weights import check_keys

_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


class Autoencoder(nn.Module):
    """Converts between pixels [B, 3, H, W] in [-1, 1] and latents [B, C, h, w].

    Latents are scaled as the unified model expects them: scaling_factor * (z - shift_factor).
    """

    def __init__(self, config: VAEConfig, latent_patch_size: int) -> None:
        # Imported here because the import takes seconds, and critics and most commands make no autoencoder.
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        super().__init__()
        self.config = config
        self.latent_patch_size = latent_patch_size
        levels = len(config.block_out_channels)
        blocks: Any = {  # diffusers annotates these as tuples of one entry; in fact there is one entry per level
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "block_out_channels": config.block_out_channels,
        }
        self.kl = AutoencoderKL(
            **blocks,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_num_groups,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )

    def encode(self, pixels: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-variance of the posterior distribution of the latent z of each image. They
        describe z before it is scaled for the unified model. `sample` does the scaling."""
        side = self.config.downsample * self.latent_patch_size
        if pixels.shape[-2] % side or pixels.shape[-1] % side:
            raise ValueError(
                f"an image of {tuple(pixels.shape[-2:])} pixels has no whole number of {side}-pixel tokens"
            )
        mean, logvar = self.kl.encoder(pixels).chunk(2, dim=1)
        return mean, logvar

    def sample(self, mean: Tensor, logvar: Tensor, eps: Tensor) -> Float[Tensor, "B C h w"]:
        """Sample a latent from the posterior, z = mean + exp(logvar / 2) eps, and return it scaled. `mean` and `logvar`
        come from `encode`, and `eps` is standard-normal noise. BAGEL, too, gives such samples to the model, not the
        mean."""
        return self.scale(mean + torch.exp(0.5 * logvar) * eps)

    def scale(self, z: Tensor) -> Tensor:
        return self.config.scaling_factor * (z - self.config.shift_factor)

    def decode(self, latent: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Convert scaled latents to pixels and return the pixels. They are not clamped to [-1, 1]."""
        return self.kl.decoder(latent / self.config.scaling_factor + self.config.shift_factor)

    def tokens(self, latent: Float[Tensor, "B C h w"]) -> Float[Tensor, "B N D"]:
        """Cut scaled latents into patches, and return one token per patch, as the unified model takes them."""
        return patchify(latent, self.latent_patch_size)

    def latent(self, tokens: Float[Tensor, "B N D"], grid: tuple[int, int]) -> Float[Tensor, "B C h w"]:
        return unpatchify(tokens, grid, self.latent_patch_size)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return how many rows and columns of latent tokens an image of height x width pixels has."""
        side = self.config.downsample * self.latent_patch_size
        return height // side, width // side

    def flux_state_dict(self) -> dict[str, Tensor]:
        """Return all weights of the autoencoder with the names and shapes that FLUX's own implementation uses."""
        names = _flux_names(self.config)
        return {
            flux: tensor[:, :, None, None] if _is_projection(flux) else tensor
            for name, tensor in self.kl.state_dict().items()
            if (flux := names[name])
        }

    def check_flux_shapes(self, found: Mapping[str, torch.Size], source: str) -> None:
        """Check the weights of a file before they are loaded. `found` has the shape of each weight by FLUX's name.
        Raise InputError if weights are missing, unknown or have another shape than in this autoencoder. The error lists
        these weights, and begins with `source`, which says where the weights come from."""
        check_keys({name: tensor.shape for name, tensor in self.flux_state_dict().items()}, found, source)

    def load_flux_state_dict(self, weights: dict[str, Tensor], source: str) -> None:
        """Load weights that have FLUX's names. `source` says in errors where they come from. Raises InputError if
        weights are missing, unknown or have a wrong shape."""
        self.check_flux_shapes({name: tensor.shape for name, tensor in weights.items()}, source)
        names = _flux_names(self.config)
        mine = self.kl.state_dict()
        loaded = {name: weights[names[name]].reshape(mine[name].shape) for name in mine}
        self.kl.load_state_dict(loaded, assign=True)

    def save(self, path: Path) -> None:
        save_file({name: tensor.contiguous() for name, tensor in self.flux_state_dict().items()}, path)

    def load(self, path: Path) -> None:
        self.load_flux_state_dict(load_file(path), str(path))


def to_uint8(image: Float[Tensor, "*b 3 H W"]) -> UInt8[Tensor, "*b H W 3"]:
    """Convert pixels in [-1, 1] to bytes. Fractions are cut off, not rounded, as in BAGEL."""
    return image.mul(0.5).add(0.5).clamp(0, 1).mul(255).to(torch.uint8).movedim(-3, -1)


def from_uint8(image: UInt8[Tensor, "*b H W 3"]) -> Float[Tensor, "*b 3 H W"]:
    """Convert bytes to pixels in [-1, 1]."""
    return image.movedim(-1, -3).float().div(255).sub(0.5).div(0.5)


def _is_projection(flux: str) -> bool:
    """Return whether the weight with this FLUX name is a 1x1 convolution in FLUX and a linear layer in diffusers."""
    return ".attn_1." in flux and flux.endswith("weight") and ".norm." not in flux


def _flux_names(config: VAEConfig) -> dict[str, str]:
    """Return a dict that maps diffusers' name of every parameter to FLUX's name. The resolution levels of the decoder
    are numbered differently: in FLUX, level 0 has the highest resolution; in diffusers, it has the lowest."""
    levels = len(config.block_out_channels)
    modules: dict[str, str] = {}
    for side in ("encoder", "decoder"):
        modules |= {f"{side}.conv_in": f"{side}.conv_in", f"{side}.conv_out": f"{side}.conv_out"}
        modules[f"{side}.conv_norm_out"] = f"{side}.norm_out"
        for index in (0, 1):
            modules |= _resnet(f"{side}.mid_block.resnets.{index}", f"{side}.mid.block_{index + 1}", shortcut=False)
        for flux, name in _ATTENTION.items():
            modules[f"{side}.mid_block.attentions.0.{name}"] = f"{side}.mid.attn_1.{flux}"
    channels = config.block_out_channels
    for level in range(levels):
        incoming = channels[max(level - 1, 0)]
        for block in range(config.layers_per_block):
            shortcut = block == 0 and incoming != channels[level]
            modules |= _resnet(
                f"encoder.down_blocks.{level}.resnets.{block}", f"encoder.down.{level}.block.{block}", shortcut
            )
        if level < levels - 1:
            modules[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
    for level in range(levels):
        theirs = levels - 1 - level
        incoming = channels[min(theirs + 1, levels - 1)]
        for block in range(config.layers_per_block + 1):
            shortcut = block == 0 and incoming != channels[theirs]
            modules |= _resnet(
                f"decoder.up_blocks.{level}.resnets.{block}", f"decoder.up.{theirs}.block.{block}", shortcut
            )
        if theirs > 0:
            modules[f"decoder.up_blocks.{level}.upsamplers.0.conv"] = f"decoder.up.{theirs}.upsample.conv"
    return {f"{name}.{kind}": f"{flux}.{kind}" for name, flux in modules.items() for kind in ("weight", "bias")}


def _resnet(name: str, flux: str, shortcut: bool) -> dict[str, str]:
    parts = {f"{name}.{part}": f"{flux}.{part}" for part in ("norm1", "conv1", "norm2", "conv2")}
    return parts | ({f"{name}.conv_shortcut": f"{flux}.nin_shortcut"} if shortcut else {})
