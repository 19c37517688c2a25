"""What a turn more costs: time of sampling and of learning against the number of turns.

    python -m benchmarks.turns

A model of the size of configs/shapes.yaml with random weights, fp32, one CPU thread; some minutes. 16
prompts in one batch, as RL samples them, then forward and backward over their packs. Both histories: with `last` a
refinement sees the last image alone and cost is linear by construction; with `full` contexts grow. The straight line is
fitted by least squares; beside it stands the largest distance of a point from it, as a share of the point.
"""

import numpy as np
from rich.table import Table

from benchmarks.common import TEXT_TOKENS, Bench, timed
from irg_rl.driver.progress import console
from irg_rl.shapes_world.prompts import make_prompts
from rollouts.request import Request

BATCH, TURNS = 16, range(1, 7)


def seconds(bench: Bench, history: str, turns: int) -> tuple[float, float]:
    """Of sampling and of learning."""
    sampler = bench.sampler({"noise": bench.recipe.require_rl().noise}, turns=turns, history=history)
    requests = [Request(prompt) for prompt in make_prompts(BATCH, "validation", 0)]
    sampling, drawn = timed(lambda: sampler.sample(requests))
    learning, _ = timed(lambda: bench.learn([made.pack for made in bench.replay.packs(drawn)]))
    return sampling, learning


def line(values: list[float]) -> str:
    slope, begin = np.polyfit(TURNS, values, 1)
    off = max(abs(begin + slope * n - value) / value for n, value in zip(TURNS, values))
    return f"{begin:.2f} + {slope:.2f} n (off by at most {off:.0%})"


def main() -> None:
    bench = Bench.make()
    title = f"turns: {bench.size}, {BATCH} prompts, {TEXT_TOKENS} text tokens and an image a turn"
    table = Table("history", "part, CPU s", *(f"n = {n}" for n in TURNS), "line", title=title)
    for history in ("last", "full"):
        found = zip(*(seconds(bench, history, turns) for turns in TURNS))
        for part, values in zip(("sampling", "learning"), found):
            table.add_row(history, part, *(f"{value:.2f}" for value in values), line(list(values)))
    console.print(table)


if __name__ == "__main__":
    main()
