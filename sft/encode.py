"""Encode training rows as tensors: token ids, ViT patches, and VAE moments (mean and log-variance of the latents).

Images are encoded in batches of one image size and are never padded. A resumed run must give exactly the same moments
as a run without interruption. But after a resume, an image may be encoded together with other images than before,
because the moments in the cache are lost. If batches had different lengths, this would change the last bits of the
moments. So all batches of one image size have the same length. A batch with too few images is filled up by repeating an
image.
"""

import hashlib
import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from irg_rl.model.autoencoder import Autoencoder, from_uint8
from irg_rl.model.layout import BOUNDARY_TOKENS
from irg_rl.model.tokenizer import TextTokenizer
from irg_rl.model.transforms import Resize, vit_patches
from sft.rows import ImagePart, Part, TextPart


@dataclass(frozen=True)
class EncodedText:
    ids: Int[Tensor, "T"]
    loss: bool


@dataclass(frozen=True)
class EncodedImage:
    """An image in two forms: as VAE moments (mean and log-variance of its latent tokens), and as ViT patches. The
    patches are None if the model does not see the image through the ViT. Each call of `sample` draws a new sample of
    the latents."""

    mean: Float[Tensor, "N D"]
    logvar: Float[Tensor, "N D"]
    grid: tuple[int, int]
    patches: Float[Tensor, "P E"] | None
    vit_grid: tuple[int, int]
    target: bool
    vae: bool

    def sample(self, generator: torch.Generator) -> Float[Tensor, "N D"]:
        noise = torch.randn(self.mean.shape, generator=generator)
        return self.mean + torch.exp(0.5 * self.logvar) * noise


EncodedRow = list[EncodedText | EncodedImage]

BATCH_PIXELS = 32 * 32 * 8
"""Number of pixels that one call of the autoencoder may encode. A batch has as many images as fit into this number, but
at least one image."""


class RowEncoder:
    """Encodes training rows as tensors. The VAE moments (mean and log-variance of the latents) of images are cached,
    because the same images are used again in every epoch. The cache has at most `cache_bytes` bytes."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        vae: Autoencoder,
        vae_resize: Resize,
        vit_resize: Resize,
        cache_bytes: int = 1 << 29,
    ):
        self.vae, self.vae_resize, self.vit_resize = vae, vae_resize, vit_resize
        self.cache_bytes = cache_bytes
        self._ids = lru_cache(maxsize=1 << 16)(tokenizer.encode)  # every epoch counts each text and then encodes it
        self._log_scale = 2 * math.log(vae.config.scaling_factor)
        self._cache: OrderedDict[bytes, tuple[Tensor, Tensor, tuple[int, int]]] = OrderedDict()
        self._cached_bytes = 0

    def encode(self, rows: list[tuple[Part, ...]]) -> list[EncodedRow]:
        images = [part for row in rows for part in row if isinstance(part, ImagePart)]
        moments = self._moments(images)
        encoded = []
        for row in rows:
            out: EncodedRow = []
            for part in row:
                if isinstance(part, TextPart):
                    out.append(EncodedText(torch.tensor(self._ids(part.text), dtype=torch.long), part.loss))
                else:
                    out.append(self._image(part, *moments[_key(part)]))
            encoded.append(out)
        return encoded

    def count_tokens(self, row: tuple[Part, ...], noise_blocks: tuple[int, int]) -> int:
        """Return the number of tokens that a training row needs in a pack (a sequence of several rows), without
        encoding its images. The number includes the boundary tokens before and after every text and image. It also
        includes all noise blocks: the noisy copies of the images that the model learns to draw.

        `noise_blocks` is a pair: (number of noise blocks of a first image, number of noise blocks of a refined image).
        A refined image comes after an image that the model sees.

        In training, condition dropout may hide some texts and images of a row at random. The number is for a row
        without dropout. With dropout of mode `irg`, a row can be shorter. With dropout of mode `branch`, it can be
        longer, because texts are then repeated in a context without images.
        """
        total, refines = 0, False
        for part in row:
            if isinstance(part, TextPart):
                total += len(self._ids(part.text)) + BOUNDARY_TOKENS
                continue
            height, width = part.pixels.shape[:2]
            latents, patches = (_cells(resize, width, height) for resize in (self.vae_resize, self.vit_resize))
            total += (latents + BOUNDARY_TOKENS) * (noise_blocks[refines] * part.target + part.vae)
            total += (patches + BOUNDARY_TOKENS) * part.vit
            refines = refines or part.vae or part.vit
        return total

    def _image(self, part: ImagePart, mean: Tensor, logvar: Tensor, grid: tuple[int, int]) -> EncodedImage:
        patches, vit_grid = None, (0, 0)
        if part.vit:
            patches, vit_grid = vit_patches(self.vit_resize(torch.from_numpy(part.pixels)), self.vit_resize.stride)
        return EncodedImage(mean, logvar, grid, patches, vit_grid, part.target, part.vae)

    def _moments(self, images: list[ImagePart]) -> dict[bytes, tuple[Tensor, Tensor, tuple[int, int]]]:
        """Return the VAE moments of every image: key of the image (a hash of its pixels) -> (means, log-variances, grid
        of the latent tokens). The means and log-variances have one row per latent token. Only images that are not in
        the cache are encoded."""
        found: dict[bytes, tuple[Tensor, Tensor, tuple[int, int]]] = {}
        missing: dict[tuple[int, ...], dict[bytes, Tensor]] = {}
        for image in images:
            key = _key(image)
            if key in self._cache:
                self._cache.move_to_end(key)
                found[key] = self._cache[key]
            else:
                pixels = from_uint8(self.vae_resize(torch.from_numpy(image.pixels)))
                missing.setdefault(tuple(pixels.shape), {})[key] = pixels
        for (_, height, width), batch in missing.items():
            grid = self.vae.grid(height, width)
            for key, mean, logvar in zip(batch, *self._encode(list(batch.values()))):
                found[key] = (mean.clone(), logvar.clone(), grid)
                self._keep(key, found[key])
        return found

    @torch.no_grad()
    def _encode(self, images: list[Tensor]) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N D"]]:
        """Return the scaled means and log-variances of images [3, H, W] that all have one size. The results are in fp32
        on the CPU."""
        length = max(BATCH_PIXELS // images[0][0].numel(), 1)
        weight = next(self.vae.parameters())
        parts = []
        for begin in range(0, len(images), length):
            batch = images[begin : begin + length]
            filled = torch.stack(batch + [batch[-1]] * (length - len(batch)))
            mean, logvar = self.vae.encode(filled.to(weight))
            moments = torch.stack([self.vae.scale(mean), logvar + self._log_scale])
            parts.append(self.vae.tokens(moments[:, : len(batch)]).float().cpu())
        mean, logvar = torch.cat(parts, dim=1)
        return mean, logvar

    def _keep(self, key: bytes, value: tuple[Tensor, Tensor, tuple[int, int]]) -> None:
        self._cache[key] = value
        self._cached_bytes += 2 * value[0].numel() * value[0].element_size()
        while self._cached_bytes > self.cache_bytes:
            _, (mean, _, _) = self._cache.popitem(last=False)
            self._cached_bytes -= 2 * mean.numel() * mean.element_size()


def _cells(resize: Resize, width: int, height: int) -> int:
    """Return the number of tokens of an image of `width` x `height` pixels after the resize."""
    width, height = resize.size(width, height)
    return (width // resize.stride) * (height // resize.stride)


def _key(image: ImagePart) -> bytes:
    digest = hashlib.blake2b(repr(image.pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image.pixels).data)
    return digest.digest()
