"""Arrange encoded rows in packs (sequences of several rows) for training, and make the endless stream of packs of a
training stage.

A target image is an image that the model learns to draw. It becomes one or more *noise blocks*: noisy copies of the
image, each with its own flow time. Without dropout, a noise block sees the context in which its image is drawn:
everything before the image.

Classifier-free guidance also evaluates the model on shorter contexts, which are called branches here. Condition dropout
trains these branches: it lets some noise blocks see only a shorter context. There are two modes of dropout.

Mode `branch` changes only what noise blocks see. All texts stay in the pack and keep their cross-entropy loss. For each
noise block, one of the following contexts is drawn independently at random. The name of a shorter context says what is
left out. Which contexts are possible depends on whether the image is a first image or a refinement:

    full        everything before the image
    all_text    only the system text                        (first image: guidance without text)
    last_text   all but the reflection before the image     (refinement: guidance without text)
    image       all texts, but no condition image           (refinement: guidance without image)

The positions of the tokens have no gaps where something is left out, as at inference.

Mode `irg` drops single texts and images of the row, and leaves gaps in the rope positions where images were. The
original code of IRG does the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from irg_rl.config import Dropout, Stage
from irg_rl.model.layout import BOUNDARY_TOKENS
from irg_rl.model.pack import Pack, PackBuilder
from sft.dataset import DataError, RowSource
from sft.encode import EncodedImage, EncodedRow, EncodedText, RowEncoder
from sft.rows import Part


class Branch(StrEnum):
    FULL = "full"
    LAST_TEXT = "last_text"
    IMAGE = "image"
    ALL_TEXT = "all_text"


@dataclass
class SFTPack:
    """A pack (one sequence of several training rows) for supervised fine-tuning, with the training targets of its
    images. `velocities` has these targets: the flow velocity of every token of its noise blocks (noisy copies of
    images). The labels for the cross-entropy of the texts are in `pack.logit_targets`."""

    pack: Pack
    velocities: Float[Tensor, "V D"]  # eps - x0 for every token of a noise block


class RowLayout:
    """Adds encoded rows to a pack (one sequence of several rows), which a PackBuilder builds. Each image that the model
    learns to draw is added as noise blocks (noisy copies). All random draws use the generator that is passed with the
    rows.

    `noise_blocks` is a pair: (number of noise blocks of a first image, number of noise blocks of a refined image). A
    refined image comes after an image that the model sees. `system` has the token ids of the system text. Every row
    begins with this text, as every sampled trajectory does. None means that there is no system text.
    """

    def __init__(self, dropout: Dropout, noise_blocks: tuple[int, int], shift: float, system: list[int] | None = None):
        self.dropout, self.noise_blocks, self.shift, self.system = dropout, noise_blocks, shift, system

    @property
    def system_tokens(self) -> int:
        return 0 if self.system is None else len(self.system) + BOUNDARY_TOKENS

    def pack(self, builder: PackBuilder, rows: list[EncodedRow], generator: torch.Generator) -> SFTPack:
        lay_out = self._branch_row if self.dropout.mode == "branch" else self._irg_row
        velocities: list[Tensor] = []
        for row in rows:
            builder.new_row()
            root = None if self.system is None else builder.add_text(self.system)
            lay_out(builder, row, root, velocities, generator)
        pack = builder.build(touch_all=True)  # ranks with different packs then reduce the same gradients
        return SFTPack(pack, torch.cat(velocities) if velocities else torch.zeros(0, 0))

    def _branch_row(self, builder, row: EncodedRow, root: int | None, velocities: list[Tensor], generator) -> None:
        parent = root
        before = root  # parent of the last text
        imageless: int | None = root  # end of the chain of texts without images
        texts: list[EncodedText] = []  # texts after the first condition image, not yet in the chain without images
        refines = False
        for item in row:
            if isinstance(item, EncodedText):
                before, parent = parent, builder.add_text(item.ids, parent, loss=item.loss)
                if refines:
                    texts.append(item)
                else:
                    imageless = parent
                continue
            if item.target:
                clean = item.sample(generator)
                for _ in range(self.noise_blocks[refines]):
                    branch = self._draw_branch(generator, refines)
                    if branch is Branch.IMAGE and texts:
                        imageless = _extend(builder, imageless, texts)
                        texts = []
                    context = {
                        Branch.FULL: parent, Branch.ALL_TEXT: root, Branch.LAST_TEXT: before, Branch.IMAGE: imageless,
                    }[branch]  # fmt: skip
                    self._noise(builder, clean, item, context, velocities, generator)
            if item.vae:
                parent = builder.add_clean(item.sample(generator), item.grid, parent)
            if item.patches is not None:
                parent = builder.add_vit(item.patches, item.vit_grid, parent)
            refines = refines or item.vae or item.patches is not None

    def _draw_branch(self, generator: torch.Generator, refines: bool) -> Branch:
        """Choose at random which context a noise block (a noisy copy of a target image) sees, and return its name: the
        full context, or a shorter one that guidance uses. `refines` is True if the image has images before it."""
        draw = torch.rand((), generator=generator).item()
        if not refines:
            return Branch.ALL_TEXT if draw < self.dropout.all_text else Branch.FULL
        if draw < self.dropout.image:
            return Branch.IMAGE
        return Branch.LAST_TEXT if draw < self.dropout.image + self.dropout.last_text else Branch.FULL

    def _irg_row(self, builder, row: EncodedRow, root: int | None, velocities: list[Tensor], generator) -> None:
        parent, gap = root, 0
        refines = False

        def is_dropped(share: float) -> bool:
            return torch.rand((), generator=generator).item() < share

        for item in row:
            if isinstance(item, EncodedText):
                if not is_dropped(self.dropout.irg_text):
                    parent, gap = builder.add_text(item.ids, parent, loss=item.loss, gap=gap), 0
                continue
            if item.target:
                clean = item.sample(generator)
                for _ in range(self.noise_blocks[refines]):
                    self._noise(builder, clean, item, parent, velocities, generator, gap)
            refines = refines or item.vae or item.patches is not None
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
        """Add a noise block (a noisy copy of an image) with a random flow time to the pack. Also append the training
        target of the block, its flow velocity, to `velocities`.

        The block has x_t = (1 - t) x0 + t eps with t = shift(sigmoid(n)), n ~ N(0, 1). The target is v = eps - x0.
        """
        t = torch.sigmoid(torch.randn((), generator=generator))
        t = self.shift * t / (1 + (self.shift - 1) * t)
        noise = torch.randn(clean.shape, generator=generator)
        builder.add_noise((1 - t) * clean + t * noise, float(t), item.grid, parent, gap=gap)
        velocities.append(noise - clean)


def _extend(builder: PackBuilder, parent: int | None, texts: list[EncodedText]) -> int | None:
    """Add texts to the pack after the block `parent`, and return the last added block. The texts form a context without
    images. Noise blocks (noisy copies of images) that are trained without images see this context. The same texts are
    already in the pack once, with positions that count the images between them. They are repeated here with positions
    that have no gaps."""
    for text in texts:
        parent = builder.add_text(text.ids, parent)
    return parent


class PackStream:
    """The packs (sequences of several training rows) of one training stage, in a fixed order. The rows come from
    several folders, called sources. Some sources are mandatory. A pack begins with one row of every mandatory source.
    Then each further row is drawn from a random source, in proportion to the weights of the sources, until the pack is
    full.

    If a row does not fit, it goes back to its source, which returns it first at the next draw. So no row is lost. There
    is one exception: the mandatory rows at the beginning of a pack are put into it even if they do not fit. Without
    this exception, a mandatory source with long rows would never be trained. So only mandatory rows can make a pack
    longer than `tokens_per_pack`. Rows of more than `max_row_tokens` tokens are rejected, like broken rows.

    The random draws depend on (seed, pack number) and on the reading positions of the sources. So a checkpoint needs to
    save only the pack number and these positions.
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
        generator = torch.Generator().manual_seed((self.seed << 32) + self.number)
        return self.layout.pack(self.new_builder(), self.encoder.encode(self._rows()), generator)

    def skip(self) -> None:
        """Skip the next pack (sequence of several training rows), because another rank (training process) trains on it.
        The rows of the skipped pack are read but not encoded. So all ranks stay at the same position in the data."""
        self._rows()

    def _rows(self) -> list[tuple[Part, ...]]:
        """Draw and return the rows of the next pack."""
        draws = np.random.default_rng([self.seed, self.number])
        rows: list[tuple[Part, ...]] = []
        tokens = 0
        pending = [k for k, s in enumerate(self.stage.sources) if s.mandatory]
        while True:
            is_mandatory = bool(pending)
            chosen = pending.pop(0) if is_mandatory else int(draws.choice(len(self.sources), p=self.shares))
            cursor = self.sources[chosen].state()
            row, cost = self._draw(chosen)
            if rows and not is_mandatory and tokens + cost > self.stage.tokens_per_pack:
                self.sources[chosen].load_state(cursor)
                break
            rows.append(row)
            tokens += cost
        self.number += 1
        return rows

    def _draw(self, number: int) -> tuple[tuple[Part, ...], int]:
        """Draw rows from the source with index `number` until a row has at most `max_row_tokens` tokens. Return this
        row and its number of tokens. Longer rows are rejected."""
        source, limit = self.sources[number], self.stage.max_row_tokens
        while True:
            row = source.draw()
            cost = self.cost(row)
            if cost <= limit:
                return row, cost
            source.reject_last(f"{cost} tokens are more than max_row_tokens {limit}")

    def cost(self, row: tuple[Part, ...]) -> int:
        return self.encoder.count_tokens(row, self.layout.noise_blocks) + self.layout.system_tokens

    def held_out(self, seed: int) -> list[SFTPack]:
        """Return packs (sequences of several training rows) with all rows that are kept for validation. For the same
        `seed`, the packs always have the same noise and the same flow times. Raises DataError if there is no such row.
        """
        rows = [row for source in self.sources for row in source.held_out()]
        rows = [row for row in rows if self.cost(row) <= self.stage.max_row_tokens]
        if not rows:
            folders = ", ".join(str(source.folder) for source in self.sources)
            raise DataError(f"no usable row is left for validation in the first row groups of {folders}")
        generator = torch.Generator().manual_seed(seed)
        packs, waiting, tokens = [], [], 0
        for row in rows:
            if waiting and tokens + self.cost(row) > self.stage.tokens_per_pack:
                packs.append(self.layout.pack(self.new_builder(), self.encoder.encode(waiting), generator))
                waiting, tokens = [], 0
            waiting.append(row)
            tokens += self.cost(row)
        return [*packs, self.layout.pack(self.new_builder(), self.encoder.encode(waiting), generator)]
