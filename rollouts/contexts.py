"""The contexts of a batch of trajectories while they grow. A context is the sequence of tokens that the model sees
before it writes or draws. All contexts are rows of one key-value cache. A mark stores the length of each row, so that a
row can later return to this length.

With `history = last`, a row returns to the end of its think text before an image is added. So a refinement sees the
prompt, the think text, the last image and the reflection on it. With `history = full`, contexts only grow.

Guidance compares the velocities that the model computes in different contexts. So it needs two more contexts
(bagel-irg.md 4.5):

* The context without the text before the image. It is stored as a mark in the same cache. In turn 0, the mark is the
  position after the system text.
* The context without images. It is stored in a second cache, which is copied once after the think text. Only texts are
  added to this cache, so its positions have no gap where an image was.

At a fork, several continuations are sampled from one shared beginning. The cache row of the beginning is then copied
for every continuation. So the model computes the beginning only once.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from irg_rl.config import GuidanceRecipe
from irg_rl.guidance import guide, is_active
from irg_rl.model.cache import KVCache, Mark
from irg_rl.model.pack import Grid
from irg_rl.model.unified import UnifiedModel
from rollouts.drawing import Velocity
from rollouts.images import ImageContext


@dataclass(frozen=True)
class _Texts:
    """The contexts without images. Image guidance needs them, because it compares the velocity with images to the
    velocity without images."""

    cache: KVCache
    think_end: Mark


class Contexts:
    """The contexts of a batch of trajectories. A context is the sequence of tokens that the model sees before it writes
    or draws. In all methods, `rows` are indices into the batch, in ascending order. They leave out the trajectories
    that have stopped."""

    def __init__(
        self,
        model: UnifiedModel,
        prompts: list[list[int]],
        system: list[int] | None,
        capacity: int,
        history: str,
        guidance: GuidanceRecipe | None,
    ) -> None:
        self.model, self.history, self.guidance = model, history, guidance
        self.cache = model.new_cache(len(prompts), capacity)
        if system is not None:
            model.prefill_text(self.cache, [system] * len(prompts))
        self._before_text = self.cache.mark()
        model.prefill_text(self.cache, prompts)
        self._think_end = self.cache.mark()
        self._texts: _Texts | None = None

    def begin_text(self, turn: int) -> None:
        """Remember the position at which the text of this turn begins. Call this before a think text or a reflection is
        added. Guidance later compares with a context that ends at this position, without the text. In turn 0, this
        method does nothing, because the constructor has already stored the position."""
        if turn:
            self._before_text = self.cache.mark()

    def add_text(self, rows: Int[Tensor, "R"], ids: list[Tensor]) -> None:
        """Add given (not sampled) texts to the contexts of the rows. `ids` has the token ids of one text per row. Each
        text enters the key-value cache as start token (bos), its ids, end token (eos)."""
        self.model.prefill_text(self.cache, ids, everyone(self.cache, rows))

    def end_text(self, rows: Int[Tensor, "R"], ids: list[Tensor], turn: int) -> None:
        """Call this after the texts of one turn, sampled or given, have entered the key-value cache. `ids` are the
        token ids of the texts without the end token (eos).

        In turn 0, this method stores the position at the end of the think texts. In later turns, contexts may return to
        this position. If guidance needs contexts without images, there is a second cache for these contexts. In turn 0,
        the second cache is made as a copy of the main cache. In later turns, the texts are added to it.
        """
        if turn == 0:
            self._think_end = self.cache.mark()
            if self.guidance is not None and self.guidance.image_scale > 1:
                copied = _branched(self.model, self.cache, None)
                self._texts = _Texts(copied, copied.mark())
        elif self._texts is not None:
            if self.history == "last":
                self._texts.cache.restore(self._texts.think_end, rows)
            self.model.prefill_text(self._texts.cache, ids, everyone(self._texts.cache, rows))

    def add_images(self, rows: Int[Tensor, "R"], seen: list[ImageContext]) -> None:
        if self.history == "last":
            self.cache.restore(self._think_end, rows)
        by_size: dict[tuple[Grid, Grid], list[int]] = defaultdict(list)
        for place, image in enumerate(seen):
            by_size[image.grid, image.patch_grid].append(place)
        for (grid, patch_grid), places in by_size.items():
            latents = [seen[place].latent for place in places]
            patches = [seen[place].patches for place in places]
            self.model.prefill_image(self.cache, latents, grid, patches, patch_grid, everyone(self.cache, rows[places]))

    def branch(self, rows: Int[Tensor, "R"]) -> None:
        """Make a new batch of contexts: row i of the new batch is a copy of row `rows[i]` of the old batch. Old rows
        that are not in `rows` are dropped. This is done at a fork, where several continuations are sampled from one
        shared beginning."""
        self.cache = _branched(self.model, self.cache, rows)
        self._before_text, self._think_end = self._before_text.of(rows), self._think_end.of(rows)
        if self._texts is not None:
            copied = _branched(self.model, self._texts.cache, rows)
            self._texts = _Texts(copied, self._texts.think_end.of(rows))

    def drawing(self, grid: Grid, rows: Int[Tensor, "R"], turn: int) -> Velocity:
        """Return a function that computes the model's velocity for the images of this turn, with guidance if the
        settings ask for it. `grid` is the number of rows and columns of latent tokens in each image. The function can
        be used in all denoising steps, as long as the contexts do not change."""
        which, count, settings = everyone(self.cache, rows), len(rows), self.guidance
        plain = self.model.drawing(self.cache, count, grid, which)
        without_text = without_image = None
        if settings is not None:
            without_text = self.model.drawing(self.cache, count, grid, which, at=self._before_text)
        if turn and self._texts is not None:
            without_image = self.model.drawing(self._texts.cache, count, grid, everyone(self._texts.cache, rows))

        def velocity(x: Float[Tensor, "R N D"], t: float) -> Float[Tensor, "R N D"]:
            times = torch.full((len(x),), t)
            v = plain(x, times)
            if settings is None or without_text is None:
                return v
            if not is_active(t, settings.interval if turn else settings.first_interval, settings.text_scale):
                return v
            return guide(
                v,
                without_text(x, times),
                None if without_image is None else without_image(x, times),
                text_scale=settings.text_scale,
                image_scale=settings.image_scale if turn else 1.0,
                renorm=settings.renorm if turn else settings.first_renorm,
                renorm_min=settings.renorm_min,
            )

        return velocity


def everyone(cache: KVCache, rows: Int[Tensor, "R"]) -> Tensor | None:
    """If `rows` are all rows of the cache, return None. Otherwise return `rows`. The caller passes the result as `rows`
    to methods of the model. There, None means the whole cache, which avoids a copy of its keys and values."""
    return None if len(rows) == cache.batch else rows


def _branched(model: UnifiedModel, cache: KVCache, rows: Int[Tensor, "R"] | None) -> KVCache:
    """Return a new cache whose row i is a copy of row `rows[i]` of the given cache. If `rows` is None, all rows are
    copied."""
    twin = model.new_cache(cache.batch if rows is None else len(rows), cache.capacity)
    twin.begin_as(cache, rows)
    return twin
