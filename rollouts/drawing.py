"""Draw images with rectified flow, from noise to data. Some of the steps add noise and are recorded for training. The
window of an image is the list of its noisy steps.

    x(t = 1) ~ N(0, 1);   step i: an SDE transition if i lies in the image's window, otherwise an ODE step (flow.py)

Without noise settings (as usual in evaluation), every step is an ODE step and nothing is recorded.

Letters: R rows (one image each), N latent tokens, D numbers of a latent token, S recorded steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from irg_rl import flow
from irg_rl.config import NoiseRecipe, SamplingRecipe
from rollouts.noise import Noise, Use

Velocity = Callable[[Float[Tensor, "R N D"], float], Float[Tensor, "R N D"]]


@dataclass
class Record:
    """The recorded denoising steps of one image, as fp32 tensors on the CPU. Only steps that added noise are recorded.
    In training, the learner computes the log-probabilities of these steps again."""

    shape: tuple[int, int]  # N, D
    x: list[Tensor] = field(default_factory=list)
    x_next: list[Tensor] = field(default_factory=list)
    mean: list[Tensor] = field(default_factory=list)
    t: list[float] = field(default_factory=list)
    t_next: list[float] = field(default_factory=list)
    logprobs: list[Tensor] = field(default_factory=list)

    def tensors(self) -> dict[str, Any]:
        """Return the recorded denoising steps as a dict of tensors. The keys are fields of an ImageSegment: `x`,
        `x_next`, `mean`, `t`, `t_next` and `logprobs`. Each tensor has one entry per recorded step, so it is empty if
        no step was recorded."""
        empty = torch.zeros(0, *self.shape)
        states = {name: torch.stack(part) if part else empty for name, part in
                  (("x", self.x), ("x_next", self.x_next), ("mean", self.mean))}  # fmt: skip
        times = {"t": torch.tensor(self.t), "t_next": torch.tensor(self.t_next)}
        return states | times | {"logprobs": torch.stack(self.logprobs) if self.logprobs else torch.zeros(0)}


def window(noise: NoiseRecipe | None, points: int, seed: int, iteration: int) -> list[int]:
    """Return the window of an image: the indices of its denoising steps that add noise. It is empty if `noise` is None.
    `points` is the number of time points, one more than the number of steps. `iteration` is the number of the RL
    update. With some settings, the window moves from one update to the next. All images of a group in one turn get the
    same `seed`, so they have the same window."""
    if noise is None:
        return []
    # the last step of CPS is deterministic and has no density
    last = points - 2 if noise.kind == flow.Transition.CPS else points - 1
    low, high = noise.window_range
    if noise.window == flow.WindowPolicy.ALL:
        low, high = 0, last
    return flow.sde_window(
        noise.window, points - 1, noise.window_size, seed=seed, span=(low, min(high, last)), iteration=iteration
    )


def draw_images(
    velocity: Velocity,
    shape: tuple[int, int],
    noises: list[Noise],
    starts: list[Noise],
    windows: list[list[int]],
    turn: int,
    sampling: SamplingRecipe,
    noise: NoiseRecipe | None,
    device: torch.device,
    record_steps: bool = True,
) -> tuple[Float[Tensor, "R N D"], list[Record]]:
    """Draw one image per row. Returns the final latents, on `device`, and for each row a record of its noisy steps.

    velocity: function velocity(x, t) of the model, with or without guidance. It takes the latents x of all rows and one
    flow time t, which is the same for all rows.
    shape: (N, D), the shape of the latents of one image.
    starts: for each row, the random numbers from which the initial noise is drawn. With the noise setting
    `shared_start`, all samples of a group have the same ones.
    noises: for each row, the random numbers from which all later noise is drawn.
    windows: windows[r] lists the noisy steps of row r.
    turn: the number of the turn. The random numbers depend on it.
    sampling: settings of the denoising steps, such as their number.
    noise: settings of the noisy steps. It may be None only if all windows are empty.
    record_steps: if it is False, the records stay empty.
    """
    times = flow.bagel_grid(sampling.points, sampling.shift).tolist()
    x = torch.stack([source.normal(Use.INITIAL, shape, turn) for source in starts]).to(device)
    records = [Record(shape) for _ in noises]
    for index, (t, t_next) in enumerate(zip(times, times[1:])):
        v = velocity(x, t)
        noisy = [row for row, steps in enumerate(windows) if index in steps]
        x_next, _ = flow.transition(x, v, t, t_next, 0.0, flow.Transition.ODE)
        if noisy:
            eps = torch.stack([noises[row].normal(Use.STEP, shape, turn, index) for row in noisy]).to(device)
            rows = torch.tensor(noisy, device=device)
            span = (t, t_next, times[1])
            kept = [records[row] for row in noisy] if record_steps else []
            assert noise is not None, "noisy steps come from noise settings"
            x_next[rows] = _noisy_step(x[rows], v[rows], span, eps, noise, kept)
        x = x_next
    return x, records


def _noisy_step(
    x: Tensor, v: Tensor, times: tuple[float, float, float], eps: Tensor, noise: NoiseRecipe, records: list[Record]
) -> Float[Tensor, "R N D"]:
    """Make one SDE step (a denoising step that adds noise) for rows of one image each, and return their new states. The
    step is appended to `records`, which has one record per row. If `records` is empty, nothing is recorded.

    times: the time t, the next time t_next, and the second time of the whole schedule, which the method Flow-SDE needs
    at t = 1.
    """
    t, t_next, second = (torch.full((len(x),), value, device=x.device) for value in times)
    x_next, mean, std = flow.step(x, v, t, t_next, noise.noise_level, noise.kind, noise=eps, t_second=second)
    if not records:
        return x_next
    logprob = flow.log_prob(x_next, mean, std, kind=noise.kind).cpu()
    states = [part.cpu() for part in (x, x_next, mean)]
    for row, record in enumerate(records):
        record.x.append(states[0][row])
        record.x_next.append(states[1][row])
        record.mean.append(states[2][row])
        record.t.append(times[0])
        record.t_next.append(times[1])
        record.logprobs.append(logprob[row])
    return x_next
