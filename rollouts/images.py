"""Convert images between the turns: from latents to bytes, and from bytes to the form in which the model sees them.

A drawn image is decoded and rounded to bytes before the model sees it, as in BAGEL's pipeline. The learner gets the
same bytes, so it sees exactly the same image. The autoencoder encodes several images together only if they have the
same size, because padding would change the latents.

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
class ImageContext:
    """An image in the two forms in which the model sees it in the context: clean latent and ViT patches. The latent is
    a random sample from the VAE posterior, on the CPU, in fp32."""

    latent: Float[Tensor, "N D"]
    grid: Grid
    patches: Float[Tensor, "P patch"]
    patch_grid: Grid


def vit_resize(config: ModelConfig) -> Resize:
    """Return the Resize that prepares drawn images for the vision tower. It makes each side the nearest multiple of the
    patch size that fits the position table of the tower."""
    patch = config.vit.patch_size
    return Resize(max_side=patch * config.vit.max_patches_per_side, min_side=patch, stride=patch)


class ImageCodec:
    """Decodes latents to images, and encodes images in the form in which the model sees them."""

    def __init__(self, vae: Autoencoder, config: ModelConfig, resize: Resize | None = None) -> None:
        self.vae = vae
        self.resize = resize or vit_resize(config)
        self.patch_size = config.vit.patch_size

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "R N D"], grid: Grid) -> UInt8[Tensor, "R H W 3"]:
        """Decode the latents of drawn images, and return the images as uint8 on the CPU. `grid` is the number of rows
        and columns of latent tokens in each image."""
        weight = next(self.vae.parameters())
        return to_uint8(self.vae.decode(self.vae.latent(latents.to(weight), grid)).float()).cpu().contiguous()

    @torch.no_grad()
    def encode(self, images: list[UInt8[Tensor, "H W 3"]], noises: list[Noise], turn: int) -> list[ImageContext]:
        """Return each image in the form in which the model sees it. The latent in this form is a random sample from the
        VAE posterior. `noises` has the random numbers of each image's trajectory. Together with the number of the turn,
        `turn`, they determine the sample."""
        seen: dict[int, ImageContext] = {}
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
                seen[index] = ImageContext(tokens[place].clone(), self.vae.grid(*size), patches, patch_grid)
        return [seen[index] for index in range(len(images))]

    def tokens(self, size: tuple[int, int]) -> int:
        """Return the number of tokens that an image takes in the context. `size` is its (height, width) in pixels. The
        number includes the latent tokens, the patches, and two boundary tokens around each of these two groups."""
        rows, columns = self.vae.grid(*size)
        width, height = self.resize.size(size[1], size[0])
        return rows * columns + (height // self.patch_size) * (width // self.patch_size) + 4
