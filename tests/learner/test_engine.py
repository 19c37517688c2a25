"""One step over many packs equals one plain backward over all of them, on every ZeRO stage."""

import pytest
import torch

from irg_rl.learner.engine import Engine, EngineSettings, Loss, NonFiniteError
from irg_rl.learner.parts import OptimizerSettings, Schedule, make_optimizer, part_of
from tests.learner.toy import IDLE, Toy, big_batch_gradient, denominators, loss_of, make_packs, settings

STAGES = [0, 1, 2, 3]


def plain_torch(packs_per_step, lr=0.05):
    """The same updates with nothing but torch."""
    model = Toy()
    chosen = settings(lr=lr)
    optimizer = make_optimizer(model, chosen.optimizer)
    for step, packs in enumerate(packs_per_step):
        big_batch_gradient(model, packs)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * chosen.optimizer.schedule.factor(step)
        optimizer.step()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def train(engine, packs_per_step):
    return [engine.step(packs, loss_of(packs), denominators(packs)) for packs in packs_per_step]


@pytest.mark.parametrize("stage", STAGES)
def test_any_number_of_packs_is_one_step_with_the_summed_gradient(stage):
    steps = [make_packs(5, seed=1), make_packs(1, seed=2), make_packs(4, seed=3)]
    engine = Engine(Toy(), settings(stage), IDLE)
    results = train(engine, steps)
    assert [r.step for r in results] == [1, 2, 3] and all(r.applied for r in results)
    expected = plain_torch(steps)
    for name, weight in engine.state().weights():
        torch.testing.assert_close(weight, expected[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("stage", STAGES)
def test_gradient_norms_are_logged_per_part(stage):
    packs = make_packs(5)
    engine = Engine(Toy(), settings(stage), IDLE)
    expected = {}
    for name, gradient in big_batch_gradient(Toy(), packs).items():
        expected[part_of(name)] = expected.get(part_of(name), 0.0) + float(gradient.square().sum())
    norms = engine.step(packs, loss_of(packs), denominators(packs)).grad_norms
    for part, square in expected.items():
        assert norms[part] == pytest.approx(square**0.5, rel=1e-5)
    assert norms["total"] == pytest.approx(sum(expected.values()) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_that_is_not_finite_is_skipped_and_counted_and_leaves_no_trace(stage):
    packs = make_packs(3)
    engine = Engine(Toy(), settings(stage), IDLE)
    train(engine, [packs])
    before = dict(engine.state().weights())

    def exploding(output, index, totals):
        loss = loss_of(packs)(output, index, totals)
        return Loss({name: term * float("inf") for name, term in loss.terms.items()}) if index == 1 else loss

    result = engine.step(packs, exploding, denominators(packs))
    assert not result.applied and engine.skipped == 1 and engine.steps == 1
    for name, weight in engine.state().weights():
        assert torch.equal(weight, before[name])
    untouched = Engine(Toy(), settings(stage), IDLE)
    train(untouched, [packs, packs])
    train(engine, [packs])
    for (name, a), (_, b) in zip(engine.state().weights(), untouched.state().weights()):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def test_too_many_bad_steps_in_a_row_stop_the_run():
    packs = make_packs(1)
    engine = Engine(Toy(), settings(1, max_bad_steps=2), IDLE)

    def undefined(output, index, totals):
        return Loss({"text": output.sum() * float("nan")})

    assert not engine.step(packs, undefined, denominators(packs)).applied
    with pytest.raises(NonFiniteError, match="2 updates in a row after step 0"):
        engine.step(packs, undefined, denominators(packs))


def test_bad_steps_with_a_good_one_between_them_do_not_stop_the_run():
    """Fails where a good step does not begin the count anew."""
    packs = make_packs(1)
    engine = Engine(Toy(), settings(1, max_bad_steps=2), IDLE)

    def undefined(output, index, totals):
        return Loss({"text": output.sum() * float("nan")})

    applied = [engine.step(packs, loss, denominators(packs)).applied for loss in (undefined, loss_of(packs)) * 2]
    assert applied == [False, True, False, True] and engine.skipped == 2


def test_clipping_bounds_the_global_norm_of_the_update():
    packs = make_packs(3)
    rates = {"und": 1e4, "gen": 1e4, "vision": 1e4}
    plain = OptimizerSettings(rates, betas=(0.0, 0.0), eps=1e4)  # update = 1e4 g / (|g| + 1e4), nearly g
    engine = Engine(Toy(), EngineSettings(plain, zero_stage=2, grad_clip=0.1), IDLE)
    before = dict(engine.state().weights())
    norms = train(engine, [packs])[0].grad_norms
    assert norms["total"] > 0.1
    update = sum(float((w - before[n]).square().sum()) for n, w in engine.state().weights()) ** 0.5
    assert update == pytest.approx(0.1, rel=0.01)


def test_a_part_with_rate_zero_is_frozen_and_the_others_learn():
    optimizer = OptimizerSettings({"und": 0.05, "gen": 0.0, "vision": 0.05})
    engine = Engine(Toy(), EngineSettings(optimizer, zero_stage=2, grad_clip=1.0), IDLE)
    before = dict(engine.state().weights())
    train(engine, [make_packs(4)])
    changed = {name for name, weight in engine.state().weights() if not torch.equal(weight, before[name])}
    assert changed == {n for n in before if part_of(n) != "gen"}


def test_the_schedule_warms_up_and_decays_to_its_floor():
    schedule = Schedule(warmup_steps=4, total_steps=14, floor=0.1)
    assert [schedule.factor(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert schedule.factor(9) == pytest.approx(0.55)
    assert schedule.factor(14) == schedule.factor(99) == pytest.approx(0.1)


def test_parts_follow_the_names_of_the_released_folder():
    layer = "language_model.model.layers.3."
    assert part_of(layer + "self_attn.q_proj.weight") == part_of("language_model.lm_head.weight") == "und"
    assert part_of(layer + "mlp_moe_gen.up_proj.weight") == part_of("time_embedder.mlp.0.bias") == "gen"
    assert part_of("vit_model.vision_model.post_layernorm.bias") == part_of("connector.fc1.weight") == "vision"


@pytest.mark.parametrize("stage", [2, 3])
def test_bf16_keeps_fp32_masters_that_learn_below_bf16_resolution(stage):
    """A change smaller than 2^-9 of a weight rounds away in bf16 alone."""
    engine = Engine(Toy(), settings(stage, lr=1e-5, precision="bf16"), IDLE_BF16)
    before = dict(engine.state().weights())
    packs = [type(p)(p.x.bfloat16(), p.y, p.kind) for p in make_packs(4)]
    train(engine, [packs] * 3)
    moved = [(w - before[n]).abs().max() for n, w in engine.state().weights()]
    assert all(0 < float(m) < 1e-4 for m in moved)


IDLE_BF16 = type(IDLE)(IDLE.x.bfloat16(), IDLE.y, IDLE.kind)


def test_settings_that_cannot_work_are_refused_with_their_value():
    good = OptimizerSettings({"und": 1e-4})
    with pytest.raises(ValueError, match="zero_stage 4"):
        EngineSettings(good, zero_stage=4)
    with pytest.raises(ValueError, match="set zero_stage to 2 or 3"):
        EngineSettings(good, zero_stage=1, precision="bf16")
    with pytest.raises(ValueError, match=r"\['vit'\].*und, gen, vision"):
        OptimizerSettings({"vit": 1e-4})
    with pytest.raises(ValueError, match="train nothing"):
        OptimizerSettings({"und": 0.0})


def test_evaluation_reads_every_pack_and_changes_nothing():
    packs = make_packs(3)
    engine = Engine(Toy(), settings(2), IDLE)
    before = dict(engine.state().weights())
    shapes = engine.evaluate(packs, lambda output, index: (index, tuple(output.shape), output.requires_grad))
    assert shapes == [(0, (2, 2), False), (1, (3, 2), False), (2, (4, 2), False)]
    assert all(torch.equal(w, before[n]) for n, w in engine.state().weights())


def test_gradient_norms_of_one_loss_term_alone_are_those_of_torch_and_change_nothing():
    packs = make_packs(4)
    engine = Engine(Toy(), settings(2), IDLE)
    before = dict(engine.state().weights())
    norms = engine.term_norms(packs, loss_of(packs), denominators(packs))
    images = [pack for pack in packs if pack.kind == "image"]
    expected = {}
    for name, gradient in big_batch_gradient(Toy(), images).items():
        expected[part_of(name)] = expected.get(part_of(name), 0.0) + float(gradient.square().sum())
    for part, square in expected.items():
        assert norms[f"image/{part}"] == pytest.approx(square**0.5, rel=1e-5, abs=1e-9)
    assert norms["image/vision"] == 0.0 and norms["text/gen"] == 0.0 and norms["text/und"] > 0
    assert all(torch.equal(w, before[n]) for n, w in engine.state().weights())
    assert engine.step(packs, loss_of(packs), denominators(packs)).applied


def test_other_weights_begin_a_new_stage_with_a_fresh_optimizer():
    packs = make_packs(3)
    used = Engine(Toy(), settings(2), IDLE)
    train(used, [packs, packs, packs])
    used.load_weights(dict(Toy(seed=5).state_dict()))
    fresh = Engine(Toy(seed=5), settings(2), IDLE)
    for engine in (used, fresh):
        assert train(engine, [packs, packs])[-1].step == 2
    for (name, a), (_, b) in zip(used.state().weights(), fresh.state().weights()):
        assert torch.equal(a, b), name
