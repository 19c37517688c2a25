"""The endless stream of packs (sequences of several training rows) of a training stage.

All ranks (training processes) draw the same rows. Of a pack that belongs to another rank only the texts and the sizes
of the images are read. A rank decodes and encodes the images of its own packs, if `workers` > 0 some packs ahead:

    drawing thread:   draw pack 5 | draw pack 6 | draw pack 7 | ...
    workers:                images of pack 5 | images of pack 6 | ...
    training thread:  step on pack 3         | encode and step on pack 4 | ...

What is drawn does not depend on time, threads or the number of ranks. A checkpoint has the position after the last pack
that was taken, so packs that were drawn ahead are drawn again after a resume.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
import torch

from irg_rl.config import Stage
from irg_rl.model.pack import PackBuilder
from sft.dataset import DataError, RowPlace, RowSource
from sft.encode import ReadyRow, RowEncoder
from sft.packing import RowLayout, SFTPack
from sft.rows import BrokenRow, Part

STEPS_AHEAD = 2
"""Number of training steps whose packs are drawn ahead, if there are workers."""


@dataclass
class DrawnPack:
    """The rows of a pack. `places` says for each row where it stands. `state` is the position of the stream after this
    pack. `ready` has the decoded rows: they are being decoded, or the list is empty if nobody has begun."""

    number: int
    rows: list[tuple[Part, ...]]
    places: list[RowPlace]
    state: dict
    ready: list[Future[ReadyRow]]


class PackStream:
    """The packs (sequences of several training rows) of one training stage, in a fixed order. The rows come from
    several sources (folders of rows), some of which are mandatory. A pack begins with one row of every mandatory
    source. Then rows are drawn at random from all sources, in proportion to their weights, until the pack is full.

    If a row does not fit, it goes back to its source, which returns it first at the next draw. So no row is lost. A
    mandatory row is put into the pack even if it does not fit. Otherwise the rows of a source with long rows would
    never be trained. So only mandatory rows can make a pack longer than `tokens_per_pack`. Rows of more than
    `max_row_tokens` tokens are rejected, as broken rows are. A row whose image turns out to be damaged when it is
    decoded is left out of its pack, and rejected, too.

    The random draws depend on (seed, pack number) and on the reading positions of the sources. So a checkpoint needs to
    save only the pack number and these positions.

    `is_own` is a function that says whether the pack with this number belongs to this rank. `workers` is the number of
    threads that decode images ahead of time. 0: images are decoded when their pack is taken.
    """

    def __init__(
        self,
        stage: Stage,
        sources: list[RowSource],
        encoder: RowEncoder,
        layout: RowLayout,
        new_builder: Callable[[], PackBuilder],
        seed: int,
        is_own: Callable[[int], bool] = lambda number: True,
        workers: int = 0,
    ):
        self.stage, self.sources, self.encoder, self.layout = stage, sources, encoder, layout
        self.new_builder, self.seed, self.is_own = new_builder, seed, is_own
        weights = np.array([s.weight for s in stage.sources], dtype=np.float64)
        self.shares = weights / weights.sum()
        self.number = 0  # of the pack that is taken next
        self._drawn = 0  # number of the pack that is drawn next
        self._state = self._position()
        self._ahead: deque[Future[DrawnPack]] = deque()
        self._drawer = ThreadPoolExecutor(1, "draw") if workers else None
        self._decoders = ThreadPoolExecutor(workers, "decode") if workers else None

    def state(self) -> dict:
        """Return the position after the last pack that was taken."""
        return self._state

    def load_state(self, state: dict) -> None:
        self._forget()
        self.number = self._drawn = state["number"]
        for source, saved in zip(self.sources, state["sources"], strict=True):
            source.load_state(saved)
        self._state = state

    def next(self) -> SFTPack | None:
        """Return the next pack. It is None if all its rows are broken."""
        drawn = self._take()
        ready = [row for row in self._ready(drawn) if row is not None]
        if not ready:
            return None
        generator = torch.Generator().manual_seed((self.seed << 32) + drawn.number)
        return self.layout.pack(self.new_builder(), self.encoder.encode_ready(ready), generator)

    def skip(self) -> None:
        """Skip the next pack, because another rank (training process) trains on it. The rows of the skipped pack are
        drawn from their sources, but their images are not decoded."""
        self._take()

    def close(self) -> None:
        """End the threads."""
        self._forget()
        for threads in (self._drawer, self._decoders):
            if threads is not None:
                threads.shutdown(wait=True, cancel_futures=True)

    def _take(self) -> DrawnPack:
        if self._drawer is None:
            drawn = self._draw_pack()
        else:
            while len(self._ahead) < STEPS_AHEAD * self.stage.packs_per_step:
                self._ahead.append(self._drawer.submit(self._draw_pack))
            drawn = self._ahead.popleft().result()
        self.number, self._state = drawn.number + 1, drawn.state
        return drawn

    def _forget(self) -> None:
        """Drop all packs that were drawn ahead."""
        for drawn in self._ahead:
            drawn.cancel()
        wait(self._ahead)  # the pack that is being drawn still moves the sources
        self._ahead.clear()

    def _ready(self, drawn: DrawnPack) -> list[ReadyRow | None]:
        """Return the decoded rows of a pack, with None in place of a row that is broken."""
        found: list[ReadyRow | None] = []
        for number, (row, place) in enumerate(zip(drawn.rows, drawn.places)):
            try:
                found.append(drawn.ready[number].result() if drawn.ready else self.encoder.ready(row))
            except BrokenRow as error:
                self._source_of(place).reject(place, str(error), decoded=True)
                found.append(None)
        return found

    def _source_of(self, place: RowPlace) -> RowSource:
        return next(source for source in self.sources if place[:2] in source.rows)

    def _draw_pack(self) -> DrawnPack:
        """Draw the rows of the next pack, and let the workers decode them if the pack belongs to this rank."""
        number = self._drawn
        rows, places = self._rows()
        self._drawn += 1
        ready = []
        if self._decoders is not None and self.is_own(number):
            ready = [self._decoders.submit(self.encoder.ready, row) for row in rows]
        return DrawnPack(number, rows, places, self._position(), ready)

    def _position(self) -> dict:
        return {"number": self._drawn, "sources": [s.state() for s in self.sources]}

    def _rows(self) -> tuple[list[tuple[Part, ...]], list[RowPlace]]:
        """Draw the rows of the next pack. Return them, and where they stand."""
        draws = np.random.default_rng([self.seed, self._drawn])
        rows: list[tuple[Part, ...]] = []
        places: list[RowPlace] = []
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
            places.append(self.sources[chosen].last)
            tokens += cost
        return rows, places

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
        """Return packs (sequences of several rows) with all validation rows. For the same `seed`, the packs always have
        the same noise and the same flow times. Raises DataError if there is no validation row."""
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
