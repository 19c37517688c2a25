"""Flow matching with noise: the time grid, one denoising step, the log-density of a step, and the choice of the
denoising steps to train.

Time runs from 1 (noise) to 0 (data): x_t = (1 - t) x0 + t noise, velocity v = noise - x0, dt = t_next - t < 0.

Shapes: B any number of batch dimensions (also none), N latent tokens, D channels. A time or standard deviation has only
the *leading* dimensions B of x, and is broadcast over N and D. A log-probability also has shape B. All arithmetic is in
float32 or float64, also for other inputs: in bfloat16, rounding errors would dominate the transition density.
"""

import math
import random
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor


class Transition(StrEnum):
    FLOW_SDE = "flow_sde"  # Flow-GRPO, arXiv 2505.05470: noise a(t) = level * sqrt(t / (1 - t))
    DANCE_SDE = "dance_sde"  # DanceGRPO, arXiv 2505.07818: as FLOW_SDE, but with constant a(t) = level
    CPS = "cps"  # coefficients-preserving sampling, arXiv 2509.05952: the total noise level stays exactly t
    ODE = "ode"  # Euler steps without noise


PROGRESSIVE_EVERY = 25
"""The window policy `progressive` moves its window (the denoising steps that are trained) by one step after this many
training iterations."""


class WindowPolicy(StrEnum):
    ALL = "all"
    FIRST = "first"  # the first `size` steps
    RANDOM = "random"  # `size` neighbouring steps at a random place (Flow-GRPO-Fast)
    SCATTERED = "scattered"  # `size` random steps (UniGRPO, DanceGRPO)
    PROGRESSIVE = "progressive"  # `size` neighbouring steps that move on during training (MixGRPO)


def bagel_grid(points: int, shift: float) -> Float[Tensor, "points"]:
    """Return the times of BAGEL's denoising schedule, from 1 (noise) to 0 (data). There are `points` values, so the
    model is called `points - 1` times: it is not called at t = 0.

    u_i = 1 - i / (points - 1); t = shift u / (1 + (shift - 1) u). SD3's schedule of n steps is `bagel_grid(n + 1)`.
    """
    if points < 2:
        raise ValueError(f"a time grid needs at least 2 points (t = 1 and t = 0), got {points}")
    return shifted(torch.linspace(1, 0, points, dtype=torch.float32), shift)


def interpolate(
    data: Float[Tensor, "*B N D"], noise: Float[Tensor, "*B N D"], t: Float[Tensor, "*B"] | float
) -> Float[Tensor, "*B N D"]:
    """Return the noisy sample x_t = (1 - t) data + t noise."""
    t = _spread(t, data)
    return (1 - t) * data + t * noise


def data_estimate(x: Float[Tensor, "*B N D"], v: Float[Tensor, "*B N D"], t: Float[Tensor, "*B"] | float) -> Tensor:
    """Return the estimate of the clean sample from the noisy sample x and the velocity v at time t: x0 = x - t v."""
    return x - _spread(t, x) * v


def transition(
    x: Float[Tensor, "*B N D"],
    v: Float[Tensor, "*B N D"],
    t: Float[Tensor, "*B"] | float,
    t_next: Float[Tensor, "*B"] | float,
    noise_level: float,
    kind: Transition | str = Transition.FLOW_SDE,
    *,
    t_second: Float[Tensor, "*B"] | float | None = None,
    t_max: float | None = None,
) -> tuple[Float[Tensor, "*B N D"], Float[Tensor, "*B"]]:
    """Return the mean and the standard deviation (std) of the normal distribution of x_{t_next} given x_t. `kind`
    selects one of the four formulas below. In the formulas, v is the velocity at time t, dt = t_next - t < 0, and level
    is `noise_level`. Gradients reach v through the mean. std has no gradient.

    Flow-SDE and Dance-SDE: mean = x + v dt + a^2 / (2 t) (x + (1 - t) v) dt, std = a sqrt(-dt). Flow-SDE has a = level
    sqrt(t / (1 - t)), Dance-SDE has a = level.

    CPS: d = t_next sin(level pi / 2), mean = (1 - t_next) x0 + sqrt(t_next^2 - d^2) x1, std = d. Here x0 = x - t v and
    x1 = x + (1 - t) v are the estimates of the data and the noise. ODE: mean = x + v dt, std = 0.

    Flow-SDE divides by zero at t = 1, so the first step needs one of two rules. Rule `t_second` (Flow-GRPO): where t is
    exactly 1, 1 - t is replaced by 1 - t_second. t_second is the second time of the schedule, which is the first time
    below 1. Rule `t_max` (R3): 1 - t is never below 1 - t_max. Raises ValueError if both rules are given. Also raises
    ValueError if neither rule is given and t = 1 occurs under Flow-SDE.
    """
    kind = Transition(kind)
    x, v = _wide(x), _wide(v)
    t, t_next = (_time(value, x) for value in (t, t_next))
    dt = t_next - t
    if kind is Transition.ODE:
        return x + v * _spread(dt, x), torch.zeros_like(dt)
    if kind is Transition.CPS:
        std = t_next * math.sin(noise_level * math.pi / 2)
        noise_estimate = x + (1 - _spread(t, x)) * v
        kept = _spread((t_next**2 - std**2).clamp(min=0).sqrt(), x)
        return (1 - _spread(t_next, x)) * data_estimate(x, v, t) + kept * noise_estimate, std
    if kind is Transition.FLOW_SDE:
        diffusion = noise_level * torch.sqrt(t / _distance_from_noise(t, t_second, t_max))
    else:
        diffusion = torch.full_like(t, noise_level)
    drift = _spread(diffusion**2 / (2 * t), x) * (x + (1 - _spread(t, x)) * v)
    return x + (v + drift) * _spread(dt, x), diffusion * torch.sqrt(-dt)


def step(
    x: Float[Tensor, "*B N D"],
    v: Float[Tensor, "*B N D"],
    t: Float[Tensor, "*B"] | float,
    t_next: Float[Tensor, "*B"] | float,
    noise_level: float,
    kind: Transition | str = Transition.FLOW_SDE,
    *,
    noise: Float[Tensor, "*B N D"] | None,
    t_second: Float[Tensor, "*B"] | float | None = None,
    t_max: float | None = None,
) -> tuple[Float[Tensor, "*B N D"], Float[Tensor, "*B N D"], Float[Tensor, "*B"]]:
    """Compute one denoising step of the noisy image x from time t to t_next. v is the velocity, and `noise` is
    standard-normal noise (None for the ODE). Return (x_next, mean, std): the state after the step, and the mean and
    standard deviation of its distribution. The other arguments choose this distribution, as explained in `transition`.
    """
    mean, std = transition(x, v, t, t_next, noise_level, kind, t_second=t_second, t_max=t_max)
    if Transition(kind) is Transition.ODE:
        return mean, mean, std
    if noise is None:
        raise ValueError(f"a {kind} step draws from a distribution: pass noise of shape {tuple(mean.shape)}")
    return mean + _spread(std, mean) * noise, mean, std


def log_prob(
    x_next: Float[Tensor, "*B N D"],
    mean: Float[Tensor, "*B N D"],
    std: Float[Tensor, "*B"],
    *,
    kind: Transition | str = Transition.FLOW_SDE,
) -> Float[Tensor, "*B"]:
    """Return the log-density of a recorded state x_next under the distribution of its denoising step: one value per
    entry of std. Only `mean` receives a gradient.

    The value is log N(x_next; mean, std^2), averaged over the dimensions of the latent. (All flow-GRPO codes take the
    mean, not the sum, and clip ranges of 1e-4 and below assume this.) For CPS the value has no variance and no
    normaliser: it is -(x_next - mean)^2, as in the paper of CPS. So the probability ratios of CPS have another scale.
    For the ODE the value is 0, because a deterministic step has no density.

    Raises ValueError if a value of std is 0, because such a step cannot be trained. For the ODE this is not checked.
    """
    kind = Transition(kind)
    mean, std = _wide(mean), _wide(std).detach()
    if kind is Transition.ODE:
        return torch.zeros_like(std)
    if bool((std <= 0).any()):
        raise ValueError(f"a {kind} step with std {float(std.min())} has no density: leave it out of the window")
    density = -((x_next.detach().to(mean.dtype) - mean) ** 2)
    if kind is not Transition.CPS:
        density = density / (2 * _spread(std, mean) ** 2)
        density = density - _spread(std, mean).log() - math.log(math.sqrt(2 * math.pi))
    return over_latent(density, std.ndim)


def over_latent(value: Float[Tensor, "*B N D"], batch_dims: int) -> Float[Tensor, "*B"]:
    """Return the mean of `value` over all dimensions except the first `batch_dims` ones."""
    return value.mean(tuple(range(batch_dims, value.ndim)))


def sde_window(
    policy: WindowPolicy | str,
    steps: int,
    size: int = 0,
    *,
    seed: int = 0,
    span: tuple[int, int] | None = None,
    iteration: int = 0,
) -> list[int]:
    """Return the window: the indices of the denoising steps that are noisy and trained. The window has `size` of all
    `steps` steps, and `policy` says how they are chosen. The other steps are ODE steps without noise.

    The choice is the same for the same `seed` and `iteration` (number of the training iteration). So all samples of one
    prompt train the same steps. (If every sample had its own window, training would collapse: verl-omni, common
    pitfalls.)

    span: (low, high) limits the window to the steps low ... high - 1. For example, the last step of CPS can be left out
    in this way, because its std is 0. The policy `progressive` moves the window by one step every PROGRESSIVE_EVERY
    iterations. When the window has reached the end of the span, it starts again at `low`. The policy `all` ignores
    `size`.
    """
    policy = WindowPolicy(policy)
    low, high = span if span is not None else (0, steps)
    if not 0 <= low < high <= steps:
        raise ValueError(f"window span ({low}, {high}) does not fit into {steps} steps")
    if policy is WindowPolicy.ALL:
        return list(range(low, high))
    if not 1 <= size <= high - low:
        raise ValueError(f"window size {size} does not fit into the {high - low} steps of span ({low}, {high})")
    positions = high - low - size + 1
    if policy is WindowPolicy.SCATTERED:
        return sorted(random.Random(seed).sample(range(low, high), size))
    if policy is WindowPolicy.FIRST:
        start = 0
    elif policy is WindowPolicy.RANDOM:
        start = random.Random(seed).randrange(positions)
    else:
        start = iteration // PROGRESSIVE_EVERY % positions
    return list(range(low + start, low + start + size))


def _distance_from_noise(t: Tensor, t_second: Tensor | float | None, t_max: float | None) -> Tensor:
    """Return 1 - t, the distance of the time t from pure noise (t = 1). At t = 1, `t_second` or `t_max` keeps the
    result above 0, as described in `transition`. Raises ValueError if both are given, or if neither is given and t = 1
    occurs."""
    if t_max is not None:
        if t_second is not None:
            raise ValueError("t_second and t_max are two rules for the same step: give one of them")
        return 1 - t.clamp(max=t_max)
    if t_second is not None:
        return torch.where(t == 1, 1 - _time(t_second, t), 1 - t)
    if bool((t == 1).any()):
        raise ValueError("Flow-SDE at t = 1 needs a first-step rule: pass t_second (the grid's second time) or t_max")
    return 1 - t


def shifted(u: Tensor, shift: float) -> Tensor:
    """Return the times u after BAGEL's timestep shift: t = shift u / (1 + (shift - 1) u). This maps [0, 1] onto
    itself."""
    return shift * u / (1 + (shift - 1) * u)


def _wide(value: Tensor) -> Tensor:
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def _time(value: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def _spread(value: Tensor | float, like: Tensor) -> Tensor:
    """Append dimensions of size 1 to `value` until it has as many dimensions as `like`. One value per sample can then
    be multiplied with all tokens and channels of the sample."""
    value = torch.as_tensor(value, dtype=_wide(like).dtype, device=like.device)
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim))
