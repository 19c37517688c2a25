"""Encoded rows -> packs with losses, and the endless stream of packs of a stage.

A target image becomes one or more *noise blocks*, each at its own flow time, all at the place in the tree where the
image is drawn. Condition dropout by branch therefore costs no text: a block that trains a guidance branch hangs on that
branch's context, while the text keeps its place and its cross-entropy. Each noise block draws its branch on its own:

    full        everything before the image
    last_text   without the text right before it          (guidance: no-text context of a refinement)
    image       all texts, no condition image             (guidance: no-image context)
    all_text    nothing but the system text               (guidance: no-text context of a first image)

Positions close up as at inference. The `irg` mode instead drops items of the row itself, each on its own, with the gap
in the rope positions that the original leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from irg_rl.config import Dropout, Stage
from irg_rl.model.pack import Pack, PackBuilder
from sft.dataset import RowSource
from sft.encode import EncodedImage, EncodedRow, EncodedText, RowEncoder
from sft.rows import Part


class Branch(StrEnum):
    FULL = "full"
    LAST_TEXT = "last_text"
    IMAGE = "image"
    ALL_TEXT = "all_text"


@dataclass
class SFTPack:
    """A pack with its flow targets. `pack.logit_targets` are the labels of the cross-entropy."""

    pack: Pack
    velocities: Float[Tensor, "V D"]  # eps - x0 of every noise-block token


class RowLayout:
    """Lays encoded rows out in a PackBuilder; every draw comes from the generator given with the rows."""

    def __init__(self, dropout: Dropout, noise_blocks: int, shift: float):
        self.dropout, self.noise_blocks, self.shift = dropout, noise_blocks, shift

    def pack(self, builder: PackBuilder, rows: list[EncodedRow], generator: torch.Generator) -> SFTPack:
        lay_out = self._branch_row if self.dropout.mode == "branch" else self._irg_row
        velocities: list[Tensor] = []
        for row in rows:
            builder.new_row()
            lay_out(builder, row, velocities, generator)
        return SFTPack(builder.build(), torch.cat(velocities) if velocities else torch.zeros(0, 0))

    def _branch_row(self, builder, row: EncodedRow, velocities: list[Tensor], generator: torch.Generator) -> None:
        parent: int | None = None
        before: int | None = None  # what the last text continues
        texts: list[EncodedText] = []
        for item in row:
            if isinstance(item, EncodedText):
                before, parent = parent, builder.add_text(item.ids, parent, loss=item.loss)
                texts.append(item)
                continue
            if item.target:
                contexts = {Branch.FULL: parent, Branch.LAST_TEXT: before, Branch.ALL_TEXT: None}
                clean = item.sample(generator)
                for _ in range(self.noise_blocks):
                    branch = self._draw_branch(generator)
                    if branch not in contexts:
                        contexts[branch] = _text_chain(builder, texts)
                    self._noise(builder, clean, item, contexts[branch], velocities, generator)
            if item.vae:
                parent = builder.add_clean(item.sample(generator), item.grid, parent)
            if item.patches is not None:
                parent = builder.add_vit(item.patches, item.vit_grid, parent)

    def _draw_branch(self, generator: torch.Generator) -> Branch:
        draw = torch.rand((), generator=generator).item()
        for branch, share in (
            (Branch.IMAGE, self.dropout.image),
            (Branch.LAST_TEXT, self.dropout.last_text),
            (Branch.ALL_TEXT, self.dropout.all_text),
        ):
            if draw < share:
                return branch
            draw -= share
        return Branch.FULL

    def _irg_row(self, builder, row: EncodedRow, velocities: list[Tensor], generator: torch.Generator) -> None:
        parent, gap = None, 0

        def is_dropped(share: float) -> bool:
            return torch.rand((), generator=generator).item() < share

        for item in row:
            if isinstance(item, EncodedText):
                if not is_dropped(self.dropout.irg_text):
                    parent, gap = builder.add_text(item.ids, parent, loss=item.loss, gap=gap), 0
                continue
            if item.target:
                clean = item.sample(generator)
                for _ in range(self.noise_blocks):
                    self._noise(builder, clean, item, parent, velocities, generator, gap)
            if item.vae:
                if is_dropped(self.dropout.irg_vae):
                    gap += 1
                else:
                    parent, gap = builder.add_clean(item.sample(generator), item.grid, parent, gap=gap), 0
            if item.patches is not None:
                if is_dropped(self.dropout.irg_vit):
                    gap += 1
                else:
                    parent, gap = builder.add_vit(item.patches, item.vit_grid, parent, gap=gap), 0

    def _noise(self, builder, clean, item: EncodedImage, parent, velocities, generator, gap: int = 0) -> None:
        """x_t = (1 - t) x0 + t eps with t = shift(sigmoid(n)), n ~ N(0, 1); target v = eps - x0."""
        t = torch.sigmoid(torch.randn((), generator=generator))
        t = self.shift * t / (1 + (self.shift - 1) * t)
        noise = torch.randn(clean.shape, generator=generator)
        builder.add_noise((1 - t) * clean + t * noise, float(t), item.grid, parent, gap=gap)
        velocities.append(noise - clean)


def _text_chain(builder: PackBuilder, texts: list[EncodedText]) -> int | None:
    """The texts alone, closed up, as the no-image branch of guidance sees them."""
    parent = None
    for text in texts:
        parent = builder.add_text(text.ids, parent)
    return parent


class PackStream:
    """Packs of a stage in a fixed order: mandatory sources first, then draws by weight until a pack is full.

    A row that doesn't fit begins the next pack, so nothing is lost. Which source is drawn is a function of (seed, pack
    number); with the sources' cursors and the held-over rows' count that is the whole state.
    """

    def __init__(
        self,
        stage: Stage,
        sources: list[RowSource],
        encoder: RowEncoder,
        layout: RowLayout,
        new_builder: Callable[[], PackBuilder],
        seed: int,
    ):
        self.stage, self.sources, self.encoder, self.layout = stage, sources, encoder, layout
        self.new_builder, self.seed = new_builder, seed
        weights = np.array([s.weight for s in stage.sources], dtype=np.float64)
        self.shares = weights / weights.sum()
        self.number = 0

    def state(self) -> dict:
        return {"number": self.number, "sources": [s.state() for s in self.sources]}

    def load_state(self, state: dict) -> None:
        self.number = state["number"]
        for source, saved in zip(self.sources, state["sources"], strict=True):
            source.load_state(saved)

    def next(self) -> SFTPack:
        draws = np.random.default_rng([self.seed, self.number])
        generator = torch.Generator().manual_seed((self.seed << 32) + self.number)
        rows: list[tuple[Part, ...]] = []
        tokens = 0
        pending = [k for k, s in enumerate(self.stage.sources) if s.mandatory]
        while True:
            chosen = pending.pop(0) if pending else int(draws.choice(len(self.sources), p=self.shares))
            cursor = self.sources[chosen].state()
            row, cost = self._draw(chosen)
            if rows and tokens + cost > self.stage.tokens_per_pack:
                self.sources[chosen].load_state(cursor)  # drawn again by a later pack
                break
            rows.append(row)
            tokens += cost
        self.number += 1
        return self.layout.pack(self.new_builder(), self.encoder.encode(rows), generator)

    def _draw(self, source: int) -> tuple[tuple[Part, ...], int]:
        """The next row that is not over-long, and its tokens."""
        while True:
            row = self.sources[source].draw()
            cost = self.encoder.count_tokens(row, self.stage.noise_blocks)
            if cost <= self.stage.max_row_tokens:
                return row, cost
