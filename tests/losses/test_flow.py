"""Losses on denoising steps against the reference implementations, and their invariances.

Reference cases left out: `r3_apply_cfg` (its formula is tested in tests/test_guidance.py); `r3_sample/*` (R3's own
truncated sampler, whose probability is not the policy's). The logged `logged_policy_loss` repeats the total loss (it is
added to in place) and is not recomputed.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irg_rl import flow as transitions
from irg_rl.losses import flow, text
from irg_rl.losses.clip import ratio_metrics
from tests.golden import agree, golden

FILE = "rl/2_flow_policy_loss"
DTYPES = [torch.float32, torch.float64]
LEFT_OUT = {"r3_apply_cfg", "r3_sample/plain", "r3_sample/topk", "r3_sample/topp"}
FLOW_FACTORY = [
    f"ff_{method}/{kind}"
    for method in ("grpo", "guard")
    for kind in (
        "CPS/x-based/step1",
        "Dance-SDE/x-based/step1",
        "Flow-SDE/v-based/step0",
        "Flow-SDE/v-based/step1",
        "Flow-SDE/x-based/step0",
        "Flow-SDE/x-based/step1",
    )
]
TESTED = {
    *FLOW_FACTORY,
    "dance_grpo_loss",
    "flow_grpo_loss/beta0",
    "flow_grpo_loss/betapos",
    "flow_grpo_bagel_loss",
    "flow_grpo_guard",
    "flow_grpo_guard_mixed_t",
    "r3_joint/clipped",
    "r3_joint/clipped_kl",
    "r3_joint/on_policy",
}


def test_every_reference_case_is_either_run_or_named_as_left_out():
    assert set(golden(FILE).cases) == TESTED | LEFT_OUT


def first_column(dtype):
    g = golden(FILE)
    logp, old, advantages = (g.input(name, dtype)[:, 0] for name in ("log_prob_new", "log_prob_old", "advantages"))
    return g, logp.clone().requires_grad_(), old, advantages.clamp(-1.5, 1.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["flow_grpo_loss/beta0", "flow_grpo_loss/betapos"])
def test_flow_grpo_loss_gradient_and_metrics(case, dtype):
    g, logp, old, advantages = first_column(dtype)
    mean, std = g.input("mean_new", dtype).requires_grad_(), g.input("std_dev_t", dtype)
    log_ratio = flow.log_ratio(logp, old)
    per_step = flow.policy_loss(log_ratio, advantages, 0.05)
    agree(per_step, g[f"{case}/f64/per_sample_loss"], 1e-7)
    loss = policy = flow.aggregate(per_step, 6)
    if case.endswith("betapos"):
        # the reference's a lacks sqrt(-dt): its "KL" is |dt| times the true one
        kl = flow.aggregate(flow.mean_kl(mean, g.input("mean_ref", dtype), std), 6)
        agree(kl, g[f"{case}/f64/kl_loss"], 1e-7)
        loss = policy + 0.04 * kl
    agree(policy, g[f"{case}/f64/policy_loss"], 1e-7)
    agree(loss, g[f"{case}/f64/loss"], 1e-7)
    loss.backward()
    agree(logp.grad, g[f"{case}/f64/grad_log_prob"], 1e-7)
    if case.endswith("betapos"):
        agree(mean.grad, g[f"{case}/f64/grad_mean_new"], 1e-7)
    measured = ratio_metrics(log_ratio.exp(), log_ratio, advantages, 0.05, 0.05)
    agree(measured["approx_kl"], g[f"{case}/f64/approx_kl"], 1e-7)
    agree(measured["clipfrac"], g[f"{case}/f64/clipfrac"])
    agree(measured["clipfrac_high"], g[f"{case}/f64/clipfrac_gt_one"])
    agree(measured["clipfrac_low"], g[f"{case}/f64/clipfrac_lt_one"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_bagel_loop_of_flow_grpo_with_an_asymmetric_range(dtype):
    case = "flow_grpo_bagel_loss"
    g, logp, old, advantages = first_column(dtype)
    loss = flow.policy_loss(flow.log_ratio(logp, old), advantages, (0.03, 0.06))
    agree(loss, g[f"{case}/f64/policy_loss"], 1e-7)
    std = torch.full((6,), 0.83, dtype=dtype)
    kl = flow.mean_kl(g.input("mean_new", dtype), g.input("mean_ref", dtype), std)
    agree(kl, g[f"{case}/f64/kl_loss"], 1e-7)
    agree(loss + 0.04 * kl, g[f"{case}/f64/loss"], 1e-7)
    loss.sum().backward()
    agree(logp.grad, g[f"{case}/f64/grad_log_prob"], 1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dance_grpo_divides_by_accumulation_and_steps(dtype):
    case = "dance_grpo_loss"
    g, logp, old, advantages = first_column(dtype)
    per_step = flow.policy_loss(flow.log_ratio(logp, old), advantages, 0.05)
    loss = flow.aggregate(per_step, 6 * 4 * 3)
    agree(loss, g[f"{case}/f64/loss"], 1e-7)
    loss.backward()
    agree(logp.grad, g[f"{case}/f64/grad_log_prob"], 1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("times", ["", "_mixed"])
def test_grpo_guard_of_flow_grpo_which_has_one_scale_for_the_batch(times, dtype):
    """The reference averages std and sqrt(-dt) over the batch and reduces the squared mean difference over it too: the
    function here does the same when it is given one scalar std."""
    case = "flow_grpo_guard_mixed_t" if times else "flow_grpo_guard"
    g, logp, old, advantages = first_column(dtype)
    mean = g.input("mean_new", dtype).requires_grad_()
    sqrt_dt, std_dev = (g.input(f"{name}{times}", dtype).mean() for name in ("sqrt_dt", "std_dev_t"))
    log_ratio = flow.guarded_log_ratio(logp, old, mean, g.input("mean_old", dtype), std_dev * sqrt_dt)
    agree(log_ratio.exp(), g[f"{case}/f64/ratio"], 1e-7)
    per_step = flow.policy_loss(log_ratio, advantages, 0.02)
    agree(per_step, g[f"{case}/f64/per_sample_loss"], 1e-7)
    policy = flow.aggregate(per_step / sqrt_dt**2, 6)
    agree(policy, g[f"{case}/f64/policy_loss"], 1e-7)
    kl = flow.aggregate(flow.mean_kl(mean, g.input("mean_ref", dtype), g.input(f"std_dev_t{times}", dtype)), 6)
    agree(policy + 0.04 * kl, g[f"{case}/f64/loss"], 1e-7)
    (policy + 0.04 * kl).backward()
    agree(logp.grad, g[f"{case}/f64/grad_log_prob"], 1e-7)
    agree(mean.grad, g[f"{case}/f64/grad_mean_new"], 1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", FLOW_FACTORY)
def test_flow_factory_grpo_and_guard_from_sampling_to_gradient(case, dtype):
    g, params = golden(FILE), golden(FILE).cases[case]["params"]
    kind = {"CPS": "cps", "Dance-SDE": "dance_sde", "Flow-SDE": "flow_sde"}[params["dynamics_type"]]
    t_all = (g.input("ff/timesteps") / 1000).to(dtype)  # divided in fp64, as the reference does
    at = params["step_index"]
    t, t_next = (t_all[i].expand(6) for i in (at, at + 1))
    rule = {"t_second": golden("rl/1_sde_step").input("sigmas", dtype)[1]} if kind == "flow_sde" else {}
    x, noise, v_old, v_ref = (g.input(f"ff/{name}", dtype) for name in ("x_t", "noise", "v_old", "v_ref"))
    v = g.input("ff/v_new", dtype).requires_grad_()
    level = params["noise_level"]
    loose = (2e-4, 2e-5) if dtype is torch.float32 else (1e-9, 1e-12)

    x_next, mean_old, std = transitions.step(x, v_old, t, t_next, level, kind, noise=noise, **rule)
    logp_old = transitions.log_prob(x_next, mean_old, std, kind=kind)
    mean, _ = transitions.transition(x, v, t, t_next, level, kind, **rule)
    logp = transitions.log_prob(x_next, mean, std, kind=kind)
    agree(logp_old, g[f"{case}/f64/old_log_prob"], *loose)
    agree(logp, g[f"{case}/f64/new_log_prob"], *loose)
    agree(mean_old, g[f"{case}/f64/old_mean"], *loose)

    advantages = g.input("advantages", dtype)[:, 0].clamp(*params["adv_clip_range"])
    clip = (-params["clip_range"][0], params["clip_range"][1])
    if case.startswith("ff_guard"):
        # CPS's own std has no sqrt(-dt); Flow-Factory's scale always has
        scale = std * (t - t_next).sqrt() if kind == "cps" else std
        log_ratio = flow.guarded_log_ratio(logp, logp_old, mean, mean_old, scale)
    else:
        log_ratio = flow.log_ratio(logp, logp_old)
    expected = g[f"{case}/f64/ratio"]
    agree(log_ratio.exp(), expected if expected.ndim == 1 else expected[0, 0], *loose)
    policy = flow.aggregate(flow.policy_loss(log_ratio, advantages, clip), 6)
    if params["kl_type"] == "v-based":
        kl = flow.aggregate(flow.velocity_mse(v, v_ref), 6)
    else:
        mean_ref, _ = transitions.transition(x, v_ref, t, t_next, level, kind, **rule)
        kl = flow.aggregate(flow.velocity_mse(mean, mean_ref), 6)
    agree(kl, g[f"{case}/f64/kl_div"], *loose)
    loss = policy + params["kl_beta"] * kl
    agree(loss, g[f"{case}/f64/loss"], *loose)
    loss.backward()
    gradient = g[f"{case}/f64/grad_v_new"]
    agree(v.grad, gradient, loose[0], loose[1] * gradient.abs().max().item())
    bounds = clip if isinstance(clip, tuple) else (clip, clip)
    measured = ratio_metrics(log_ratio.exp(), log_ratio, advantages, *bounds)
    agree(measured["clipfrac_high"], g[f"{case}/f64/clip_frac_high"])
    agree(measured["clipfrac_low"], g[f"{case}/f64/clip_frac_low"])


@pytest.mark.parametrize("case", ["clipped", "clipped_kl", "on_policy"])
def test_r3_joint_step_with_separate_global_normalisers_for_text_and_images(case):
    """One packed micro-batch of 3 images and 9 text tokens inside a step of 5 images and 13 tokens."""
    g, params = golden(FILE), golden(FILE).cases[f"r3_joint/{case}"]["params"]
    case = f"r3_joint/{case}"
    logits, v = g.input("r3/logits").requires_grad_(), g.input("r3/v_new").requires_grad_()
    labels = g.input("r3/label_ids")
    token_logp = logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    agree(token_logp, g[f"{case}/f64/per_token_logps"], 1e-7)
    given_ = params["behaviour_given"]
    old = g.input("r3/behavior_probs").log() if given_ else token_logp.detach()
    ref = g.input("r3/ref_logits").log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    clip = params["grpo_clip_ratio"]
    mask = torch.ones(1, 9, dtype=torch.bool)
    per_token = text.policy_loss(
        token_logp[None], old[None], g.input("r3/text_advantages")[None], mask, epsilon=clip, epsilon_high=clip
    )
    n_text, n_images = 1e-4 + params["total_text_grad_tokens"], 1e-4 + params["total_image_num"]
    text_loss = text.aggregate(per_token, mask, "dapo", n_text)
    agree(text_loss, g[f"{case}/f64/text_policy_loss"], 1e-6)

    t, dt = g.input("r3/t"), g.input("r3/dt")
    x, x_prev = g.input("r3/x_t"), g.input("r3/x_prev")
    mean, std = transitions.transition(x, v, t, t - dt, 1.0, "flow_sde", t_max=0.95)
    token = transitions.log_prob(x_prev, mean, std) + std.log() + math.log(2 * math.pi) / 2  # R3 has no normaliser
    sizes = g.input("r3/image_hw").prod(-1).tolist()
    logp = torch.stack([part.mean() for part in token.split(sizes)])
    agree(logp, g[f"{case}/f64/log_prob_per_image"], 1e-6)
    stored = torch.stack([part.mean() for part in g.input("r3/behavior_log_prob_token").split(sizes)])
    log_ratio = flow.log_ratio(logp, stored if given_ else logp)
    per_image = flow.policy_loss(log_ratio, g.input("r3/image_advantages"), clip)
    image_loss = flow.aggregate(per_image, n_images)
    agree(image_loss, g[f"{case}/f64/img_policy_loss"], 1e-6)
    loss = params["ce_weight"] * text_loss + params["mse_weight"] * image_loss
    if params["kl_weight_text"]:
        text_kl = text.aggregate(text.k3(token_logp, ref)[None], mask, "dapo", n_text)
        agree(text_kl, g[f"{case}/f64/text_kl"], 1e-6)
        mean_ref, _ = transitions.transition(x, g.input("r3/v_ref"), t, t - dt, 1.0, "flow_sde", t_max=0.95)
        image_kl = 2 * flow.mean_kl(mean, mean_ref, std).mean()  # R3 leaves out the 1/2
        agree(image_kl, g[f"{case}/f64/img_kl"], 1e-6)
        loss = loss + params["ce_weight"] * params["kl_weight_text"] * text_kl
        loss = loss + params["kl_weight_image"] * image_kl
    agree(loss, g[f"{case}/f64/loss"], 1e-6)
    loss.backward()
    agree(logits.grad, g[f"{case}/f64/grad_logits"], 1e-6)
    agree(v.grad, g[f"{case}/f64/grad_v_new"], 1e-6)


def gaussian_steps(seed, batch=5):
    generator = torch.Generator().manual_seed(seed)
    mean_old, change, noise = torch.randn(3, batch, 4, 3, generator=generator, dtype=torch.float64)
    std = torch.rand(batch, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    x_next = mean_old + std[:, None, None] * noise
    return mean_old, mean_old + 0.01 * change, 0.01 * change, noise, std, x_next


@given(seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_the_guarded_log_ratio_is_the_noise_along_the_change_of_mean_at_every_std(seed):
    mean_old, mean, change, noise, std, x_next = gaussian_steps(seed)
    logp, logp_old = (transitions.log_prob(x_next, m, std) for m in (mean, mean_old))
    agree(flow.guarded_log_ratio(logp, logp_old, mean, mean_old, std), (noise * change).mean((1, 2)), 1e-9, 1e-12)


@given(seed=st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_mean_kl_is_the_kl_of_the_two_gaussians_per_dimension(seed):
    mean_old, mean, _, _, std, _ = gaussian_steps(seed)
    scale = std[:, None, None].expand_as(mean)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, scale), torch.distributions.Normal(mean_old, scale)
    )
    agree(flow.mean_kl(mean, mean_old, std), kl.mean((1, 2)))


@given(seed=st.integers(0, 999), cut=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_any_split_of_the_steps_gives_the_gradient_of_the_whole(seed, cut):
    mean_old, mean, _, _, std, x_next = gaussian_steps(seed)
    advantages = torch.randn(5, dtype=torch.float64)
    logp_old = transitions.log_prob(x_next, mean_old, std)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))

    def gradient(parts):
        leaf = mean.clone().requires_grad_()
        for rows in parts:
            logp = transitions.log_prob(x_next[rows], leaf[rows], std[rows])
            log_ratio = flow.guarded_log_ratio(logp, logp_old[rows], leaf[rows], mean_old[rows], std[rows])
            flow.aggregate(flow.policy_loss(log_ratio, advantages[rows], 1e-3), 5).backward()
        return leaf.grad

    agree(gradient([order[:cut], order[cut:]]), gradient([torch.arange(5)]))


def test_the_kl_and_the_velocity_mse_pull_the_policy_and_leave_the_reference_alone():
    policy, reference = torch.ones(2, 3, 4, requires_grad=True), torch.zeros(2, 3, 4, requires_grad=True)
    (flow.mean_kl(policy, reference, torch.ones(2)) + flow.velocity_mse(policy, reference)).sum().backward()
    assert (policy.grad > 0).all() and reference.grad is None


def test_the_sampling_policy_carries_no_gradient():
    logp, old = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    mean, mean_old = torch.ones(2, 3, 4, requires_grad=True), torch.zeros(2, 3, 4, requires_grad=True)
    flow.guarded_log_ratio(logp, old, mean, mean_old, torch.ones(2)).sum().backward()
    assert old.grad is None and mean_old.grad is None and logp.grad is not None and mean.grad is not None
