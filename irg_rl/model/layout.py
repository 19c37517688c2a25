"""The layout rules for tokens. For every token they give its place in the order, its rope position, the tokens that it
sees, and its expert. They also place the boundary tokens. No other module contains such rules.

A row is one token sequence. It consists of blocks (texts and images), which form a tree: a block continues its parent.
A block without a parent starts a new sample.

| kind  | tokens                  | mask in the block | rope positions  | next position         |
|-------|-------------------------|-------------------|-----------------|-----------------------|
| TEXT  | bos, ids, eos           | causal            | start, start+1… | start + tokens        |
| CLEAN | soi, latents (t=0), eoi | full              | all = start     | start + 1             |
| VIT   | soi, patches, eoi       | full              | all = start     | start + 1             |
| NOISE | soi, x_t, eoi           | full              | all = start     | start (no change)     |

A block starts at its parent's next position plus `gap`; a block without a parent starts at `gap`. Its tokens see every
token of every ancestor. NOISE blocks have no children, so no other block sees them. If the tree is a chain, the result
is BAGEL's packing. A tree with branches also allows shared prefixes, several noise blocks per image, and contexts that
leave out earlier texts and images.

The latent tokens of CLEAN and NOISE blocks use the gen expert (weights for image generation). Text, patches and *all*
boundary tokens use the und expert (weights for understanding).
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

BOUNDARY_TOKENS = 2


class Kind(IntEnum):
    TEXT = 0
    CLEAN = 1
    VIT = 2
    NOISE = 3


@dataclass(frozen=True)
class Block:
    kind: Kind
    length: int
    parent: int | None
    start: int  # rope position of the block's first token
    offset: int  # index of the block's first token in the row

    @property
    def tokens(self) -> int:
        return self.length + BOUNDARY_TOKENS

    @property
    def next_position(self) -> int:
        if self.kind is Kind.TEXT:
            return self.start + self.tokens
        return self.start if self.kind is Kind.NOISE else self.start + 1


class Layout:
    """The blocks (texts and images) of one row, in token order. A row is one token sequence."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.tokens = 0
        self.branches = [0]
        """For each branch of the row (see `new_branch`), the index of its first block."""

    def add(self, kind: Kind, length: int, parent: int | None = None, gap: int = 0) -> int:
        """Append a block (a text or an image) of the given kind, with `length` tokens between its two boundary tokens.
        Return the index of the block in the row. `parent` is the index of the block that the new block continues. If
        `parent` is None, the new block starts a new sample. `gap` is added to the rope positions of the new block."""
        if parent is None:
            start = gap
        else:
            above = self._parent(parent)
            start = above.next_position + gap
        self.blocks.append(Block(kind, length, parent, start, self.tokens))
        self.tokens += length + BOUNDARY_TOKENS
        return len(self.blocks) - 1

    def new_branch(self) -> None:
        """Declare that the next block (text or image) starts a new branch of the row. For example, every sample that
        continues the same prompt can be a branch. A block may see the other blocks of its branch. It may also see its
        ancestors, inside or outside the branch. It must not see any other block.

        This call does not change the visibility of tokens, because the visibility depends only on parents. The call
        only marks a place where the attention code may split the row.
        """
        if self.branches[-1] < len(self.blocks):
            self.branches.append(len(self.blocks))

    def _parent(self, parent: int) -> Block:
        if not 0 <= parent < len(self.blocks):
            raise ValueError(f"parent {parent} is not one of the row's {len(self.blocks)} blocks")
        if self.blocks[parent].kind is Kind.NOISE:
            raise ValueError(f"block {parent} is a NOISE block, which nothing may continue: continue its parent")
        return self.blocks[parent]

    def ancestors(self) -> np.ndarray:
        """Return a boolean table [n, n] for the n blocks of the row. Entry (i, j) says whether block j is block i
        itself or an ancestor of block i."""
        sees = np.eye(len(self.blocks), dtype=bool)
        for index, block in enumerate(self.blocks):
            if block.parent is not None:
                sees[index] |= sees[block.parent]
        return sees

    def positions(self) -> Int[Tensor, "L"]:
        """Return the rope position of every token in the row."""
        return torch.from_numpy(Tokens([self]).position)

    def visibility(self) -> Bool[Tensor, "L L"]:
        """Return a boolean table [L, L] for the L tokens of the row. Entry (i, j) says whether token i may attend to
        token j."""
        return Visibility.of([self]).dense()[0, : self.tokens, : self.tokens]


@dataclass(frozen=True)
class View:
    """One branch of a row (token sequence), for example one of several samples that continue the same prompt. The view
    holds the branch's own tokens, and the visible tokens outside the branch. Each token is given by its index in the
    row."""

    row: int
    own: range
    context: np.ndarray  # in ascending order

    @property
    def keys(self) -> int:
        return len(self.context) + len(self.own)


def views(rows: list[Layout]) -> list[View]:
    """Return the branches of all rows, each as a `View`. (A row is one token sequence; its branches are, for example,
    samples that continue the same prompt.) The list is empty if every row has only one branch."""
    if all(len(row.branches) == 1 for row in rows):
        return []
    found = []
    for number, row in enumerate(rows):
        ancestors = row.ancestors()
        for first, end in zip(row.branches, [*row.branches[1:], len(row.blocks)]):
            above = [row.blocks[i] for i in np.flatnonzero(ancestors[first:end].any(0)) if i < first]
            context = [np.arange(b.offset, b.offset + b.tokens) for b in above]
            begin, last = row.blocks[first].offset, row.blocks[end - 1]
            own = range(begin, last.offset + last.tokens)
            found.append(View(number, own, np.concatenate([np.zeros(0, dtype=np.int64), *context])))
    return found


class Tokens:
    """The properties of all tokens of several rows (token sequences), as arrays.

    These arrays have one entry per token, row after row:

    - `block`: the index of the token's block (a text or an image)
    - `within`, `offset`: the index of the token in its block and in its row
    - `position`: the rope position of the token
    - `is_text`, `is_vit`, `is_latent`: whether the token is a text or boundary token, an image patch, or a latent

    These arrays have one entry per block:

    - `row`: the index of the block's row
    - `kind`: the kind of the block
    - `length`, `sizes`: the number of tokens without and with the boundary tokens
    - `first`: the index of the first token of the block
    """

    def __init__(self, rows: list[Layout]) -> None:
        table = [
            (row, b.kind, b.length, b.start, b.offset, b.kind is Kind.TEXT)
            for row, layout in enumerate(rows)
            for b in layout.blocks
        ]
        columns = np.array(table, dtype=np.int64).reshape(-1, 6).T
        self.row, self.kind, self.length, start, offset, causal = columns
        self.sizes = self.length + BOUNDARY_TOKENS
        self.first = np.cumsum(self.sizes) - self.sizes  # index of each block's first token
        self.block = np.repeat(np.arange(len(table)), self.sizes)
        self.within = np.arange(len(self.block)) - np.repeat(self.first, self.sizes)
        kind = self.kind[self.block]
        interior = (self.within > 0) & (self.within < self.sizes[self.block] - 1)
        self.position = start[self.block] + self.within * causal[self.block]
        self.offset = offset[self.block] + self.within
        self.is_vit = interior & (kind == Kind.VIT)
        self.is_latent = interior & ((kind == Kind.CLEAN) | (kind == Kind.NOISE))
        self.is_text = ~(self.is_vit | self.is_latent)


@dataclass
class Visibility:
    """Says which tokens see each other, in a batch of rows (token sequences) padded to one length. Pairs of tokens are
    not stored. The object stores only the block (text or image) of every token, and the ancestors and the kind of every
    block.

    The padding of a row counts as a block of its own, which sees only itself.
    """

    block: Int[Tensor, "B L"]
    ancestors: Bool[Tensor, "B n n"]
    causal: Bool[Tensor, "B n"]  # which blocks are TEXT blocks
    noise: Bool[Tensor, "B n"]  # which blocks are NOISE blocks

    @classmethod
    def of(cls, rows: list[Layout]) -> "Visibility":
        length = max(row.tokens for row in rows)
        count = max(len(row.blocks) for row in rows) + 1
        block = np.full((len(rows), length), count - 1, dtype=np.int64)
        ancestors = np.zeros((len(rows), count, count), dtype=bool)
        kinds = np.full((len(rows), count), -1)
        ancestors[:, count - 1, count - 1] = True
        for index, row in enumerate(rows):
            n = len(row.blocks)
            block[index, : row.tokens] = np.repeat(np.arange(n), [b.tokens for b in row.blocks])
            ancestors[index, :n, :n] = row.ancestors()
            kinds[index, :n] = [b.kind for b in row.blocks]
        return cls(*map(torch.from_numpy, (block, ancestors, kinds == Kind.TEXT, kinds == Kind.NOISE)))

    def take(self, rows: Int[Tensor, "R"], length: int) -> "Visibility":
        """Return a new Visibility of the rows (token sequences) with the indices `rows`. Each of these rows is cut to
        its first `length` tokens. Only padding may be cut off. So `length` must be at least the number of real tokens
        of each row."""
        return Visibility(self.block[rows, :length], self.ancestors[rows], self.causal[rows], self.noise[rows])

    def dense(self) -> Bool[Tensor, "B L L"]:
        batch, length = self.block.shape
        count = self.ancestors.shape[1]
        rows = self.ancestors.gather(1, self.block[:, :, None].expand(batch, length, count))
        visible = rows.gather(2, self.block[:, None, :].expand(batch, length, length))
        own = self.block[:, :, None] == self.block[:, None, :]
        causal_query = self.causal.gather(1, self.block)[:, :, None]
        order = torch.arange(length, device=self.block.device)
        future = order[None, :] > order[:, None]
        return visible & ~(own & causal_query & future)

    def between(
        self, row: Int[Tensor, "R"], query: Int[Tensor, "R Q"], key: Int[Tensor, "R K"]
    ) -> Bool[Tensor, "R Q K"]:
        """Return a boolean table. Entry [i, q, k] says whether token `query[i, q]` sees token `key[i, k]`. Both are
        indices of tokens in the row with the index `row[i]`. An index of -1 is padding. No real query sees a padded
        key. Padded queries see all keys, because a softmax over nothing is undefined."""
        block, ancestors = self.block[row], self.ancestors[row]
        own, other = block.gather(1, query.clamp(min=0)), block.gather(1, key.clamp(min=0))
        seen = ancestors.gather(1, own[:, :, None].expand(*own.shape, ancestors.shape[2]))
        visible = seen.gather(2, other[:, None, :].expand(*own.shape, other.shape[1]))
        same = own[:, :, None] == other[:, None, :]
        causal = self.causal[row].gather(1, own)[:, :, None]
        visible = visible & ~(same & causal & (key[:, None, :] > query[:, :, None])) & (key >= 0)[:, None, :]
        return visible | (query < 0)[:, :, None]

    def in_noise(self) -> Bool[Tensor, "B L"]:
        """Return, for every token, whether it belongs to a NOISE block (a noisy image). The boundary tokens of the
        block are included."""
        return self.noise.gather(1, self.block)

    def to(self, device: torch.device | str) -> "Visibility":
        return Visibility(*(part.to(device) for part in (self.block, self.ancestors, self.causal, self.noise)))
