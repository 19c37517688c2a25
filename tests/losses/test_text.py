"""Token losses against trl 1.16.0's numbers, and batch-split, gradient and refusal properties.

Reference cases left out: loss types sapo, vespo, luspo and the entropy cases (`entropy_bonus`, `top_entropy_quantile`)
and `off_policy_mask` (methods not offered); `logps/*` (selective_log_softmax and entropy_from_logits are trl's own
functions, used as they are); NaN sampler log-probs inside `vllm_is` are set to the learner's own, for a sampler here
always reports them; `defaults` (trl's default values, not a computation).
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irg_rl.losses import text
from irg_rl.losses.clip import ratio_metrics
from tests.golden import agree, golden

FILE = "rl/3_token_grpo_trl"
OFFERED = {"grpo", "bnpo", "dr_grpo", "dapo", "cispo"}
LEFT_OUT = {"dapo/token/entropy_bonus", "dapo/token/top_entropy_quantile", "dapo/token/off_policy_mask"}


def cases():
    return [case for case in golden(FILE).cases if case.split("/")[0] in OFFERED and case not in LEFT_OUT]


def test_every_reference_case_is_either_run_or_named_as_left_out():
    assert len(cases()) == 47
    rest = {case.split("/")[0] for case in golden(FILE).cases} - OFFERED
    assert rest == {"sapo", "vespo", "luspo", "logps", "vllm_is", "defaults"}


def inputs(case, dtype):
    g, params = golden(FILE), golden(FILE).cases[case]["params"]
    mask = g.input("mask").bool()
    if params.get("tool_mask_used"):
        mask = mask & g.input("tool_mask").bool()
    logp = g.input("new_logps", dtype).requires_grad_()
    old = logp.detach().clone() if params.get("old_logps_absent") else g.input("old_logps", dtype)
    kind = params.get("importance_sampling_ratio_kind")
    mismatch = g.input({"t": "is_ratio_token", "s": "is_ratio_seq"}[kind], dtype) if kind else None
    settings_ = {
        "loss_type": params["loss_type"],
        "level": params["importance_sampling_level"],
        "epsilon": params["epsilon"],
        "epsilon_high": params["epsilon_high"],
        "delta": params.get("delta"),
        "beta": params["beta"],
        "logp_ref": g.input("ref_logps", dtype),
        "kl_correction": params["use_bias_correction_kl"],
        "mismatch": mismatch,
    }
    return logp, old, g.input("advantages", dtype), mask, settings_, params


def trl_denominator(mask, params):
    """trl divides each micro-batch by its own count and by the number of accumulated micro-batches."""
    accumulated = params["current_gradient_accumulation_steps"] if params.get("training", True) else 1
    if params["loss_type"] in ("dapo", "cispo"):
        share = accumulated / params["steps_per_generation"] if params.get("training", True) else 1
        return params["num_items_in_batch"] * share
    return text.denominator(mask, params["loss_type"], params["max_completion_length"]) * accumulated


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", cases())
def test_loss_and_gradient_equal_trl(case, dtype):
    logp, old, advantages, mask, settings_, params = inputs(case, dtype)
    per_token = text.policy_loss(logp, old, advantages, mask, **settings_)
    loss = text.aggregate(per_token, mask, params["loss_type"], trl_denominator(mask, params))
    agree(loss, golden(FILE)[f"{case}/f64/loss"])
    loss.backward()
    agree(logp.grad, golden(FILE)[f"{case}/f64/grad_new_logps"])


def measured_on(logp, old, advantages, mask, high=0.28):
    """`ratio_metrics` of the sampled tokens."""
    log_ratio = text.log_importance(logp, old, mask)
    values = (log_ratio.exp(), log_ratio, advantages.unsqueeze(-1).expand_as(log_ratio))
    return ratio_metrics(*(value[mask] for value in values), 0.2, high)


@pytest.mark.parametrize("case", [c for c in cases() if not c.startswith("cispo") and "/token/" in c])
def test_the_clipped_share_equals_trls_region_mean(case):
    logp, old, advantages, mask, settings_, _ = inputs(case, torch.float32)
    measured = measured_on(logp, old, advantages, mask, settings_["epsilon_high"])
    if f"{case}/metrics/clip_ratio.region_mean" not in golden(FILE):
        pytest.fail(f"the reference numbers lack {case}/metrics/clip_ratio.region_mean")
    agree(measured["clipped"], golden(FILE)[f"{case}/metrics/clip_ratio.region_mean"].float())
    assert not any(value.requires_grad for value in measured.values())


@pytest.mark.parametrize("lowest", [0.9, None])
@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_sampler_mismatch_weight_equals_trls(level, drop, lowest):
    g = golden(FILE)
    old, sampled = g.input("old_logps"), g.input("sampling_logps")
    sampled[0, 1] = old[0, 1]
    mask = g.input("mask").bool()
    weight = text.mismatch_weight(old, sampled, mask, level=level, highest=1.2, lowest=lowest, drop=drop)
    expected = g[f"vllm_is/{level}_{'mask' if drop else 'truncate'}_min{lowest}/f64"]
    agree(weight, expected.expand_as(weight))


def random_batch(seed, rows=6, length=5):
    generator = torch.Generator().manual_seed(seed)
    logp, old, ref = torch.randn(3, rows, length, generator=generator, dtype=torch.float64) * 0.3 - 2
    mask = torch.arange(length) < torch.randint(1, length + 1, (rows, 1), generator=generator)
    return logp, old, ref, torch.randn(rows, generator=generator, dtype=torch.float64), mask


@given(
    seed=st.integers(0, 999),
    cut=st.integers(1, 5),
    kind=st.sampled_from(sorted(OFFERED)),
    level=st.sampled_from(["token", "sequence"]),
)
@settings(max_examples=40, deadline=None)
def test_any_split_and_order_of_a_batch_gives_the_gradient_of_the_whole(seed, cut, kind, level):
    logp, old, ref, advantages, mask = random_batch(seed)
    common = {"loss_type": kind, "level": level, "beta": 0.1}
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    total = text.denominator(mask, kind, 7)

    def gradient(parts):
        leaf = logp.clone().requires_grad_()
        for rows in parts:
            loss = text.policy_loss(leaf[rows], old[rows], advantages[rows], mask[rows], logp_ref=ref[rows], **common)
            text.aggregate(loss, mask[rows], kind, total).backward()
        return leaf.grad

    assert total == sum(text.denominator(mask[rows], kind, 7) for rows in (order[:cut], order[cut:]))
    agree(gradient([order[:cut], order[cut:]]), gradient([torch.arange(6)]))


def test_at_the_sampling_policy_every_ratio_is_one_and_nothing_is_clipped():
    logp, _, _, advantages, mask = random_batch(0)
    measured = measured_on(logp, logp.clone(), advantages, mask)
    assert measured["ratio_mean"] == measured["ratio_max"] == 1
    assert measured["clipfrac"] == measured["approx_kl"] == 0


def test_padding_never_reaches_the_loss_or_the_gradient():
    logp, old, ref, advantages, mask = random_batch(3)
    old = old.masked_fill(~mask, float("-inf"))
    ref = ref.masked_fill(~mask, float("nan"))
    leaf = logp.clone().requires_grad_()
    text.aggregate(
        text.policy_loss(leaf, old, advantages, mask, beta=0.1, logp_ref=ref), mask, "dapo", mask.sum()
    ).backward()
    assert torch.isfinite(leaf.grad).all() and (leaf.grad[~mask] == 0).all() and (leaf.grad[mask] != 0).any()


def test_the_kl_term_has_a_gradient_even_where_the_advantage_is_zero_and_the_policy_is_far_off():
    logp = torch.full((1, 2), -9.0, requires_grad=True)
    ref, mask = torch.full((1, 2), -0.5), torch.ones(1, 2, dtype=torch.bool)
    loss = text.policy_loss(logp, logp.detach(), torch.zeros(1), mask, beta=0.1, logp_ref=ref)
    loss.sum().backward()
    agree(logp.grad, [[-0.85, -0.85]])  # beta (logp - logp_ref), the reverse KL's own gradient


def test_a_ratio_outside_the_range_on_the_advantages_side_has_no_gradient():
    logp = torch.tensor([[0.5, 0.5]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    text.policy_loss(logp, torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), mask).sum().backward()
    assert logp.grad[0, 0] == 0 and logp.grad[0, 1] > 0


def test_cispo_keeps_the_gradient_where_the_others_clip_it():
    logp = torch.tensor([[0.5]], requires_grad=True)
    text.policy_loss(
        logp, torch.zeros(1, 1), torch.ones(1), torch.ones(1, 1), loss_type="cispo", epsilon_high=1.2
    ).sum().backward()
    agree(logp.grad, [[-1.2]])


def test_missing_pieces_are_refused():
    logp, old, _, advantages, mask = random_batch(0)
    with pytest.raises(ValueError, match="logp_ref"):
        text.policy_loss(logp, old, advantages, mask, beta=0.1)
    with pytest.raises(ValueError, match="max_length"):
        text.denominator(mask, "dr_grpo")
    with pytest.raises(ValueError, match="sapo"):
        text.policy_loss(logp, old, advantages, mask, loss_type="sapo")


def test_a_batch_without_text_gives_zero_not_nan():
    empty = torch.zeros(2, 3, requires_grad=True)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    for kind in OFFERED:
        loss = text.aggregate(
            text.policy_loss(empty, empty.detach(), torch.ones(2), mask, loss_type=kind),
            mask,
            kind,
            text.denominator(mask, kind, 4),
        )
        assert loss == 0
    assert measured_on(empty, empty, torch.ones(2), mask)["ratio_max"] == 0
