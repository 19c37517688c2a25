"""Functions and modules for latent tokens: cutting latents into tokens, the fixed position tables, and the embedding of
the flow time."""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

_FREQUENCIES = 128
_MAX_PERIOD = 10_000.0


def patchify(image: Float[Tensor, "*b C H W"], patch: int) -> Float[Tensor, "*b N D"]:
    """Cut an image or latent into square patches and return one token per patch. Tokens are ordered row by row. Inside
    a token the order is (row, column, channel), with the channel changing fastest."""
    height, width = image.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(f"{height} x {width} is not divisible into patches of {patch}")
    cells = image.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))  # C, rows, patch, columns, patch
    return cells.movedim(-5, -1).movedim(-4, -3).flatten(-3).flatten(-3, -2)


def unpatchify(tokens: Float[Tensor, "*b N D"], grid: tuple[int, int], patch: int) -> Float[Tensor, "*b C H W"]:
    """Join tokens to an image or latent again: the inverse of `patchify`. `grid` is (rows, columns) of tokens."""
    cells = tokens.unflatten(-1, (patch, patch, -1)).unflatten(-4, grid)  # rows, columns, patch, patch, C
    return cells.movedim(-1, -5).movedim(-3, -2).flatten(-4, -3).flatten(-2)


def sincos_table(side: int, size: int) -> Float[Tensor, "side*side size"]:
    """Return the sin-cos position table of a square grid with `side` rows and columns. The table has one vector of
    `size` numbers for each position. Row r * side + c of the table belongs to grid row r and column c.

    The first half of each table row is [sin, cos] of c, and the second half is [sin, cos] of r. The frequencies are
    10000^(-k / (size/4)). The table is computed in fp64 and returned in fp32.
    """
    quarter = size // 4
    omega = torch.arange(quarter, dtype=torch.float64, device="cpu").div(quarter).neg().mul(math.log(_MAX_PERIOD)).exp()
    angle = torch.arange(side, dtype=torch.float64, device="cpu")[:, None] * omega
    line = torch.cat([angle.sin(), angle.cos()], dim=1)
    columns = line[None].expand(side, side, -1)
    rows = line[:, None].expand(side, side, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1).float()


class PositionTable(nn.Module):
    """A fixed sin-cos table with one vector for each position in a square grid. It stays in fp32, also when the model
    is cast to another number type."""

    pos_embed: Float[Tensor, "side*side size"]

    def __init__(self, side: int, size: int) -> None:
        super().__init__()
        self.side, self.size = side, size
        empty = torch.empty(side * side, size)
        self.register_buffer("pos_embed", empty if empty.is_meta else sincos_table(side, size))

    def _apply(self, fn, recurse: bool = True) -> "PositionTable":
        table = self.pos_embed
        super()._apply(fn, recurse)
        if not table.is_meta:
            self.pos_embed = table.to(self.pos_embed.device)
        return self

    def forward(self, ids: Tensor) -> Tensor:
        return self.pos_embed[ids]


class TimeEmbedder(nn.Module):
    """Embeds the flow time t in [0, 1] without scaling it. The features [cos, sin] of t * 10000^(-k/128), for k = 0 ...
    127, go through Linear, SiLU and Linear."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * _FREQUENCIES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    @property
    def last(self) -> nn.Linear:
        """Return the last linear layer. Its output is the embedding of the time."""
        return cast(nn.Linear, self.mlp[2])

    def forward(self, t: Float[Tensor, "N"]) -> Float[Tensor, "N H"]:
        k = torch.arange(_FREQUENCIES, dtype=torch.float32, device=t.device)
        angle = t.float()[:, None] * torch.exp(-math.log(_MAX_PERIOD) * k / _FREQUENCIES)
        features = torch.cat([angle.cos(), angle.sin()], dim=-1)
        return self.mlp(features.to(self.last.weight.dtype))
