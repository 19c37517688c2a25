"""Packs. A pack holds several rows (token sequences) as tensors for one forward pass. A row consists of blocks, which
are texts and images.

The tokens of a pack are in *stream order*: first the text and boundary tokens of all rows, then all ViT patches, then
all latent tokens. Inside each of these three parts, the order is row by row. The model has two sets of weights. The und
expert (understanding) processes text and patches, and the gen expert (generation) processes latents. In stream order,
the tokens of each expert stand together, so a slice selects them. Attention works on rows padded to one length; `slot`
holds the position of each token in these padded rows.

Letters in tensor shapes:

- B: rows, L: tokens of the longest row, N: all tokens
- T: text and boundary tokens, P: patches, G: latent tokens
- M: text tokens with logits, V: latent tokens with a velocity
- I: latent images (clean or noisy), D: numbers in a latent token
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from irg_rl.model.layout import Kind, Layout, Tokens, View, Visibility, views

Grid = tuple[int, int]
"""The size of a grid of tokens: (number of rows, number of columns)."""


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the four boundary tokens: begin and end of a text (bos, eos), begin and end of an image (soi, eoi)."""

    bos: int
    eos: int
    soi: int
    eoi: int


@dataclass
class Pack:
    text_ids: Int[Tensor, "T"]
    patches: Float[Tensor, "P patch"]
    patch_position_ids: Int[Tensor, "P"]
    patch_lengths: list[int]  # number of patches of each ViT image
    latents: Float[Tensor, "G D"]
    latent_position_ids: Int[Tensor, "G"]
    times: Float[Tensor, "I"]  # flow time of each latent image
    image: Int[Tensor, "G"]  # index of the image that each latent token belongs to
    positions: Int[Tensor, "N"]
    slot: Int[Tensor, "N"]  # row * L + index in the row
    unslot: Int[Tensor, "B*L"]  # stream index of the token at every padded place; 0 at padding
    visibility: Visibility
    lengths: list[int]  # number of tokens of each row
    logit_index: Int[Tensor, "M"]  # text tokens whose logits are wanted
    logit_targets: Int[Tensor, "M"]  # the token that each logit should predict
    velocity_index: Int[Tensor, "V"]  # latent tokens of noise blocks
    logit_slices: dict[int, slice]  # block number -> its part of the logits
    velocity_slices: dict[int, slice]  # number of a noise block -> its part of the velocities
    views: list[View] = field(default_factory=list)  # branches of all rows; empty if no row has several
    touch_all: bool = False  # run every module, with weight zero if the pack has no tokens for it

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def to(self, device: torch.device | str) -> "Pack":
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if name in _ON_DEVICE})


_ON_DEVICE = {
    "text_ids", "patches", "patch_position_ids", "latents", "latent_position_ids", "times", "image", "positions",
    "slot", "unslot", "visibility", "logit_index", "logit_targets", "velocity_index",
}  # fmt: skip


class PackBuilder:
    """Collects blocks (texts and images) row by row and builds a pack from them. A row is one token sequence.

    Every `add_*` method adds one block and returns the number of this block. The new block continues the block with the
    number `parent`, an earlier block of the same row. The new block sees its parent, the parent of the parent, and so
    on. If `parent` is None, the new block starts a new sample and sees no earlier block. `gap` is added to the rope
    positions (positions in the rotary position embedding) of the new block.

    `special` has the ids of the boundary tokens, which mark the begin and end of every block. `latent_side` and
    `patch_side` are the sides of the position tables for latent tokens and for patches (`max_latent_size` and
    `max_patches_per_side` in the model config). The token at (row, column) of an image has the position id row * side +
    column.
    """

    def __init__(self, special: SpecialIds, latent_side: int, patch_side: int) -> None:
        self._special = special
        self._sides = {Kind.CLEAN: latent_side, Kind.NOISE: latent_side, Kind.VIT: patch_side}
        self._rows = [Layout()]
        self._owner: list[tuple[int, int]] = []  # block number -> (row, index in the row)
        self._ids: list = []
        self._targets: list[int] = []  # number of wanted logits of each block
        self._grids: list[Grid | None] = []
        self._latents: list[Tensor] = []
        self._patches: list[Tensor] = []
        self._times: list[float] = []

    def next_positions(self) -> list[int]:
        """Return one rope position for each row. A new block would start at this position if it continued the last
        block of the row without a gap."""
        return [row.blocks[-1].next_position for row in self._rows if row.blocks]

    def new_row(self) -> None:
        """Close the current row, unless it is empty. The next block starts a new row."""
        if self._rows[-1].blocks:
            self._rows.append(Layout())

    def new_branch(self) -> None:
        """Start a new branch of the current row; the next block (text or image) is its first block. For example, every
        sample that continues the same prompt can be a branch. A block may see the other blocks of its branch. It may
        also see its ancestors, inside or outside the branch. It must not see any other block."""
        self._rows[-1].new_branch()

    def add_text(
        self, ids: list[int] | Tensor, parent: int | None = None, *, loss: bool = False, eos_target: bool = True,
        gap: int = 0,
    ) -> int:  # fmt: skip
        """Add a text block: the begin token bos, the ids, and the end token eos. Return the number of the block. If
        `loss` is True, the model computes the logits that predict the ids. If `eos_target` is also True, the model
        computes the logits that predict the closing eos, too. `parent` is the number of the block that the text
        continues, or None at the start of a sample. `gap` is added to the rope positions of the text."""
        self._ids.append(np.asarray(ids, dtype=np.int64))
        count = len(self._ids[-1])
        return self._add(Kind.TEXT, count, None, parent, gap, (count + eos_target) * loss)

    def add_clean(self, latents: Float[Tensor, "G D"], grid: Grid, parent: int | None = None, gap: int = 0) -> int:
        """Add a block with the clean latents of an image (flow time 0). The block is context for later blocks. Return
        the number of the block. `grid` is the (number of rows, number of columns) of the latent tokens. `parent` is the
        number of the block that the image continues, or None at the start of a sample. `gap` is added to the rope
        positions of the image."""
        return self._add_latents(Kind.CLEAN, latents, 0.0, grid, parent, gap)

    def add_noise(
        self, x_t: Float[Tensor, "G D"], t: float, grid: Grid, parent: int | None = None, gap: int = 0
    ) -> int:
        """Add a block with the noisy latents `x_t` of an image at flow time t in [0, 1]. The model computes their
        velocity. Return the number of the block. `grid` is the (number of rows, number of columns) of the latent
        tokens. `parent` is the number of the block that the image continues, or None at the start of a sample. `gap` is
        added to the rope positions of the image."""
        return self._add_latents(Kind.NOISE, x_t, t, grid, parent, gap)

    def add_vit(self, patches: Float[Tensor, "P patch"], grid: Grid, parent: int | None = None, gap: int = 0) -> int:
        """Add a block with the patches of an image. The block is context for later blocks. The vision tower processes
        the patches. Return the number of the block. `grid` is the (number of rows, number of columns) of the patches.
        `parent` is the number of the block that the image continues, or None at the start of a sample. `gap` is added
        to the rope positions of the image."""
        self._check(patches, grid)
        self._patches.append(patches)
        return self._add(Kind.VIT, grid[0] * grid[1], grid, parent, gap, 0)

    def _add_latents(self, kind, tokens, t, grid, parent, gap) -> int:
        self._check(tokens, grid)
        self._latents.append(tokens)
        self._times.append(t)
        return self._add(kind, grid[0] * grid[1], grid, parent, gap, 0)

    @staticmethod
    def _check(tokens: Tensor, grid: Grid) -> None:
        if tokens.shape[0] != grid[0] * grid[1]:
            raise ValueError(f"{tokens.shape[0]} image tokens do not fill a grid of {grid[0]} x {grid[1]}")

    def _add(self, kind: Kind, length: int, grid: Grid | None, parent: int | None, gap: int, targets: int) -> int:
        row = len(self._rows) - 1
        if parent is not None:
            owner, parent = self._owner[parent]
            if owner != row:
                raise ValueError(f"a block of row {row} cannot continue a block of row {owner}")
        if grid is not None and max(grid) > self._sides[kind]:
            raise ValueError(f"an image of {grid[0]} x {grid[1]} tokens exceeds the table's side {self._sides[kind]}")
        self._owner.append((row, self._rows[-1].add(kind, length, parent, gap)))
        self._targets.append(targets)
        self._grids.append(grid)
        return len(self._owner) - 1

    def build(self, touch_all: bool = False) -> Pack:
        """Return a pack with all rows (token sequences) that were added. Raises ValueError if no block was added.

        If `touch_all` is True, the forward pass runs every module of the model, also modules for which the pack has no
        tokens. Such a module does not change the outputs, and its gradients are zero instead of missing.
        """
        rows = [row for row in self._rows if row.blocks]
        if not rows:
            raise ValueError("a pack needs at least one block")
        tokens = Tokens(rows)
        longest = max(row.tokens for row in rows)
        order = np.concatenate([np.flatnonzero(part) for part in (tokens.is_text, tokens.is_vit, tokens.is_latent)])
        slot = tokens.row[tokens.block] * longest + tokens.offset
        slot = slot[order]
        unslot = np.zeros(len(rows) * longest, dtype=np.int64)
        unslot[slot] = np.arange(len(slot))
        ids = self._all_ids(tokens)
        logit_at, logit_slices = self._logits(tokens)
        velocity_index, velocity_slices = self._velocities(tokens)
        text_rank = np.cumsum(tokens.is_text) - 1
        return Pack(
            text_ids=_tensor(ids[tokens.is_text]),
            patches=_stack(self._patches),
            patch_position_ids=_tensor(self._position_ids(Kind.VIT)),
            patch_lengths=[len(patches) for patches in self._patches],
            latents=_stack(self._latents),
            latent_position_ids=_tensor(self._position_ids(Kind.CLEAN, Kind.NOISE)),
            times=torch.tensor(self._times, dtype=torch.float32),
            image=_tensor(np.repeat(np.arange(len(self._latents)), [len(tokens) for tokens in self._latents])),
            positions=_tensor(tokens.position[order]),
            slot=_tensor(slot),
            unslot=_tensor(unslot),
            visibility=Visibility.of(rows),
            lengths=[row.tokens for row in rows],
            logit_index=_tensor(text_rank[logit_at]),
            logit_targets=_tensor(ids[logit_at + 1]),
            velocity_index=_tensor(velocity_index),
            logit_slices=logit_slices,
            velocity_slices=velocity_slices,
            views=views(rows),
            touch_all=touch_all,
        )

    def _all_ids(self, tokens: Tokens) -> np.ndarray:
        """Return the token ids of all text and boundary tokens, in an array with one entry for every token of the pack.
        The entries of other tokens are not used."""
        special = self._special
        is_text = tokens.kind == Kind.TEXT
        ids = np.zeros(len(tokens.block), dtype=np.int64)
        if self._ids:
            interior = is_text[tokens.block] & (tokens.within > 0) & (tokens.within <= tokens.length[tokens.block])
            ids[interior] = np.concatenate(self._ids)
        ids[tokens.first] = np.where(is_text, special.bos, special.soi)
        ids[tokens.first + tokens.sizes - 1] = np.where(is_text, special.eos, special.eoi)
        return ids

    def _logits(self, tokens: Tokens) -> tuple[np.ndarray, dict[int, slice]]:
        counts = np.array(self._targets, dtype=np.int64)
        wanted = tokens.within < counts[tokens.block]
        return np.flatnonzero(wanted), _slices(counts)

    def _velocities(self, tokens: Tokens) -> tuple[np.ndarray, dict[int, slice]]:
        noise = tokens.kind == Kind.NOISE
        index = np.flatnonzero(noise[tokens.block][tokens.is_latent])
        return index, _slices(np.where(noise, tokens.length, 0))

    def _position_ids(self, *kinds: Kind) -> np.ndarray:
        parts = [np.zeros(0, dtype=np.int64)]
        for (row, index), grid in zip(self._owner, self._grids):
            if grid is not None and (kind := self._rows[row].blocks[index].kind) in kinds:
                parts.append(grid_ids(grid, self._sides[kind]))
        return np.concatenate(parts)


def grid_ids(grid: Grid, side: int) -> np.ndarray:
    """Return the position ids of all cells of a grid, row by row. The id of a cell is row * side + column, where `side`
    is the side of the position table."""
    return (np.arange(grid[0])[:, None] * side + np.arange(grid[1])).reshape(-1)


def _slices(counts: np.ndarray) -> dict[int, slice]:
    ends = np.cumsum(counts)
    return {int(i): slice(int(ends[i] - counts[i]), int(ends[i])) for i in np.flatnonzero(counts)}


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _stack(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts).float() if parts else torch.zeros(0, 0)
