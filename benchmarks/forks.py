"""What forks save: time of sampling and of learning with shared prefixes over that of the naive path.

    python benchmarks/forks.py

A model of the size of configs/shapes.yaml with random weights, fp32, one CPU thread; about two minutes. One trunk of
four turns branches K ways at turn 1, 2 or 3. The naive path is the same trajectories, drawn with the same random
numbers in one batch of K rows, and replayed in K rows that repeat the context; what is shared is trained in one of them
there too. `whole row` is the shared row attended in full instead of a branch at a time. Each number is the smallest of
REPEATS.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from rich.table import Table

from irg_rl.commands.progress import console
from irg_rl.config import NoiseRecipe, SamplingRecipe, load_recipe
from irg_rl.learner.replay import Replay
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.init import initialize
from irg_rl.model.pack import Pack
from irg_rl.model.tokenizer import train_tokenizer
from irg_rl.model.unified import UnifiedModel
from irg_rl.shapes_world import corpus
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.trajectory import ImageSegment, Segment, TextSegment, Trajectory
from rollouts.request import Request
from rollouts.sampler import Sampler

T = TypeVar("T")
WAYS, TURNS, TEXT_TOKENS, REPEATS = (2, 4, 8), 4, 32, 2
TOLERANCE = 1e-5
"""Between log-probabilities of the two paths."""


@dataclass
class Bench:
    model: UnifiedModel
    sampler: Sampler
    replay: Replay

    def draw(self, ways: int, turn: int, shared: bool) -> list[Trajectory]:
        """The siblings of one trunk. Requests of different iterations share nothing, and only a progressive window
        would know the difference."""
        prompt = make_prompts(1, "validation", 0)[0]
        asked = [Request(prompt, n, 0, iteration=0 if shared else n, forks={turn: ways}) for n in range(ways)]
        return self.sampler.sample(asked)

    def learn(self, packs: Sequence[Pack]) -> None:
        """Forward and backward; the loss is nothing, but reaches all that is wanted of the packs."""
        for pack in packs:
            output = self.model(pack)
            (output.logits.square().mean() + output.velocity.square().mean()).backward()
        self.model.zero_grad(set_to_none=True)


def make(folder: Path) -> Bench:
    recipe = load_recipe(Path(__file__).parents[1] / "configs" / "shapes.yaml")
    tokenizer = train_tokenizer(corpus(), recipe.model.llm.vocab_size, folder)
    torch.manual_seed(0)
    model = initialize(UnifiedModel(recipe.model, tokenizer.special), 0, (3, 3), (3, 3))
    torch.nn.init.normal_(model.llm2vae.weight, std=0.1)
    sampling: SamplingRecipe = recipe.sampling.model_copy(update={"turns": TURNS, "max_text_tokens": TEXT_TOKENS})
    noise: NoiseRecipe = recipe.rl.noise
    vae = Autoencoder(recipe.model.vae, recipe.model.latent_patch_size)
    sampler = Sampler(model, vae, tokenizer, sampling, noise=noise, is_stop=lambda text: False)
    return Bench(model, sampler, Replay(recipe.model, tokenizer.special, tokenizer.encode))


def apart(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Copies without common segments; what an earlier sibling trains is nothing but context in the later ones."""
    seen: set[int] = set()
    copies = []
    for trajectory in trajectories:
        segments = [_context(s) if id(s) in seen else replace(s) for s in trajectory.segments]
        seen |= set(map(id, trajectory.segments))
        copies.append(replace(trajectory, segments=segments))
    return copies


def _context(segment: Segment) -> Segment:
    if isinstance(segment, TextSegment):
        return replace(segment, logprobs=torch.full_like(segment.logprobs, torch.nan))
    return replace(segment, x=segment.x[:0])


def gap(one: Sequence[Trajectory], other: Sequence[Trajectory]) -> float:
    """Largest difference of log-probabilities. ValueError where another token was drawn."""
    pairs = [(a, b) for t, u in zip(one, other, strict=True) for a, b in zip(t.segments, u.segments, strict=True)]
    if any(a.ids.tolist() != b.ids.tolist() for a, b in pairs if not isinstance(a, ImageSegment)):
        raise ValueError("the two paths drew different texts")
    return max(float((a.logprobs - b.logprobs).abs().max()) for a, b in pairs)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds of processor time, which other processes on the machine do not change, and what came out."""
    taken = []
    for _ in range(REPEATS):
        began = time.process_time()
        result = work()
        taken.append(time.process_time() - began)
    return min(taken), result


def row(bench: Bench, ways: int, turn: int) -> list[str]:
    naive_sampling, naive = timed(lambda: bench.draw(ways, turn, shared=False))
    sampling, shared = timed(lambda: bench.draw(ways, turn, shared=True))
    difference = gap(naive, shared)
    if difference > TOLERANCE:
        raise ValueError(f"{ways} ways at turn {turn}: log-probabilities of the two paths differ by {difference:.1e}")
    rows, tree = (
        [made.pack for made in bench.replay.packs(trajectories)] for trajectories in (apart(shared), shared)
    )
    whole = [replace(pack, views=[]) for pack in tree]
    naive_learning, learning, dense = (timed(lambda p=packs: bench.learn(p))[0] for packs in (rows, tree, whole))
    tokens = sum(pack.tokens for pack in tree) / sum(pack.tokens for pack in rows)
    ideal = (turn + ways * (TURNS - turn)) / (ways * TURNS)
    return [
        str(ways), f"{turn / TURNS:.0%}", f"{ideal:.2f}",
        f"{naive_sampling:.2f}", f"{sampling / naive_sampling:.2f}",
        f"{tokens:.2f}", f"{naive_learning:.2f}", f"{learning / naive_learning:.2f}", f"{dense / naive_learning:.2f}",
        f"{difference:.0e}",
    ]  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = make(Path(folder))
    parameters = sum(p.numel() for p in bench.model.parameters())
    table = Table(
        "ways", "shared", "turns, shared / naive", "sampling naive, CPU s", "shared / naive", "tokens, shared / naive",
        "learning naive, CPU s", "shared / naive", "whole row / naive", "largest |dlogp|",
        title=f"forks: {parameters / 1e6:.1f} M parameters, {TURNS} turns of {TEXT_TOKENS} text tokens and an image",
    )  # fmt: skip
    for ways in WAYS:
        for turn in range(1, TURNS):
            table.add_row(*row(bench, ways, turn))
    console.print(table)


if __name__ == "__main__":
    main()
