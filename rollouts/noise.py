"""The random numbers of sampling. They do not depend on the batch, the order or the worker.

A random stream is determined by (run seed, prompt id, sample) and by its purpose. The purpose is the use (such as
tokens or initial noise), the turn, and the denoising step. So a trajectory is the same in a batch of 1 or of 16, on any
worker, and after a resume.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from irg_rl.streams import hashed, stream


class Use(StrEnum):
    TOKENS = "tokens"  # one uniform number per sampled token of a turn
    INITIAL = "initial"  # x at t = 1
    STEP = "step"  # noise of one SDE step
    POSTERIOR = "posterior"  # noise for a sample of the clean latent from the VAE posterior
    WINDOW = "window"  # which denoising steps of a group are noisy


def group_seed(run_seed: int, group_id: int) -> int:
    """Return the seed of one group (all trajectories sampled together for one prompt). When a prompt is used again in a
    later epoch, its new group has another `group_id`. So the new group gets new random numbers."""
    return hashed(run_seed, "group", group_id) % 2**63


def window_seed(seed: int, prompt_id: str, turn: int) -> int:
    """Return the seed that determines which denoising steps (the window) add noise in a turn. It does not depend on the
    number of the sample, so all samples of a group have the same window."""
    return hashed(seed, prompt_id, Use.WINDOW, turn) % 2**63


@dataclass(frozen=True)
class Noise:
    """All random numbers of one trajectory. They are always drawn on the CPU, whatever the device of the model is.
    Normal numbers are in fp32."""

    seed: int
    prompt_id: str
    sample: int

    def normal(self, use: Use, shape: tuple[int, ...], turn: int, step: int = 0) -> Float[Tensor, "..."]:
        return torch.from_numpy(self._stream(use, turn, step).standard_normal(shape, dtype=np.float32))

    def uniform(self, use: Use, count: int, turn: int) -> Float[Tensor, "count"]:
        """Return `count` random numbers in [0, 1), in fp64. `use` says what they are for, for example the choice of
        tokens. Each use and each `turn` has its own numbers. With fp32, which has 24 bits, tokens with a probability
        below 6e-8 could never be drawn."""
        return torch.from_numpy(self._stream(use, turn, 0).random(count))

    def _stream(self, use: Use, turn: int, step: int) -> np.random.Generator:
        return stream(self.seed, self.prompt_id, self.sample, use, turn, step)
