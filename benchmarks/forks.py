"""What forks save: time of sampling and of learning with shared prefixes over that of the naive path.

    python -m benchmarks.forks

A model of the size of configs/shapes.yaml with random weights, fp32, one CPU thread; about two minutes. One trunk of
four turns branches K ways at turn 1, 2 or 3. The naive path is the same trajectories, drawn with the same random
numbers in one batch of K rows, and replayed in K rows that repeat the context; what is shared is trained in one of them
there too. `whole row` is the shared row attended in full instead of a branch at a time. Each number is the smallest of
two runs.
"""

from collections.abc import Sequence
from dataclasses import replace

from rich.table import Table

from benchmarks.common import TEXT_TOKENS, TOLERANCE, Bench, as_context, require_same_texts, timed
from irg_rl.driver.progress import console
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.trajectory import Trajectory
from rollouts.request import Request
from rollouts.sampler import Sampler

WAYS, TURNS = (2, 4, 8), 4


def draw(sampler: Sampler, ways: int, turn: int, shared: bool) -> list[Trajectory]:
    """The siblings of one trunk. Requests of different iterations share nothing, and only a progressive window would
    know the difference."""
    prompt = make_prompts(1, "validation", 0)[0]
    asked = [Request(prompt, n, 0, iteration=0 if shared else n, forks={turn: ways}) for n in range(ways)]
    return sampler.sample(asked)


def apart(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Copies without common segments; what an earlier sibling trains is nothing but context in the later ones."""
    seen: set[int] = set()
    copies = []
    for trajectory in trajectories:
        segments = [as_context(s) if id(s) in seen else replace(s) for s in trajectory.segments]
        seen |= set(map(id, trajectory.segments))
        copies.append(replace(trajectory, segments=segments))
    return copies


def gap(one: Sequence[Trajectory], other: Sequence[Trajectory]) -> float:
    """Largest difference of log-probabilities. ValueError where another token was drawn."""
    require_same_texts(one, other)
    pairs = [(a, b) for t, u in zip(one, other, strict=True) for a, b in zip(t.segments, u.segments, strict=True)]
    return max(float((a.logprobs - b.logprobs).abs().max()) for a, b in pairs)


def row(bench: Bench, sampler: Sampler, ways: int, turn: int) -> list[str]:
    naive_sampling, naive = timed(lambda: draw(sampler, ways, turn, shared=False))
    sampling, shared = timed(lambda: draw(sampler, ways, turn, shared=True))
    difference = gap(naive, shared)
    if difference > TOLERANCE:
        raise ValueError(f"{ways} ways at turn {turn}: log-probabilities of the two paths differ by {difference:.1e}")
    rows, tree = ([made.pack for made in bench.replay.packs(trajectories)] for trajectories in (apart(shared), shared))
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
    bench = Bench.make()
    sampler = bench.sampler({"noise": bench.recipe.require_rl().noise}, turns=TURNS)
    table = Table(
        "ways", "shared", "turns, shared / naive", "sampling naive, CPU s", "shared / naive", "tokens, shared / naive",
        "learning naive, CPU s", "shared / naive", "whole row / naive", "largest |dlogp|",
        title=f"forks: {bench.size}, {TURNS} turns of {TEXT_TOKENS} text tokens and an image",
    )  # fmt: skip
    for ways in WAYS:
        for turn in range(1, TURNS):
            table.add_row(*row(bench, sampler, ways, turn))
    console.print(table)


if __name__ == "__main__":
    main()
