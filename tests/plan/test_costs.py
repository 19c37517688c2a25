"""`irg-rl plan`: what a recipe costs, before anything is started."""

from collections.abc import Sequence

import pytest
import torch

from irg_rl.config import Recipe, load_recipe
from irg_rl.driver.progress import console
from irg_rl.learner.ema import EMA
from irg_rl.learner.engine import Engine, Loss
from irg_rl.learner.lora import adapter_size, add_adapters
from irg_rl.learner.replay import idle_pack
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.footprint import LiveBytes
from irg_rl.model.init import initialize
from irg_rl.model.unified import UnifiedModel
from irg_rl.plan.advice import advise, candidates
from irg_rl.plan.costs import EVALUATION, LEARNER, ROLLOUT, Plan, ProcessKind, Rates
from irg_rl.plan.training_memory import Component
from irg_rl.plan.worst_case import PROMPT, SPECIAL, Sampled, encode, longest_trajectory, replay_packs, sft_pack
from irg_rl.trajectory import ImageSegment
from rollouts.contexts import Contexts
from rollouts.images import ImageCodec, ImageContext
from rollouts.noise import Noise
from sft.loss import Counts, sft_loss
from sft.packing import SFTPack
from tests.paths import CONFIGS

SHAPES, GRPO = CONFIGS / "shapes.yaml", CONFIGS / "bagel-grpo.yaml"
GIB = 2**30


def shapes(*overrides: str) -> Recipe:
    return load_recipe(SHAPES, overrides)


def more(overrides: Sequence[str]) -> Recipe:
    return shapes(*overrides)


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Tables that need not be broken."""
    monkeypatch.setattr(console, "width", 200)


def held(place: ProcessKind) -> dict[str, int]:
    return {component.name: component.bytes for component in place.components}


# --- the command


@pytest.mark.parametrize("name", ["bagel-lora-grpo", "bagel-sft-stage1", "bagel-sft-stage2", "shapes", "shapes-smoke"])
def test_every_recipe_at_hand_can_be_planned(irg_rl, name):
    answer = irg_rl("plan", CONFIGS / f"{name}.yaml", "--gpu-gib", 10_000)
    assert answer.code == 0 and answer.err == ""
    for said in ("parameters", "activations", "KV caches", "denoising steps x branches", "TFLOP each", "fits a card"):
        assert said in answer.out


def test_it_says_what_the_real_model_holds(irg_rl):
    said = irg_rl("plan", GRPO, "rl.groups=4", "--gpu-gib", 10_000).out
    assert "14,658.8" in said and "14,155.5" in said  # all with the autoencoder; trained without the vision tower
    assert "58.429" in said  # GB of a publication: 14.6 billion weights and the tables in fp32
    assert "reference weights" in said and "trained + old log-probabilities + reference" in said


def test_the_rates_are_the_users(irg_rl):
    said = irg_rl("plan", SHAPES, "--tflops", 2, "--gbps", 3).out
    assert "2 TFLOP/s and 3 GB/s" in said


def test_a_wrong_setting_is_one_clear_error(irg_rl):
    answer = irg_rl("plan", SHAPES, "rl.groupsize=4")
    assert answer.code == 1 and "did you mean rl.group_size?" in answer.err and "Traceback" not in answer.err


def test_a_pack_too_short_for_a_trajectory_is_named(irg_rl):
    answer = irg_rl("plan", SHAPES, "rl.max_pack_tokens=256")
    assert answer.code == 1 and "max_pack_tokens is 256" in answer.err


# --- advice


@pytest.mark.parametrize(
    ("name", "gib"), [(LEARNER, 0.3), (ROLLOUT, 0.018), (EVALUATION, 0.05), ("sft stage1 learner", 0.1)]
)
def test_the_advised_setting_makes_it_fit_when_it_is_applied(name, gib):
    plan = Plan(shapes())
    found = {a.place: a for a in advise(more, plan, gib * GIB)}
    assert plan.place(name).peak > gib * GIB
    assert found[name].fitting
    for turn in found[name].fitting:
        again = Plan(shapes(turn.override)).place(name).peak
        assert again == turn.peak <= gib * GIB


def test_what_fits_needs_no_advice_and_what_no_setting_mends_gets_the_nearest(irg_rl):
    assert advise(more, Plan(shapes()), 80 * GIB) == []
    answer = irg_rl("plan", SHAPES, "--gpu-gib", 0.01)
    assert answer.code == 0 and "none; nearest:" in answer.out


def test_a_forbidden_setting_is_not_advised():
    """Muon forbids the stages of ZeRO, which these SFT stages would otherwise be sent to."""
    found = {a.place: a for a in advise(more, Plan(shapes()), 0.1 * GIB)}
    turns = [turn.override for turn in found["sft stage1 learner"].fitting]
    assert turns and not any("zero_stage" in turn for turn in turns)


# --- what the numbers follow


def test_zero_stages_and_ranks_divide_the_learner_and_leave_the_rollout_actor():
    chosen = ["rl.groups=8", "engine.device=cuda", "engine.dtype=bf16", "sft.zero_stage=2"]
    chosen += [f"sft.{stage}.optimizer.muon_lr=null" for stage in ("base", "stage1", "stage2")]
    two, eight, three = (
        Plan(shapes(*chosen, *changes))
        for changes in ([], ["engine.learner_ranks=8"], ["engine.learner_ranks=8", "engine.zero_stage=3"])
    )
    one, divided, weights = (held(plan.place(LEARNER)) for plan in (two, eight, three))
    assert 8 * divided["fp32 masters"] == pytest.approx(one["fp32 masters"], rel=1e-4)
    assert divided["weights"] == one["weights"] > 3 * weights["weights"]
    assert held(two.place(ROLLOUT)) == held(three.place(ROLLOUT))
    assert len(eight.replays) < len(two.replays)


def test_longer_packs_larger_groups_and_more_turns_cost_where_they_should():
    base, packs, group, turns = (
        Plan(shapes(*changes))
        for changes in ([], ["rl.max_pack_tokens=4096"], ["rl.group_size=32"], ["sampling.turns=1"])
    )
    assert held(packs.place(LEARNER))["activations"] < 0.6 * held(base.place(LEARNER))["activations"]
    assert held(group.place(ROLLOUT))["KV caches"] == 2 * held(base.place(ROLLOUT))["KV caches"]
    assert turns.sampled.velocities == 11 and base.sampled.velocities == 33
    assert held(turns.place(ROLLOUT))["KV caches"] < held(base.place(ROLLOUT))["KV caches"]


def test_groups_that_are_sampled_together_hold_their_contexts_together_and_take_fewer_rounds():
    one, four, all_ = (Plan(shapes(f"rl.groups_per_batch={count}")) for count in (1, 4, 1000))
    caches = [held(plan.place(ROLLOUT))["KV caches"] for plan in (one, four, all_)]
    assert caches == [caches[0], 4 * caches[0], one.recipe.rl.groups * caches[0]]
    sampling = [next(part for part in plan.stretches if part.name == "rl sampling") for plan in (one, four)]
    assert sampling[1].count * 4 == sampling[0].count and sampling[1].flops == 4 * sampling[0].flops
    assert sampling[1].read < 4 * sampling[0].read  # the weights are read once a token for all of them


def test_guidance_costs_branches_and_a_cache_in_evaluation_alone():
    plain, guided = (
        Plan(shapes(*changes))
        for changes in (
            ["evaluation.guidance.text_scale=1"],
            ["evaluation.guidance={text_scale: 4, image_scale: 2, first_interval: [0.0, 1.0]}"],
        )
    )
    turns, steps = plain.recipe.evaluation.turns, plain.recipe.evaluation.points - 1
    assert plain.evaluated.velocities == turns * steps
    assert guided.evaluated.velocities == 2 * steps + 3 * steps * (turns - 1)
    assert held(guided.place(EVALUATION))["KV caches"] == 2 * held(plain.place(EVALUATION))["KV caches"]
    assert guided.sampled == plain.sampled


LORA = "rl.lora={rank: 4, alpha: 8}"


def test_adapters_are_what_is_trained_sent_and_held_beside_the_base():
    whole, adapted = Plan(shapes()), Plan(shapes(LORA))
    size = adapter_size(adapted.model, adapted.recipe.rl.lora)
    assert adapted.parameters[LEARNER].trained_total == size == adapted.sync / 4 > 0
    full, small = (held(plan.place(LEARNER)) for plan in (whole, adapted))
    assert small["weights"] == full["weights"] + 4 * size
    assert small["gradients"] == 4 * size and small["optimizer moments"] == 2 * 4 * size
    assert small["activations"] < full["activations"]  # what would be saved for the gradients of frozen matrices
    remote = held(adapted.place(ROLLOUT))
    assert remote.pop("adapters") == 4 * size and remote == held(whole.place(ROLLOUT))
    learning = [{p.name: p.flops for p in plan.stretches}["rl learning"] for plan in (whole, adapted)]
    assert learning[1] == pytest.approx(2 / 3 * learning[0])
    assert whole.parts == adapted.parts


@pytest.mark.parametrize(("place", "section"), [(LEARNER, "rl"), ("sft stage1 learner", "sft.stage1")])
def test_adapters_are_a_way_to_fit_where_there_are_none(place, section):
    adapters = (f"{section}.lora", ["{rank: 64, alpha: 128}"])
    assert adapters in candidates(shapes(), place)
    chosen = [f"{adapters[0]}={adapters[1][0]}", "sft.stage1.optimizer.muon_lr=null"]
    assert adapters not in candidates(shapes(*chosen), place)
    assert all("lora" not in setting for setting, _ in candidates(shapes(), ROLLOUT))


def test_an_sft_stage_is_divided_over_the_ranks_that_have_a_pack():
    chosen = ["sft.zero_stage=2", "engine.learner_ranks=4", "rl.groups=8", "sft.stage1.packs_per_step=2"]
    chosen += [f"sft.{stage}.optimizer.muon_lr=null" for stage in ("base", "stage1", "stage2")]
    one, two = (Plan(shapes(*chosen, *last)) for last in (["sft.stage1.packs_per_step=1"], []))
    name = "sft stage1 learner"
    assert (one.place(name).processes, two.place(name).processes) == (1, 2)
    whole, half = held(one.place(name)), held(two.place(name))
    assert 2 * half["fp32 masters"] == pytest.approx(whole["fp32 masters"], rel=1e-4)
    assert half["gradients"] == whole["gradients"] and half["activations"] == whole["activations"]
    assert [part.flops for part in one.stretches] == [part.flops for part in two.stretches]


def test_a_reference_model_is_held_where_there_is_a_kl_term():
    assert "reference weights" not in held(Plan(shapes()).place(LEARNER))
    assert "reference weights" in held(Plan(shapes("rl.kl_image=0.001")).place(LEARNER))
    assert "reference weights" not in held(Plan(shapes("rl.kl_image=0.001", LORA)).place(LEARNER))
    assert "reference weights" in held(Plan(shapes("rl.kl_image=0.001", LORA, "engine.zero_stage=3")).place(LEARNER))


def test_measuring_gradients_of_loss_terms_is_counted_beside_the_backward():
    without, probing = Plan(shapes("rl.probe_every=0")).place(LEARNER), Plan(shapes("rl.probe_every=5")).place(LEARNER)
    extra = held(probing)["gradients of loss terms"]
    assert extra == 2 * held(probing)["gradients"] and "gradients of loss terms" not in held(without)
    assert ("rl.probe_every", [0]) in candidates(shapes("rl.probe_every=5"), LEARNER)


def test_average_old_and_first_weights_are_counted_in_the_process_on_a_cpu_and_in_the_machine_beside_a_gpu():
    chosen = ["rl.ema_decay=0.9", "engine.learner_ranks=2"]
    for algorithm, name in (("nft", "old policy"), ("awm", "old policy")):
        on_cpu, on_gpu = (
            Plan(shapes(f"rl.algorithm={algorithm}", *chosen, *more)).place(LEARNER)
            for more in ([], ["engine.device=cuda"])
        )
        assert held(on_cpu)[name] == held(on_cpu)["average"] == on_cpu.copies[0].bytes
        assert name not in held(on_gpu) and "average" not in held(on_gpu)
        assert [copy.name for copy in on_gpu.copies] == ["average", name, "published weights", "checkpoint"]
        assert [copy.ranks for copy in on_gpu.copies] == [2, 2, 1, 1]
    stage = Plan(shapes()).place("sft stage1 learner")
    assert held(stage)["average"] == stage.copies[0].bytes


def test_main_memory_is_a_table_of_its_own(irg_rl):
    said = irg_rl("plan", GRPO, "rl.groups=4", "engine.object_store_mb=2048", "--gpu-gib", 10_000).out
    assert "copies of weights in main memory" in said and "peak of the machine" in said
    assert "object store: 2.00 GiB of shared memory for weights and groups on their way" in said


def test_time_is_operations_over_the_rate_and_bytes_over_the_bandwidth():
    recipe = shapes()
    sampling = {part.name: part for part in Plan(recipe).stretches}["rl sampling"]
    assert sampling.count == recipe.rl.updates * recipe.rl.groups / 2  # two rollout actors
    seconds = sampling.count * (sampling.flops / 2e12 + sampling.read / 3e9)
    assert sampling.seconds(Rates(2.0, 3.0)) == pytest.approx(seconds)


# --- the longest that a recipe allows


def test_the_replay_packs_are_full_and_hold_every_trajectory_once():
    recipe = shapes("rl.minibatches=1")
    packs = replay_packs(recipe)
    assert sum(len(pack.lengths) for pack in packs) == recipe.rl.groups * recipe.rl.group_size
    assert all(pack.tokens <= recipe.rl.max_pack_tokens for pack in packs)
    assert packs[0].tokens + packs[0].lengths[0] > recipe.rl.max_pack_tokens
    images = len(packs[0].times) / len(packs[0].lengths)
    assert images == 3 * recipe.rl.noise.window_size + 2  # trained steps of three images, two of which are looked at


def test_forks_are_planned_as_they_are_sampled_and_learned_from():
    plain, forked = Plan(shapes("rl.minibatches=1")), Plan(shapes("rl.minibatches=1", "rl.forks={1: 2, 2: 2}"))
    rows = [len(pack.lengths) for pack in forked.replays]
    assert sum(rows) == plain.recipe.rl.groups * plain.recipe.rl.group_size // 4
    images = len(forked.replays[0].times) / rows[0]
    steps = plain.recipe.rl.noise.window_size
    assert images == (1 + 2 + 4) * steps + (1 + 2), "trained steps of all images, and those that are looked at"
    one, other = ({part.name: part.flops for part in plan.stretches} for plan in (plain, forked))
    assert 0.5 < other["rl sampling"] / one["rl sampling"] < 0.7, "7 of 12 turns"
    assert 0.4 < other["rl learning"] / one["rl learning"] < 0.7
    assert held(plain.place(ROLLOUT))["KV caches"] == held(forked.place(ROLLOUT))["KV caches"]
    assert held(forked.place(LEARNER))["activations"] > 0


@pytest.mark.parametrize("stage", ["base", "stage1", "stage2"])
def test_an_sft_pack_is_exactly_full(stage):
    recipe = shapes()
    settings = recipe.sft.stages[stage]
    pack = sft_pack(recipe, settings)
    assert pack.tokens == settings.tokens_per_pack
    assert len(pack.velocity_index) >= 9 * settings.noise_blocks


def test_a_first_row_longer_than_the_pack_is_taken_as_the_stream_takes_it():
    recipe = shapes("sft.stage1.tokens_per_pack=100")
    pack = sft_pack(recipe, recipe.sft.stage1)
    assert len(pack.lengths) == 1 and pack.tokens > 100


@pytest.mark.parametrize("history", ["last", "full"])
def test_contexts_are_as_long_as_the_samplers_are(history):
    recipe = shapes(f"sampling.history={history}", "sampling.system_prompt=Think first.")
    model = UnifiedModel(recipe.model, SPECIAL)
    initialize(model, 0, (3, 3), (3, 3))
    sampled = Sampled.of(recipe, recipe.sampling.turns, recipe.sampling.points, None)
    contexts = Contexts(model, [encode(PROMPT)], encode("Think first."), sampled.capacity, history, None)
    trajectory, rows = longest_trajectory(recipe), torch.tensor([0])
    for turn, (text, image) in enumerate(zip(trajectory.texts, trajectory.images)):
        contexts.begin_text(turn)
        contexts.add_text(rows, [text.ids])
        contexts.end_text(rows, [text.ids], turn)
        if turn + 1 < recipe.sampling.turns:
            contexts.add_images(rows, [seen(recipe, image)])
    assert int(contexts.cache.lengths.max()) == sampled.capacity


def seen(recipe: Recipe, image: ImageSegment) -> ImageContext:
    vae = Autoencoder(recipe.model.vae, recipe.model.latent_patch_size)
    return ImageCodec(vae, recipe.model).encode([image.pixels], [Noise(0, "p", 0)], image.turn)[0]


@pytest.mark.parametrize(("stage", "changes"), [
    ("base", []),
    ("stage1", ["sft.stage1.lora={rank: 8, alpha: 16}", "sft.stage1.optimizer.muon_lr=null"]),
    ("base", ["engine.activation_checkpointing=true"]),
])  # fmt: skip
def test_the_peak_of_a_real_step_is_the_planned_one(stage, changes):
    """The second step on two packs: only then are there moments, and whole gradients beside the activations."""
    name, recipe = f"sft {stage} learner", shapes(*changes)
    plan, model = Plan(recipe), initialize(UnifiedModel(recipe.model, SPECIAL), 0, (3, 3), (3, 3))
    if (lora := plan.adapters[name]) is not None:
        add_adapters(model, lora, seed=0)
    engine = Engine(model.train(), plan.trainings[name], idle_pack(recipe.model, SPECIAL))
    pack = sft_pack(recipe, recipe.sft.stages[stage])
    entries = model.state_dict(keep_vars=True).items()
    average = EMA([(n, t) for n, t in entries if t.requires_grad or not isinstance(t, torch.nn.Parameter)], 0.9)
    target = SFTPack(pack, torch.zeros(len(pack.velocity_index), recipe.model.latent_dim))
    counts = Counts.of([target])

    def step(packs: int) -> None:
        engine.step([pack] * packs, lambda output, *_: Loss(sft_loss(output, target, counts, 1.0, 1.0)), {})

    weights = list(model.state_dict().values())
    with LiveBytes(weights) as live:
        step(1)
        first = live.peak
        step(2)
    assert live.peak > first
    real = live.peak + sum(weight.nbytes for weight in [*weights, *average.weights.values()])
    assert plan.place(name).peak == pytest.approx(real, rel=0.15)


def test_a_place_lists_each_component_once():
    for place in Plan(shapes()).places:
        names = [component.name for component in place.components]
        assert len(names) == len(set(names)) and all(
            isinstance(c, Component) and c.bytes >= 0 for c in place.components
        )
