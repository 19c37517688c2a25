"""Denoising steps against the reference implementations' numbers, and the properties every step must have.

Reference cases left out: `dance_flux_ode_mean` (Euler mean with noise still added: a defect, neither SDE nor ODE);
`ff_flow_sde_zero_noise/log_prob` and the last CPS step's log-prob (std 0: refused here, see the refusal tests);
`ff_flow_sde_bf16` (rounds x_next to bfloat16; everything is float32 here, and stored so); `r3_eta_table` beyond the
monotonic and constant rows in use (the other modes are not offered); MixGRPO has no case in this set.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irg_rl import flow
from tests.golden import agree, golden

FILE = "rl/1_sde_step"
# case -> (kind, noise level, does the reference's log-prob have its normaliser)
CASES = {
    "flow_grpo_sde": ("flow_sde", 0.7, True),
    "flow_grpo_fork_sde": ("flow_sde", 0.7, True),
    "flow_grpo_bagel_sde": ("flow_sde", 0.7, False),
    "ff_flow_sde": ("flow_sde", 0.7, True),
    "ff_flow_sde_sigma_max": ("flow_sde", 0.7, True),
    "ff_dance_sde": ("dance_sde", 0.3, True),
    "dance_flux_sde": ("dance_sde", 0.3, True),
    "ff_cps": ("cps", 0.8, True),
    "flow_grpo_fork_cps": ("cps", 0.8, True),
    "flow_grpo_bagel_cps": ("cps", 0.8, True),
    "ff_ode": ("ode", 0.0, True),
}
PRECISIONS = [torch.float32, torch.float64]


def reference(case, dtype):
    """Inputs of one case, all steps at once: x, v of shape [S, B, T, C] and times of shape [S, B]."""
    g = golden(FILE)
    grid = g.input("sigmas", dtype)
    batch = g.input("x_t").shape[1]
    t, t_next = (times[:, None].expand(-1, batch) for times in (grid[:-1], grid[1:]))
    kind, level, normaliser = CASES[case]
    rule = {"t_second": 0.9 if case == "ff_flow_sde_sigma_max" else grid[1]} if kind == "flow_sde" else {}
    return g, t, t_next, level, kind, normaliser, rule


def log_prob(x_next, mean, std, normaliser=True, kind="flow_sde"):
    """Some references leave out -log std - log sqrt(2 pi), which cancels in every ratio."""
    logp = flow.log_prob(x_next, mean, std, kind=kind)
    return logp if normaliser or kind in ("cps", "ode") else logp + std.log() + math.log(2 * math.pi) / 2


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_a_step_draws_what_the_reference_draws(case, dtype):
    g, t, t_next, level, kind, normaliser, rule = reference(case, dtype)
    x, v, noise = (g.input(name, dtype) for name in ("x_t", "v", "noise"))
    x_next, mean, std = flow.step(x, v, t, t_next, level, kind, noise=noise, **rule)
    agree(mean, g[f"{case}/f64/mean"], 1e-7, 1e-7)
    agree(x_next, g[f"{case}/f64/x_next"], 1e-7, 1e-7)
    if f"{case}/f64/std_dev_t" in g:
        missing = (t - t_next).sqrt() if kind in ("flow_sde", "dance_sde") else torch.ones_like(t)
        agree(std, g[f"{case}/f64/std_dev_t"] * missing, 1e-7)
    scored = slice(0, -1) if kind == "cps" else slice(None)
    logp = log_prob(x_next[scored], mean[scored], std[scored], normaliser, kind)
    agree(logp, g[f"{case}/f64/log_prob"][scored], 1e-7)
    if f"{case}/f64/x0" in g:
        agree(flow.data_estimate(x, v, t), g[f"{case}/f64/x0"])


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("case", [c for c in CASES if c != "ff_flow_sde_sigma_max"])
def test_replaying_a_stored_step_gives_the_reference_log_prob_and_gradient(case, dtype):
    g, t, t_next, level, kind, normaliser, rule = reference(case, dtype)
    v = g.input("v_new", dtype).requires_grad_()
    x_next = g[f"{case}/f64/x_next"].to(dtype)
    mean, std = flow.transition(g.input("x_t", dtype), v, t, t_next, level, kind, **rule)
    agree(mean, g[f"{case}/f64/replay_mean"], 1e-7, 1e-7)
    scored = slice(0, -1) if kind == "cps" else slice(None)
    logp = log_prob(x_next[scored], mean[scored], std[scored], normaliser, kind)
    rtol = 1e-6 if dtype is torch.float64 else 2e-4
    agree(logp, g[f"{case}/f64/replay_log_prob"][scored], rtol, 1e-5 if dtype is torch.float32 else 1e-9)
    if kind != "ode":
        logp.sum().backward()
        gradient = g[f"{case}/f64/replay_grad_v"][scored]
        scale = gradient.abs().max().item()
        agree(v.grad[scored], gradient, rtol, 1e-9 if dtype is torch.float64 else 5e-5 * scale)
        ref_mean, _ = flow.transition(g.input("x_t", dtype), g.input("v_ref", dtype), t, t_next, level, kind, **rule)
        agree(ref_mean, g[f"{case}/f64/ref_mean"], 1e-7, 1e-7)


@pytest.mark.parametrize("case", ["flow_grpo_sde", "flow_grpo_fork_cps", "ff_flow_sde", "ff_dance_sde", "ff_ode"])
def test_a_batch_may_hold_a_different_time_in_every_sample(case):
    g, _, _, level, kind, normaliser, rule = reference(case, torch.float64)
    steps, rows = g.input("mixed_idx"), torch.arange(3)
    x, v, noise = (g.input(name)[steps, rows] for name in ("x_t", "v", "noise"))
    grid = g.input("sigmas")
    x_next, mean, std = flow.step(x, v, grid[steps], grid[steps + 1], level, kind, noise=noise, **rule)
    agree(mean, g[f"{case}/f64/mixed_mean"], 1e-7, 1e-7)
    agree(x_next, g[f"{case}/f64/mixed_x_next"], 1e-7, 1e-7)
    scored = steps < 3 if kind == "cps" else slice(None)
    logp = log_prob(x_next[scored], mean[scored], std[scored], normaliser, kind)
    agree(logp, g[f"{case}/f64/mixed_log_prob"][scored], 1e-7)


def test_times_in_thousandths_as_the_model_sees_them_give_the_same_step_to_rounding():
    g, *_ = reference("ff_flow_sde", torch.float32)
    t = (g.input("timesteps", torch.float32) / 1000)[:, None].expand(-1, 3)
    t_next = torch.cat([t[1:], torch.zeros_like(t[:1])])
    x, v, noise = (g.input(name, torch.float32) for name in ("x_t", "v", "noise"))
    case = "ff_flow_sde_via_timestep_next"
    rule = {"t_second": g.input("sigmas")[1]}
    x_next, mean, std = flow.step(x, v, t, t_next, 0.7, "flow_sde", noise=noise, **rule)
    agree(mean, g[f"{case}/f32/mean"], 1e-4, 1e-5)
    agree(flow.log_prob(x_next, mean, std), g[f"{case}/f32/log_prob"], 1e-4, 1e-5)


@pytest.mark.parametrize("mode", ["constant", "monotonic"])
def test_tokens_of_a_pack_are_scored_one_by_one_as_in_r3(mode):
    g, grid = golden(FILE), golden(FILE).input("sigmas")
    kind, rule = ("dance_sde", {}) if mode == "constant" else ("flow_sde", {"t_max": 0.95})
    x, v, noise, v_new, v_ref = (g.input(name) for name in ("x_t", "v", "noise", "v_new", "v_ref"))
    t, t_next = (times[:, None, None].expand(x.shape[:3]) for times in (grid[:-1], grid[1:]))
    x_next, mean, std = flow.step(x, v, t, t_next, 1.0, kind, noise=noise, **rule)
    agree(mean, g[f"r3_{mode}/f64/mean"], 1e-7, 1e-7)
    agree(x_next, g[f"r3_{mode}/f64/x_next"], 1e-7, 1e-7)
    agree(std[:, 0, 0], g[f"r3_{mode}/f64/std"], 1e-7)
    agree(flow.log_prob(x_next, mean, std), g[f"r3_{mode}/f64/log_prob_token_real"], 1e-7)
    agree(log_prob(x_next, mean, std, normaliser=False), g[f"r3_{mode}/f64/log_prob_token"], 1e-7)
    v_new.requires_grad_()
    replayed, _ = flow.transition(x, v_new, t, t_next, 1.0, kind, **rule)
    logp = log_prob(g[f"r3_{mode}/f64/x_next"], replayed, std, normaliser=False)
    agree(logp, g[f"r3_{mode}/f64/replay_log_prob_token"], 1e-6)
    logp.mean(-1).sum().backward()
    agree(v_new.grad, g[f"r3_{mode}/f64/replay_grad_v"], 1e-6)


def test_zero_noise_leaves_the_ode_step_and_has_no_log_prob():
    g, t, t_next, *_ = reference("ff_flow_sde", torch.float64)
    x, v = g.input("x_t"), g.input("v")
    mean, std = flow.transition(x, v, t, t_next, 0.0, "flow_sde", t_second=g.input("sigmas")[1])
    agree(mean, g["ff_flow_sde_zero_noise/f32/mean"])
    with pytest.raises(ValueError, match="has no density"):
        flow.log_prob(mean, mean, std)


def test_the_last_step_of_cps_is_refused_as_a_trained_step():
    x = torch.zeros(1, 2, 3)
    mean, std = flow.transition(x, x, torch.tensor([0.5]), torch.tensor([0.0]), 0.8, "cps")
    with pytest.raises(ValueError, match="leave it out of the window"):
        flow.log_prob(mean, mean, std, kind="cps")


def test_flow_sde_at_pure_noise_asks_for_a_first_step_rule():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="t_second"):
        flow.transition(x, x, 1.0, 0.9, 0.7)
    with pytest.raises(ValueError, match="one of them"):
        flow.transition(x, x, 1.0, 0.9, 0.7, t_second=0.9, t_max=0.95)


def test_with_the_second_time_as_rule_the_first_std_is_the_noise_level_itself():
    grid = flow.bagel_grid(15, 3.0)
    _, std = flow.transition(torch.zeros(2, 3), torch.zeros(2, 3), grid[0], grid[1], 1.3, t_second=grid[1])
    agree(std, 1.3)


def test_a_noisy_step_without_noise_is_refused():
    with pytest.raises(ValueError, match="pass noise"):
        flow.step(torch.zeros(2, 3), torch.zeros(2, 3), 0.5, 0.4, 0.7, noise=None)


def test_bfloat16_inputs_are_computed_in_float32():
    x = torch.randn(2, 4, 3).bfloat16()
    mean, std = flow.transition(x, x, torch.tensor([0.5, 0.7]), torch.tensor([0.4, 0.5]), 0.7)
    assert mean.dtype == std.dtype == torch.float32
    exact, _ = flow.transition(x.double(), x.double(), torch.tensor([0.5, 0.7]), torch.tensor([0.4, 0.5]), 0.7)
    agree(mean, exact, 1e-6)


times = st.floats(0.05, 0.95)


@given(t=times, ratio=st.floats(0.05, 0.95), level=st.floats(0.1, 1.0), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_cps_keeps_the_noise_level_and_the_data_it_is_given(t, ratio, level, seed):
    """With the exact velocity x_next = (1 - t') x0 + (a mix of noises of total size t')."""
    generator = torch.Generator().manual_seed(seed)
    data, noise = torch.randn(2, 1, 4, 3, generator=generator, dtype=torch.float64)
    t_next = t * ratio
    mean, std = flow.transition(flow.interpolate(data, noise, t), noise - data, t, t_next, level, "cps")
    agree(mean, (1 - t_next) * data + math.sqrt(t_next**2 - float(std) ** 2) * noise, 1e-9, 1e-9)


@given(t=times, ratio=st.floats(0.05, 0.99), level=st.floats(0.1, 1.5), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_flow_sde_drifts_along_the_score_of_the_marginal(t, ratio, level, seed):
    """mean = x + (v - a^2/2 score) dt, score = -(x - (1 - t) x0) / t^2."""
    generator = torch.Generator().manual_seed(seed)
    x, v = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    dt = t * ratio - t
    mean, std = flow.transition(x, v, t, t * ratio, level)
    score = -(x - (1 - t) * flow.data_estimate(x, v, t)) / t**2
    agree(mean, x + (v - level**2 * t / (1 - t) / 2 * score) * dt, 1e-8, 1e-8)
    agree(std, level * math.sqrt(t / (1 - t) * -dt), 1e-9)


def test_a_log_prob_is_the_mean_density_of_independent_normals():
    x, mean, std = torch.randn(3, 4, 2).double(), torch.randn(3, 4, 2).double(), torch.tensor([0.5, 1.0, 2.0]).double()
    expected = torch.distributions.Normal(mean, std[:, None, None]).log_prob(x).mean((1, 2))
    agree(flow.log_prob(x, mean, std), expected)


def test_the_stored_sample_and_the_std_carry_no_gradient():
    x_next, mean = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    std = torch.tensor(0.5, requires_grad=True)
    flow.log_prob(x_next, mean, std).backward()
    assert x_next.grad is None and std.grad is None and mean.grad.abs().sum() > 0


@pytest.mark.parametrize("n", [4, 10])
def test_grids_equal_the_reference_schedules(n):
    g = golden(FILE)
    agree(flow.bagel_grid(n, 3.0), g[f"schedule/bagel_num_timesteps{n}"])
    agree(flow.bagel_grid(n + 1, 3.0), g[f"schedule/dance_n{n}"])


@pytest.mark.parametrize(
    "key, points, shift",
    [("", 6, 3.0), ("_n50_shift3.0", 50, 3.0), ("_n6_shift1.0", 6, 1.0), ("_n7_shift3.0", 7, 3.0)],
)
def test_bagel_grid_equals_the_models_own_timesteps_bit_for_bit(key, points, shift):
    expected = golden("bagel/inference_velocity")[f"timesteps{key}"]
    assert torch.equal(flow.bagel_grid(points, shift), expected)


def test_a_grid_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="at least 2 points"):
        flow.bagel_grid(1, 3.0)


def test_windows_by_name():
    assert flow.sde_window("all", 5) == [0, 1, 2, 3, 4]
    assert flow.sde_window("all", 5, span=(0, 4)) == [0, 1, 2, 3]
    assert flow.sde_window("first", 10, 3) == [0, 1, 2]
    assert flow.sde_window("first", 10, 2, span=(1, 5)) == [1, 2]
    slid = [flow.sde_window("progressive", 5, 2, iteration=i)[0] for i in (0, 7, 24, 25, 50, 75, 99, 100)]
    assert slid == [0, 0, 0, 1, 2, 3, 3, 0]  # at 7, a window that moves at every update is not at 0


@given(
    policy=st.sampled_from(["first", "random", "scattered", "progressive"]),
    steps=st.integers(2, 30),
    seed=st.integers(0, 2**63),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_window_is_decided_by_its_seed_and_stays_in_its_span(policy, steps, seed, data):
    low = data.draw(st.integers(0, steps - 1))
    high = data.draw(st.integers(low + 1, steps))
    size = data.draw(st.integers(1, high - low))
    window = flow.sde_window(policy, steps, size, seed=seed, span=(low, high), iteration=seed % 1000)
    assert window == flow.sde_window(policy, steps, size, seed=seed, span=(low, high), iteration=seed % 1000)
    assert len(set(window)) == size and window == sorted(window)
    assert low <= window[0] and window[-1] < high


def test_random_windows_move_with_the_seed():
    for policy in ("random", "scattered"):
        windows = {tuple(flow.sde_window(policy, 15, 2, seed=s, span=(0, 7))) for s in range(300)}
        assert len(windows) == (6 if policy == "random" else 21)


def test_impossible_windows_are_refused():
    with pytest.raises(ValueError, match="size 4 does not fit into the 3 steps"):
        flow.sde_window("first", 10, 4, span=(0, 3))
    with pytest.raises(ValueError, match="does not fit into 5 steps"):
        flow.sde_window("all", 5, span=(0, 6))
