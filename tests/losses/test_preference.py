"""Preference and forward-process losses against the reference implementations.

Reference cases left out: trl's other DPO types (aot, apo, bco_pair, discopop, exo_pair, mpo, nca_pair, robust, sft,
sppo_hard, sigmoid_norm) and variants (f-divergences, ld, wpo): not offered; `dgpo/*`, `crd/*`, `decay*`: not offered;
`diffusion_dpo` is run with its noise target in place of a velocity, the formula being the same.
"""

import pytest
import torch

from irg_rl.flow import interpolate
from irg_rl.losses import flow
from irg_rl.losses import preference as pref
from tests.golden import agree, golden

DPO, FORWARD = "rl/4_dpo", "rl/5_forward_process"
DTYPES = [torch.float32, torch.float64]
TEXT_CASES = ["sigmoid", "sigmoid_beta2", "hinge", "ipo", "ipo_beta0.5"]
NFT_MODES = ["nft/beta0.1", "nft/beta1.0", *(f"nft/beta0.1_{m}" for m in ("binary", "negative_only", "one_only"))]
NFT_MODES.append("nft/beta0.1_positive_only")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", TEXT_CASES)
def test_token_dpo_equals_trl(case, dtype):
    g, case = golden(DPO), f"trl/{case}"
    params = g.cases[case]["params"]
    kind = params["loss_types"][0]
    policy, reference = (
        g.input("policy_per_token_logps", dtype).requires_grad_(),
        g.input("ref_per_token_logps", dtype),
    )
    mask = g.input("completion_mask")[:, 1:].bool()
    sides = [(policy[rows], reference[rows], mask[rows]) for rows in (slice(0, 4), slice(4, 8))]
    margin = pref.token_margin(*sides[0], *sides[1], average=kind == "ipo")
    loss = pref.preference_loss(margin, params["beta"], kind).mean()
    agree(loss, g[f"{case}/f64/loss"])
    loss.backward()
    agree(policy.grad, g[f"{case}/f64/grad_policy"] * mask)  # the stub's padding is not masked again in trl


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "case", [f"{n}/beta{b}" for n, bs in (("flow_dpo", (1, 100)), ("ff_dpo", (1, 2000))) for b in map(float, bs)]
)
def test_flow_dpo_equals_flow_grpo_and_flow_factory(case, dtype):
    g = golden(DPO)
    data, noise = (g.input(f"diffusion/flow_{name}", dtype) for name in ("x0", "noise"))
    v, v_ref = g.input("diffusion/flow_v_policy", dtype).requires_grad_(), g.input("diffusion/flow_v_ref", dtype)
    chosen, rejected = slice(0, 3), slice(3, 6)
    x_chosen, x_rejected, to_chosen, to_rejected = pref.noised_pair(
        data[chosen], data[rejected], noise[chosen], torch.full((3,), 0.64, dtype=dtype)
    )
    if case.startswith("ff"):
        agree(x_chosen, g[f"{case}/f64/noised_chosen"], 1e-6)
        agree(x_rejected, g[f"{case}/f64/noised_rejected"], 1e-6)
    margin = pref.flow_margin(v[chosen], v_ref[chosen], to_chosen, v[rejected], v_ref[rejected], to_rejected)
    beta = g.cases[case]["params"]["beta"]
    if case.startswith("flow"):
        agree(beta * margin, g[f"{case}/f64/inside_term"], 2e-4 if dtype is torch.float32 else 1e-7)
    loss = pref.preference_loss(margin, beta).mean()
    rtol = 2e-4 if dtype is torch.float32 else 1e-7
    agree(loss, g[f"{case}/f64/loss"], rtol)
    loss.backward()
    agree(v.grad, g[f"{case}/f64/grad_policy"], rtol, 2e-5 if dtype is torch.float32 else 1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", [1.0, 500.0])
def test_diffusion_dpo_is_the_same_formula_on_noise(beta, dtype):
    g, case = golden(DPO), f"diffusion_dpo/beta{beta}"
    policy, ref, target = (g.input(f"diffusion/eps_{name}", dtype) for name in ("policy", "ref", "target"))
    policy.requires_grad_()
    w, l = slice(0, 3), slice(3, 6)  # noqa: E741
    margin = pref.flow_margin(policy[w], ref[w], target[w], policy[l], ref[l], target[l])
    loss = pref.preference_loss(margin, beta).mean()
    rtol = 2e-4 if dtype is torch.float32 else 1e-7
    agree(loss, g[f"{case}/f64/loss"], rtol)
    loss.backward()
    agree(policy.grad, g[f"{case}/f64/grad_policy"], rtol, 2e-5 if dtype is torch.float32 else 1e-9)


def forward_inputs(dtype):
    g = golden(FORWARD)
    names = ("x0", "noise", "v_old", "v_ref", "v_ema", "advantages")
    data, noise, v_old, v_ref, v_ema, advantages = (g.input(name, dtype) for name in names)
    t = g.input("t1000", dtype) / 1000
    return g, data, noise, t, g.input("v_new", dtype).requires_grad_(), v_old, v_ref, v_ema, advantages


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [*NFT_MODES, "ff_nft/beta0.1", "ff_nft/beta1.0", "ff_nft/asym"])
def test_nft_loss_and_gradient_equal_nvlabs_and_flow_factory(case, dtype):
    g, data, noise, t, v, v_old, v_ref, _, advantages = forward_inputs(dtype)
    params = g.cases[case]["params"]
    low, high = params.get("adv_clip_range", (-params.get("adv_clip_max", 0), params.get("adv_clip_max", 0)))
    optimality = pref.nft_optimality(advantages.clamp(low, high), high)
    if case in ("nft/beta0.1", "nft/beta1.0"):
        agree(optimality, g[f"{case}/f64/r"], 1e-7)
    elif case.startswith("nft"):
        optimality = g[f"{case}/f64/r"].to(dtype)  # the mode's transform of advantages is not offered, the loss is
    beta = params.get("beta", params.get("nft_beta"))
    per_sample = pref.nft_loss(v, v_old, interpolate(data, noise, t), data, t, optimality, beta=beta, bound=high)
    kl = flow.velocity_mse(v, v_ref)
    loss = flow.aggregate(per_sample + params["kl_beta"] * kl, 6)
    rtol, atol = (1e-4, 1e-5) if dtype is torch.float32 else (1e-6, 1e-7)
    agree(loss, g[f"{case}/f64/loss"], rtol)
    loss.backward()
    agree(v.grad, g[f"{case}/f64/grad_v_new"], rtol, atol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name, weight", [("Uniform", "uniform"), ("t", "t"), ("t**2", "t2"), ("huber", "huber"), ("ghuber", "ghuber")]
)
def test_awm_surrogate_log_prob_equals_flow_factory(name, weight, dtype):
    g, data, noise, t, v, *_ = forward_inputs(dtype)
    logp = pref.awm_log_prob(v, noise - data, t, weight, 0.25)
    agree(logp, g[f"awm_log_prob/{name}/f64/log_prob"], 1e-6)
    logp.sum().backward()
    agree(v.grad, g[f"awm_log_prob/{name}/f64/grad_v"], 1e-5 if dtype is torch.float64 else 1e-4, 1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, weight", [("Uniform", "uniform"), ("ghuber", "ghuber")])
def test_awm_loss_equals_flow_factory(name, weight, dtype):
    g, data, noise, t, v, v_old, v_ref, v_ema, advantages = forward_inputs(dtype)
    case, params = f"awm_loss/{name}", golden(FORWARD).cases[f"awm_loss/{name}"]["params"]
    log_ratio = flow.log_ratio(*(pref.awm_log_prob(u, noise - data, t, weight) for u in (v, v_old)))
    rtol, atol = (3e-4, 3e-5) if dtype is torch.float32 else (1e-6, 1e-7)
    agree(log_ratio.exp(), g[f"{case}/f64/ratio"], rtol)
    clip = (-params["clip_range"][0], params["clip_range"][1])
    policy = flow.aggregate(flow.policy_loss(log_ratio, advantages.clamp(*params["adv_clip_range"]), clip), 6)
    agree(policy, g[f"{case}/f64/policy_loss"], rtol, atol)
    kl = params["kl_beta"] * flow.velocity_mse(v, v_ref) + params["ema_kl_beta"] * flow.velocity_mse(v, v_ema)
    loss = policy + flow.aggregate(kl, 6)
    agree(loss, g[f"{case}/f64/loss"], rtol, atol)
    loss.backward()
    agree(v.grad, g[f"{case}/f64/grad_v_new"], rtol, atol)


def test_a_pair_of_different_sizes_cannot_share_its_noise():
    with pytest.raises(ValueError, match="need one shape"):
        pref.noised_pair(torch.zeros(1, 4, 2), torch.zeros(1, 6, 2), torch.zeros(1, 4, 2), torch.ones(1))


def test_at_the_reference_every_margin_is_zero_and_the_loss_is_log_two():
    v, target = torch.randn(2, 3, 4, 2)
    margin = pref.flow_margin(v, v, target, v, v, -target)
    agree(margin, torch.zeros(3))
    agree(pref.preference_loss(margin, 100.0), torch.full((3,), 2.0).log())


def test_tokens_shared_by_both_answers_get_no_gradient_and_swapping_the_pair_flips_the_margin():
    policy = torch.randn(1, 5).double().requires_grad_()
    reference, mask = torch.randn(1, 5).double(), torch.ones(1, 5, dtype=torch.bool)
    changed = torch.cat([policy[:, :3], policy[:, 3:] * 2], 1)
    margin = pref.token_margin(policy, reference, mask, changed, reference, mask)
    agree(pref.token_margin(changed, reference, mask, policy, reference, mask), -margin)
    pref.preference_loss(margin, 0.1).sum().backward()
    assert (policy.grad[0, :3] == 0).all() and (policy.grad[0, 3:] != 0).all()


def test_the_reduction_comes_after_the_log_sigmoid():
    margin = torch.tensor([10.0, -10.0]).double()
    mean_of_losses = pref.preference_loss(margin, 1.0).mean()
    assert mean_of_losses > 5 and pref.preference_loss(margin.mean(), 1.0) < 0.7


def test_nft_pulls_towards_good_samples_and_away_from_bad_ones():
    data, noise = torch.randn(2, 2, 4, 3).double()
    t = torch.tensor([0.5, 0.5]).double()
    v_old = (noise - data) + 0.1
    v = v_old.clone().requires_grad_()
    optimality = pref.nft_optimality(torch.tensor([5.0, -5.0]).double(), 5.0)
    pref.nft_loss(v, v_old, interpolate(data, noise, t), data, t, optimality).sum().backward()
    assert (v.grad[0] > 0).all() and (v.grad[1] < 0).all()  # descent moves the good one to its target


def test_nft_has_no_gradient_at_the_old_policy_for_an_average_sample():
    data, noise = torch.randn(2, 2, 4, 3).double()
    t = torch.tensor([0.3, 0.9]).double()
    v_old = torch.randn(2, 4, 3).double().requires_grad_()
    v = v_old.detach().clone().requires_grad_()
    optimality = pref.nft_optimality(torch.zeros(2).double(), 5.0)
    pref.nft_loss(v, v_old, interpolate(data, noise, t), data, t, optimality).sum().backward()
    assert v_old.grad is None
    agree(v.grad, torch.zeros_like(v), 0, 1e-12)
