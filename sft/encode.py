"""Encode training rows as tensors: token ids, ViT patches, and VAE moments (mean and log-variance of the latents).

Images are encoded in batches of one image size and are never padded. The moments of an image must not depend on the
other images of its batch. Otherwise the results of a resumed run and of an uninterrupted run would differ in the last
bits: the resumed run starts with an empty cache of moments, so its batches contain other images. So all batches of one
image size have the same length. A batch with too few images is filled up by repeating an image.

The work on an image has two parts. `ready` decodes and resizes it. It needs no model, so it may run in other threads,
ahead of time. `encode_ready` then runs the autoencoder, in the thread of the training.
"""

import hashlib
import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from irg_rl.model.autoencoder import Autoencoder, from_uint8
from irg_rl.model.config import ModelConfig
from irg_rl.model.layout import BOUNDARY_TOKENS
from irg_rl.model.tokenizer import TextTokenizer
from irg_rl.model.transforms import Resize, vit_patches
from sft.latents import LatentStore, Moments
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


@dataclass(frozen=True)
class ReadyImage:
    """A decoded image: `key` is a hash of its pixels, `pixels` is the image in the size for the autoencoder, and
    `patches` are its ViT patches, or None if the model does not see it through the ViT."""

    part: ImagePart
    key: bytes
    pixels: UInt8[Tensor, "H W 3"]
    patches: Float[Tensor, "P E"] | None
    vit_grid: tuple[int, int]


ReadyRow = list[TextPart | ReadyImage]

BATCH_PIXELS = {"cpu": 32 * 32 * 8, "cuda": 1024 * 1024}
"""Number of pixels that one call of the autoencoder may encode, by the type of its device. A batch has as many images
as fit into this number, but at least one image. On a GPU this is one image of the largest size, or four of half of its
side, so a batch never needs more memory than one large image."""


def vae_resize(config: ModelConfig) -> Resize:
    """Return the Resize that prepares images for the autoencoder. The longest side fits the position table of latent
    tokens, and the shortest side is at least half of it. For BAGEL these are 1024 and 512 pixels."""
    table = config.max_latent_size * config.pixels_per_token
    return Resize(table, table // 2, config.pixels_per_token)


class RowEncoder:
    """Encodes training rows as tensors. The VAE moments (mean and log-variance of the latents) of images are cached,
    because the same images are used again in every epoch. The cache in memory has at most `cache_bytes` bytes. `store`
    is a second cache, on the disk. None: there is no such cache."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        vae: Autoencoder,
        vae_resize: Resize,
        vit_resize: Resize,
        cache_bytes: int = 1 << 29,
        store: LatentStore | None = None,
    ):
        self.vae, self.vae_resize, self.vit_resize, self.store = vae, vae_resize, vit_resize, store
        self.cache_bytes = cache_bytes
        self._tokenizer, self._lock = tokenizer, Lock()
        self._ids = lru_cache(maxsize=1 << 16)(self._tokenize)  # every epoch counts each text and then encodes it
        self._log_scale = 2 * math.log(vae.config.scaling_factor)
        self._cache: OrderedDict[bytes, Moments] = OrderedDict()
        self._cached_bytes = 0

    def ready(self, row: tuple[Part, ...]) -> ReadyRow:
        """Decode and resize the images of a row. This method may be called from several threads. Raises BrokenRow if an
        image is damaged."""
        return [self._ready(part) if isinstance(part, ImagePart) else part for part in row]

    def encode(self, rows: list[tuple[Part, ...]]) -> list[EncodedRow]:
        return self.encode_ready([self.ready(row) for row in rows])

    def encode_ready(self, rows: list[ReadyRow]) -> list[EncodedRow]:
        moments = self._moments([part for row in rows for part in row if isinstance(part, ReadyImage)])
        encoded = []
        for row in rows:
            out: EncodedRow = []
            for part in row:
                if isinstance(part, TextPart):
                    out.append(EncodedText(torch.tensor(self._ids(part.text), dtype=torch.long), part.loss))
                else:
                    mean, logvar, grid = moments[part.key]
                    image = part.part
                    out.append(
                        EncodedImage(mean, logvar, grid, part.patches, part.vit_grid, image.target, image.vae)
                    )
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
            latents, patches = (_cells(resize, *part.size) for resize in (self.vae_resize, self.vit_resize))
            total += (latents + BOUNDARY_TOKENS) * (noise_blocks[refines] * part.target + part.vae)
            total += (patches + BOUNDARY_TOKENS) * part.vit
            refines = refines or part.vae or part.vit
        return total

    def _tokenize(self, text: str) -> list[int]:
        with self._lock:  # a fast tokenizer raises an error if two threads use it at the same time
            return self._tokenizer.encode(text)

    def _ready(self, part: ImagePart) -> ReadyImage:
        pixels, patches, vit_grid = torch.from_numpy(part.pixels), None, (0, 0)
        if part.vit:
            patches, vit_grid = vit_patches(self.vit_resize(pixels), self.vit_resize.stride)
        return ReadyImage(part, _key(part), self.vae_resize(pixels), patches, vit_grid)

    def _moments(self, images: list[ReadyImage]) -> dict[bytes, Moments]:
        """Return the VAE moments of every image: key of the image (a hash of its pixels) -> moments. Only images that
        are in none of the caches are encoded."""
        found: dict[bytes, Moments] = {}
        missing: dict[tuple[int, ...], dict[bytes, Tensor]] = {}
        for image in images:
            if (moments := self._cached(image)) is not None:
                found[image.key] = moments
            else:
                missing.setdefault(tuple(image.pixels.shape), {})[image.key] = from_uint8(image.pixels)
        for (height, width, _), batch in missing.items():
            grid = self.vae.grid(height, width)
            for key, mean, logvar in zip(batch, *self._encode(list(batch.values()))):
                found[key] = Moments(mean.clone(), logvar.clone(), grid)
                self._keep(key, found[key])
                if self.store is not None:
                    self.store.write(key, found[key])
        return found

    def _cached(self, image: ReadyImage) -> Moments | None:
        if image.key in self._cache:
            self._cache.move_to_end(image.key)
            return self._cache[image.key]
        if self.store is None:
            return None
        moments = self.store.read(image.key, self.vae.grid(*image.pixels.shape[:2]))
        if moments is not None:
            self._keep(image.key, moments)
        return moments

    @torch.no_grad()
    def _encode(self, images: list[Tensor]) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N D"]]:
        """Return the scaled means and log-variances of images [3, H, W] that all have one size. The results are in fp32
        on the CPU."""
        weight = next(self.vae.parameters())
        length = max(BATCH_PIXELS[weight.device.type] // images[0][0].numel(), 1)
        parts = []
        for begin in range(0, len(images), length):
            batch = images[begin : begin + length]
            filled = torch.stack(batch + [batch[-1]] * (length - len(batch)))
            mean, logvar = self.vae.encode(filled.to(weight))
            moments = torch.stack([self.vae.scale(mean), logvar + self._log_scale])
            parts.append(self.vae.tokens(moments[:, : len(batch)]).float().cpu())
        mean, logvar = torch.cat(parts, dim=1)
        return mean, logvar

    def _keep(self, key: bytes, value: Moments) -> None:
        self._cache[key] = value
        self._cached_bytes += value.bytes
        while self._cached_bytes > self.cache_bytes:
            _, forgotten = self._cache.popitem(last=False)
            self._cached_bytes -= forgotten.bytes


def _cells(resize: Resize, width: int, height: int) -> int:
    """Return the number of tokens of an image of `width` x `height` pixels after the resize."""
    width, height = resize.size(width, height)
    return (width // resize.stride) * (height // resize.stride)


def _key(image: ImagePart) -> bytes:
    digest = hashlib.blake2b(repr(image.pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image.pixels).data)
    return digest.digest()
