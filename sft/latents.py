"""VAE moments of images on the disk. The autoencoder is not trained in SFT, so every image needs to be encoded only
once, over all epochs, ranks, resumes and runs.

    <folder>/<digest of the autoencoder>/<first two digits>/<hash of the pixels>-<rows>x<columns>.safetensors

A file has the moments in fp32, so they are the same bit for bit as those that the autoencoder has computed. A file that
cannot be read is ignored, and written again. Files are never removed.
"""

import hashlib
import uuid
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from irg_rl.model.autoencoder import Autoencoder
from sft.dataset import DataError


class Moments(NamedTuple):
    """Mean and log-variance of the latent tokens of an image, one row per token, and the grid of the tokens."""

    mean: Float[Tensor, "N D"]
    logvar: Float[Tensor, "N D"]
    grid: tuple[int, int]

    @property
    def bytes(self) -> int:
        return self.mean.nbytes + self.logvar.nbytes


class LatentStore:
    """The moments that the autoencoder `vae` computes. Several processes may use the same folder."""

    def __init__(self, folder: Path, vae: Autoencoder) -> None:
        self.folder = folder / digest(vae)

    def read(self, key: bytes, grid: tuple[int, int]) -> Moments | None:
        """Return the moments of the image with this key and this grid of latent tokens, or None if they are not there
        or damaged."""
        with suppress(OSError, SafetensorError):
            found = load_file(self._path(key, grid))
            if [len(found.get(name, ())) for name in ("mean", "logvar")] == [grid[0] * grid[1]] * 2:
                return Moments(found["mean"], found["logvar"], grid)
        return None

    def write(self, key: bytes, moments: Moments) -> None:
        """Store the moments of an image. The file appears only when it is complete. Raises DataError if the disk is
        full or may not be written."""
        path = self._path(key, moments.grid)
        aside = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"mean": moments.mean, "logvar": moments.logvar}, aside)
            aside.rename(path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                aside.unlink()
            raise DataError(f"sft.latents: cannot write {path} ({error}); free some space or leave it out") from error

    def _path(self, key: bytes, grid: tuple[int, int]) -> Path:
        name = key.hex()
        return self.folder / name[:2] / f"{name}-{grid[0]}x{grid[1]}.safetensors"


def digest(vae: Autoencoder) -> str:
    """Return the first 16 hex digits of the sha256 of all that decides the moments: the settings of the autoencoder and
    the names, number types and bytes of its weights."""
    total = hashlib.sha256(f"{vae.config.model_dump_json()} {vae.latent_patch_size}".encode())
    for name, tensor in sorted(vae.state_dict().items()):
        total.update(f"{name} {tensor.dtype}".encode())
        total.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return total.hexdigest()[:16]
