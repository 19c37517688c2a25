"""Rows -> tensors: token ids, ViT patches and VAE moments. Images are encoded by equal size, never padded."""

import hashlib
import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from irg_rl.model.autoencoder import Autoencoder, from_uint8
from irg_rl.model.tokenizer import TextTokenizer
from irg_rl.model.transforms import Resize, vit_patches
from sft.rows import ImagePart, Part, TextPart


@dataclass(frozen=True)
class EncodedText:
    ids: Int[Tensor, "T"]
    loss: bool


@dataclass(frozen=True)
class EncodedImage:
    """Moments as latent tokens (a posterior sample is drawn anew each time) and ViT patches."""

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


class RowEncoder:
    """Encodes rows; VAE moments are kept (up to `cache_bytes`) because each image comes back every epoch."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        vae: Autoencoder,
        vae_resize: Resize,
        vit_resize: Resize,
        cache_bytes: int = 1 << 29,
    ):
        self.tokenizer, self.vae, self.vae_resize, self.vit_resize = tokenizer, vae, vae_resize, vit_resize
        self.cache_bytes = cache_bytes
        self._log_scale = 2 * math.log(vae.config.scaling_factor)
        self._cache: OrderedDict[bytes, tuple[Tensor, Tensor, tuple[int, int]]] = OrderedDict()
        self._held = 0

    def encode(self, rows: list[tuple[Part, ...]]) -> list[EncodedRow]:
        images = [part for row in rows for part in row if isinstance(part, ImagePart)]
        moments = self._moments(images)
        encoded = []
        for row in rows:
            out: EncodedRow = []
            for part in row:
                if isinstance(part, TextPart):
                    out.append(EncodedText(torch.tensor(self.tokenizer.encode(part.text), dtype=torch.long), part.loss))
                else:
                    out.append(self._image(part, *moments[_key(part)]))
            encoded.append(out)
        return encoded

    def count_tokens(self, row: tuple[Part, ...], noise_blocks: int) -> int:
        """Tokens of a row in a pack, boundary tokens and every noise block included, without encoding its images."""
        total = 0
        for part in row:
            if isinstance(part, TextPart):
                total += len(self.tokenizer.encode(part.text)) + 2
                continue
            height, width = part.pixels.shape[:2]
            latents, patches = (_cells(resize, width, height) for resize in (self.vae_resize, self.vit_resize))
            total += (latents + 2) * (noise_blocks * part.target + part.vae) + (patches + 2) * part.vit
        return total

    def _image(self, part: ImagePart, mean: Tensor, logvar: Tensor, grid: tuple[int, int]) -> EncodedImage:
        patches, vit_grid = None, (0, 0)
        if part.vit:
            patches, vit_grid = vit_patches(self.vit_resize(torch.from_numpy(part.pixels)), self.vit_resize.stride)
        return EncodedImage(mean, logvar, grid, patches, vit_grid, part.target, part.vae)

    def _moments(self, images: list[ImagePart]) -> dict[bytes, tuple[Tensor, Tensor, tuple[int, int]]]:
        """Moments of every image as tokens, encoded in batches of one size."""
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
            with torch.no_grad():
                mean, logvar = self.vae.encode(torch.stack(list(batch.values())))
            means, logvars = self.vae.tokens(self.vae.scale(mean)), self.vae.tokens(logvar + self._log_scale)
            for number, key in enumerate(batch):
                found[key] = (means[number].clone(), logvars[number].clone(), self.vae.grid(height, width))
                self._keep(key, found[key])
        return found

    def _keep(self, key: bytes, value: tuple[Tensor, Tensor, tuple[int, int]]) -> None:
        self._cache[key] = value
        self._held += 2 * value[0].numel() * value[0].element_size()
        while self._held > self.cache_bytes:
            _, (mean, _, _) = self._cache.popitem(last=False)
            self._held -= 2 * mean.numel() * mean.element_size()


def _cells(resize: Resize, width: int, height: int) -> int:
    """Image tokens after the resize."""
    width, height = resize.size(width, height)
    return (width // resize.stride) * (height // resize.stride)


def _key(image: ImagePart) -> bytes:
    digest = hashlib.blake2b(repr(image.pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image.pixels))
    return digest.digest()
