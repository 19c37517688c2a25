"""Pictures between the turns: latents -> bytes -> what the model sees of them.

A drawn image is decoded and cut to bytes before it is looked at, as BAGEL's pipeline does; so the learner, which gets
the bytes, can see exactly the same. Images go through the autoencoder in batches of equal size: padding would change
their latents.

Letters: R images, N latent tokens, D numbers of a latent token, P patches.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from irg_rl.model.autoencoder import Autoencoder, from_uint8, to_uint8
from irg_rl.model.config import ModelConfig
from irg_rl.model.pack import Grid
from irg_rl.model.transforms import Resize, vit_patches
from rollouts.noise import Noise, Use


@dataclass(frozen=True)
class Seen:
    """An image as context: a sample of its clean latent (CPU, fp32) and its patches."""

    latent: Float[Tensor, "N D"]
    grid: Grid
    patches: Float[Tensor, "P patch"]
    patch_grid: Grid


def vit_resize(config: ModelConfig) -> Resize:
    """The vision tower's view of a drawn image: the nearest multiples of its patch that its position table holds."""
    patch = config.vit.patch_size
    return Resize(max_side=patch * config.vit.max_patches_per_side, min_side=patch, stride=patch)


class Eyes:
    """The autoencoder and the vision tower's preprocessing."""

    def __init__(self, vae: Autoencoder, config: ModelConfig, resize: Resize | None = None) -> None:
        self.vae = vae
        self.resize = resize or vit_resize(config)
        self.patch_size = config.vit.patch_size

    @torch.no_grad()
    def develop(self, latents: Float[Tensor, "R N D"], grid: Grid) -> UInt8[Tensor, "R H W 3"]:
        """Bytes of drawn latents, on the CPU."""
        weight = next(self.vae.parameters())
        return to_uint8(self.vae.decode(self.vae.latent(latents.to(weight), grid)).float()).cpu().contiguous()

    @torch.no_grad()
    def look(self, images: list[UInt8[Tensor, "H W 3"]], noises: list[Noise], turn: int) -> list[Seen]:
        """What the model sees of each image; the posterior sample belongs to the trajectory and the turn."""
        seen: dict[int, Seen] = {}
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault((image.shape[0], image.shape[1]), []).append(index)
        for size, members in by_size.items():
            pixels = torch.stack([images[index] for index in members])
            weight = next(self.vae.parameters())
            mean, logvar = self.vae.encode(from_uint8(pixels).to(weight))
            shape = tuple(mean.shape[1:])
            eps = torch.stack([noises[index].normal(Use.POSTERIOR, shape, turn) for index in members]).to(mean)
            tokens = self.vae.tokens(self.vae.sample(mean, logvar, eps=eps)).float().cpu()
            for place, index in enumerate(members):
                patches, patch_grid = vit_patches(self.resize(images[index]), self.patch_size)
                seen[index] = Seen(tokens[place].clone(), self.vae.grid(*size), patches, patch_grid)
        return [seen[index] for index in range(len(images))]

    def tokens(self, size: tuple[int, int]) -> int:
        """Context tokens of an image of height x width pixels: latents, patches and two boundary tokens each."""
        rows, columns = self.vae.grid(*size)
        width, height = self.resize.size(size[1], size[0])
        return rows * columns + (height // self.patch_size) * (width // self.patch_size) + 4
