"""What packed replay saves in learning: one forward for everything against a forward per denoising step.

    python -m benchmarks.replay

A model of the size of configs/shapes.yaml with random weights, fp32, one CPU thread; some minutes. 16
trajectories of two turns, 8 trained steps an image, the loss of RL with both modalities. A naive forward has the
context of one step of one image again, for all trajectories at once (`per step`) or for one (`per step and
trajectory`); the texts have another. Packs are built within the measured time. Gradients of all weights must agree to
TOLERANCE of their norm.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from rich.table import Table
from torch import Tensor

from benchmarks.common import TEXT_TOKENS, TOLERANCE, Bench, as_context, timed
from irg_rl.algorithms.grpo import GRPO
from irg_rl.algorithms.joint import JointLoss
from irg_rl.algorithms.old_policy import sampled
from irg_rl.config import NoiseRecipe
from irg_rl.driver.progress import console
from irg_rl.learner.policy import sampling_law
from irg_rl.learner.replay import ReplayPack
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.trajectory import SamplingLaw, TextSegment, Trajectory
from rollouts.request import Request

BATCH, TURNS, STEPS = 16, 2, 8
NOISE = NoiseRecipe(window="first", window_size=STEPS, window_range=(0, STEPS))
OF_A_STEP = ("x", "x_next", "mean", "t", "t_next", "logprobs")
Batch = list[Trajectory]


@dataclass
class Work:
    """What one way to learn came to."""

    gradient: Tensor
    forwards: int
    tokens: int


def draw(bench: Bench) -> tuple[Batch, SamplingLaw]:
    sampler = bench.sampler({"noise": NOISE}, turns=TURNS)
    drawn = sampler.sample([Request(prompt) for prompt in make_prompts(BATCH, "validation", 0)])
    for number, trajectory in enumerate(drawn):
        for place, segment in enumerate(trajectory.segments):
            segment.advantage = (1.0 if number % 2 else -1.0) * (1 + 0.25 * place)
    return drawn, sampling_law(sampler.sampling, NOISE, "fp32")


def per_step(drawn: Batch) -> Iterator[Batch]:
    """The texts of all trajectories, then one step of one image of all, and so on."""
    yield [texts_alone(t) for t in drawn]
    for place, segment in enumerate(drawn[0].segments):
        if not isinstance(segment, TextSegment):
            yield from ([step_alone(t, place, step) for t in drawn] for step in range(len(segment.x)))


def per_step_and_trajectory(drawn: Batch) -> Iterator[Batch]:
    return ([trajectory] for batch in per_step(drawn) for trajectory in batch)


def texts_alone(trajectory: Trajectory) -> Trajectory:
    kept = [replace(s) if isinstance(s, TextSegment) else as_context(s) for s in trajectory.segments]
    return replace(trajectory, segments=kept)


def step_alone(trajectory: Trajectory, place: int, step: int) -> Trajectory:
    """The trajectory up to that image, of which one step is trained, and nothing of what precedes it."""
    image = trajectory.segments[place]
    one = replace(image, **{name: vars(image)[name][step : step + 1] for name in OF_A_STEP})
    return replace(trajectory, segments=[*map(as_context, trajectory.segments[:place]), one])


def learn(bench: Bench, law: SamplingLaw, batches: list[Batch]) -> Work:
    """Forwards and backwards of all batches, one after the other, as one update."""
    algorithm = GRPO()
    replays: list[list[ReplayPack]] = [bench.replay.packs(batch) for batch in batches]
    losses = [JointLoss(algorithm, law, made, batch, sampled(batch)) for made, batch in zip(replays, batches)]
    counts = [loss.denominators() for loss in losses]
    totals = {name: sum(count[name] for count in counts) for name in counts[0]}
    for made, loss in zip(replays, losses):
        for index, replay in enumerate(made):
            loss(bench.model(replay.pack), index, totals).total().backward()
    gradient = torch.cat([p.grad.flatten() for p in bench.model.parameters() if p.grad is not None])
    bench.model.zero_grad(set_to_none=True)
    packs = [replay.pack for made in replays for replay in made]
    return Work(gradient, len(packs), sum(pack.tokens for pack in packs))


def main() -> None:
    bench = Bench.make()
    drawn, law = draw(bench)
    ways = {
        "packed": [drawn], "per step": list(per_step(drawn)),
        "per step and trajectory": list(per_step_and_trajectory(drawn)),
    }  # fmt: skip
    found = {name: timed(lambda b=batches: learn(bench, law, b)) for name, batches in ways.items()}
    table = Table(
        "path", "forwards", "tokens", "CPU s", "times packed", "gradient differs by",
        title=f"replay: {bench.size}, {BATCH} x {TURNS} turns of {TEXT_TOKENS} text tokens and {STEPS} trained steps",
    )  # fmt: skip
    packed, reference = found["packed"]
    for name, (seconds, work) in found.items():
        apart = float((work.gradient - reference.gradient).norm() / reference.gradient.norm())
        if apart > TOLERANCE:
            raise ValueError(f"{name}: the gradient differs from that of the packed path by {apart:.1e} of its norm")
        numbers = (str(work.forwards), f"{work.tokens:,}", f"{seconds:.2f}", f"{seconds / packed:.1f}", f"{apart:.0e}")
        table.add_row(name, *numbers)
    console.print(table)


if __name__ == "__main__":
    main()
