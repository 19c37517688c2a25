"""What batches and shared prefixes save in generation: 16 prompts at once against one prompt at a time.

    python -m benchmarks.generation

A model of the size of configs/shapes.yaml with random weights, fp32, one CPU thread; some minutes. Sampled
as IRG samples (`--preset irg`: 50 points, guided by text and, in refinements, by image), n images a trajectory. The
naive path is that of the original: one prompt after the other, and every branch of guidance a context of its own, into
which prompt, think text, image and reflection are put anew for each image. It is kinder than the original in one thing:
sampled texts stay in the cache and are not put in a second time. `alone, shared` is one prompt at a time with shared
prefixes. All paths must draw the same texts and, up to rounding, the same images.
"""

from collections.abc import Sequence
from unittest.mock import patch

import torch
from rich.table import Table

from benchmarks.common import TEXT_TOKENS, Bench, require_same_texts, timed
from irg_rl.config import EvaluationRecipe
from irg_rl.driver.progress import console
from irg_rl.guidance import guide, is_active
from irg_rl.model.cache import KVCache
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.trajectory import Trajectory
from rollouts.contexts import Contexts
from rollouts.drawing import Velocity
from rollouts.images import ImageContext
from rollouts.request import Request
from rollouts.sampler import Sampler

BATCH, TURNS = 16, (2, 3)
FIRST, LATER = 1e-3, 0.05
"""Tolerances between drawn latents, of a standard deviation of about 1: after the 49 guided steps of a first image,
and of refinements: what these look at is rounded to bytes, so that a rounding error can flip one."""


class Unshared(Contexts):
    """The contexts of one trajectory (`history: last`); those of the guidance branches begin from nothing."""

    def __init__(self, model, prompts, system, capacity, history, guidance) -> None:
        super().__init__(model, prompts, system, capacity, history, guidance=None)
        self._guided_by = guidance
        self._system = [] if system is None else [system]
        self._begin = [*self._system, *prompts]
        self._said: list[torch.Tensor] = []
        self._seen: list[ImageContext] = []
        self._without: list[KVCache] = []
        """Of the image that is being drawn: without the text before it and, in refinements, without the image."""

    def add_images(self, rows, seen) -> None:
        super().add_images(rows, seen)
        self._seen = seen

    def end_text(self, rows, ids, turn) -> None:
        super().end_text(rows, ids, turn)
        self._said = [*self._said[:1], *ids]
        if turn == 0:
            self._without = [self._filled(self._system, [])]
        else:
            texts = [*self._begin, *self._said]
            self._without = [self._filled(texts[:-1], self._seen), self._filled(texts, [])]

    def drawing(self, grid, rows, turn) -> Velocity:
        how = self._guided_by
        assert how is not None
        branches = [self.model.drawing(cache, 1, grid) for cache in (self.cache, *self._without)]

        def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
            is_guided = is_active(t, how.interval if turn else how.first_interval, how.text_scale)
            found = [branch(x, torch.tensor([t])) for branch in branches[: None if is_guided else 1]]
            return found[0] if not is_guided else guide(
                *found, text_scale=how.text_scale, image_scale=how.image_scale if turn else 1.0,
                renorm=how.renorm if turn else how.first_renorm, renorm_min=how.renorm_min,
            )  # fmt: skip

        return velocity

    def _filled(self, texts: Sequence, images: Sequence[ImageContext]) -> KVCache:
        cache = self.model.new_cache(1, self.cache.capacity)
        for ids in texts:
            self.model.prefill_text(cache, [ids])
        for image in images:
            self.model.prefill_image(cache, [image.latent], image.grid, [image.patches], image.patch_grid)
        return cache


def naive(sampler: Sampler, requests: list[Request]) -> list[Trajectory]:
    with patch("rollouts.sampler.Contexts", Unshared):
        return sampler.sample(requests, batch_size=1)


def gaps(one: Sequence[Trajectory], other: Sequence[Trajectory]) -> list[float]:
    """Largest difference of drawn latents, of each turn."""
    require_same_texts(one, other)
    found = []
    for turn in range(one[0].turns):
        drawn = [[t.images[turn].drawn for t in side] for side in (one, other)]
        pairs = [(x, y) for x, y in zip(*drawn, strict=True) if x is not None and y is not None]
        found.append(max(float((x - y).abs().max()) for x, y in pairs))
    return found


def rows(bench: Bench, turns: int) -> list[list[str]]:
    how = EvaluationRecipe(preset="irg")
    sampler = bench.sampler(
        {"guidance": how.guidance}, turns=turns, temperature=how.temperature, points=how.points, shift=how.shift
    )
    requests = [Request(prompt) for prompt in make_prompts(BATCH, "validation", 0)]
    ways = {
        "batch, shared": lambda: sampler.sample(requests),
        "alone, shared": lambda: sampler.sample(requests, batch_size=1),
        "naive": lambda: naive(sampler, requests),
    }
    found = {name: timed(way) for name, way in ways.items()}
    slowest, reference = found["naive"]
    table = []
    for name, (seconds, drawn) in found.items():
        first, *later = gaps(drawn, reference)
        if first > FIRST or max(later) > LATER:
            raise ValueError(f"{turns} turns, {name}: images differ from the naive path's by {first:.1e}, {later}")
        apart = f"{first:.0e}, {max(later):.0e}"
        numbers = (f"{seconds:.2f}", f"{BATCH / seconds:.2f}", f"{slowest / seconds:.1f}", apart)
        table.append([str(turns), name, *numbers])
    return table


def main() -> None:
    bench = Bench.make()
    table = Table(
        "turns", "path", "CPU s", "trajectories/s", "times naive", "largest |dx|, first and later",
        title=f"generation: {bench.size}, {BATCH} prompts, {TEXT_TOKENS} text tokens and an image a turn, preset irg",
    )  # fmt: skip
    for turns in TURNS:
        for row in rows(bench, turns):
            table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
