"""LoRA: what is trained, what stays as it was, and that sampler, learner and model folder are one model."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from irg_rl.algorithms import learner as actor
from irg_rl.algorithms.learner import Learner, LearnerSettings
from irg_rl.config import LoraRecipe
from irg_rl.learner import checkpoint
from irg_rl.learner.checkpoint import CheckpointError, Snapshot
from irg_rl.learner.engine import Engine, EngineSettings, Loss
from irg_rl.learner.lora import Adapter, adapter_size, add_adapters, is_adapter, load_trainable, served
from irg_rl.learner.parts import OptimizerSettings, part_of
from irg_rl.learner.process_group import Rank
from irg_rl.learner.ratio_check import RatioError
from irg_rl.learner.replay import idle_pack
from irg_rl.model.folder import AUTOENCODER, WEIGHTS, load_unified, save_folder
from irg_rl.trajectory import Group, Prompt
from rollouts.worker import RolloutWorker, WorkerSettings
from tests.learner.ranks import run_on_ranks
from tests.learner.world import CONFIG, NOISE, SAMPLING, grpo, make_world

LORA = LoraRecipe(rank=4, alpha=8)
RATE = 5e-5
"""What docs/recipes.md recommends."""
LAYERS = CONFIG.llm.num_hidden_layers


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "base"
    save_folder(world.model, world.vae, world.tokenizer, path)
    return path


@pytest.fixture(scope="module")
def groups(world):
    drawn = world.sample(4)
    drawn[1].segments = drawn[1].segments[:2]
    return [Group(0, drawn[0].prompt, drawn[:2]), Group(1, drawn[0].prompt, drawn[2:])]


@pytest.fixture
def learner(world, folder):
    """learner(zero_stage=2, lora=LORA, precision="fp32", **settings): one rank in this process."""

    def make(zero_stage=2, lora=LORA, precision="fp32", rate=1e-3, base=folder, **changes) -> Learner:
        rates = {part: rate if lora is None or part in lora.experts else 0.0 for part in ("und", "gen", "vision")}
        engine = EngineSettings(OptimizerSettings(rates), zero_stage, precision)
        options = {"law": world.law(), "algorithm": grpo(clip_image=1e-2), "max_pack_tokens": 330} | changes
        made = Learner(LearnerSettings(str(base), engine, lora=lora, **options))
        made.setup()
        return made

    return make


def trained(learner, groups, updates: int) -> Learner:
    learner.check_ratio(*groups)
    for _ in range(updates):
        assert learner.train(*groups)["skipped"] == 0
    return learner


def weights(learner) -> dict[str, torch.Tensor]:
    return dict(learner.engine.state().weights())


def with_adapters(model, lora=LORA, scale=0.0, seed=0):
    """A copy with adapters; `scale` of noise on their second matrices, which start at 0."""
    model = copy.deepcopy(model)
    add_adapters(model, lora, seed)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


# --- where adapters are


@pytest.mark.parametrize("lora", [
    LORA,
    LoraRecipe(rank=2, experts=["gen"]),
    LoraRecipe(rank=2, experts=["und"], targets=["q_proj", "down_proj"]),
])  # fmt: skip
def test_adapters_are_on_the_named_matrices_of_the_named_experts_and_nothing_else_is_trained(world, lora):
    model = with_adapters(world.model, lora)
    free = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert free == {name for name in model.state_dict() if is_adapter(name)}
    assert len(free) == 2 * LAYERS * len(lora.experts) * len(lora.targets)
    assert {part_of(name) for name in free} == set(lora.experts)
    assert all(any(f".{target}" in name for target in lora.targets) for name in free)
    assert sum(model.get_parameter(name).numel() for name in free) == adapter_size(world.model, lora)


def test_new_adapters_change_nothing_and_come_from_their_seed_alone(world):
    pack = world.replay().packs(world.sample(2))[0].pack
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, other = with_adapters(world.model), with_adapters(world.model, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    second = with_adapters(world.model)
    state, same, different = (served(model.state_dict()) for model in (first, second, other))
    assert all(torch.equal(state[name], same[name]) for name in state)
    assert not any(torch.equal(state[name], different[name]) for name in state if ".lora_A." in name)
    assert torch.equal(first(pack).velocity, world.model(pack).velocity)


# --- training


@pytest.mark.parametrize("experts", [["und", "gen"], ["gen"], ["und"]])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_steps_change_the_adapters_of_the_named_experts_and_no_bit_of_the_base(
    world, learner, groups, zero_stage, experts
):
    made = learner(zero_stage, LoraRecipe(rank=4, alpha=8, experts=experts))
    begin = weights(made)
    after = weights(trained(made, groups, updates=2))
    changed = {name for name in begin if not torch.equal(begin[name], after[name])}
    assert changed == {name for name in begin if is_adapter(name)}
    assert {part_of(name) for name in changed} == set(experts)
    plain = {name.replace(".base_layer.", "."): tensor for name, tensor in after.items() if not is_adapter(name)}
    original = world.model.state_dict()
    assert plain.keys() == original.keys() and all(torch.equal(plain[name], original[name]) for name in plain)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_one_step_at_the_recommended_rate_changes_the_fp32_masters_under_bf16(learner, groups, zero_stage):
    made = learner(zero_stage, precision="bf16", rate=RATE)
    states = [weights(made)]
    made.check_ratio(*groups)
    for _ in range(2):
        made.train(*groups)
        states.append(weights(made))
    steps = list(zip(states, states[1:]))
    for name in filter(is_adapter, states[0]):
        # the gradient of A is B times something, and B starts at 0
        before, after = steps[1][0][name], steps[1][1][name]
        if ".lora_B." in name:
            assert not states[0][name].any() and states[1][name].any(), name
        else:
            assert torch.equal(states[0][name], states[1][name]), name
        moved = (after - before).abs()
        assert 0 < float(moved.max()) < 3 * RATE, name
        if ".lora_A." in name:
            assert torch.equal(before.bfloat16(), before), "masters start from what is computed with"
            assert float((after.bfloat16() == before.bfloat16()).float().mean()) > 0.5, "bf16 alone would stand still"


def test_masters_are_made_from_what_bf16_computes_with_so_no_fp32_copy_is_loaded(world, learner, folder):
    loaded, _ = load_trainable(folder, "cpu", "bf16", None, seed=0)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    wide = Engine(world.copy(), EngineSettings(OptimizerSettings({"und": 1e-3}), 2, "bf16"),
                  idle_pack(CONFIG, world.model.special))  # fmt: skip
    masters, from_fp32 = weights(learner(lora=None, precision="bf16")), dict(wide.state().weights())
    assert all(torch.equal(masters[name], from_fp32[name]) for name in masters)


def test_a_learner_reads_no_autoencoder(learner, folder, tmp_path):
    """Its groups hold latents. On a GPU the autoencoder would take memory on every rank."""
    shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns(AUTOENCODER))
    assert weights(learner(base=tmp_path / "model")).keys() == weights(learner()).keys()


def test_a_part_with_rate_zero_stays_bit_for_bit_also_where_all_weights_are_trained(world, folder, groups):
    rates = OptimizerSettings({"und": 0.0, "gen": 1e-3, "vision": 0.0})
    made = Learner(LearnerSettings(str(folder), EngineSettings(rates), grpo(), world.law()))
    made.setup()
    after, original = weights(trained(made, groups, updates=2)), world.model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], original[name])}
    assert changed and {part_of(name) for name in changed} == {"gen"}
    assert made.publish(2).arrays.keys() == original.keys()
    assert {part_of(name) for name in made.average() if not name.endswith("pos_embed")} == {"gen"}


def test_gradient_norms_of_the_image_loss_are_those_of_the_adapters(learner, groups):
    made = learner(probe_every=1)
    made.check_ratio(*groups)
    metrics = made.train(*groups)
    assert metrics["grad_norm/image/und"] > 0 and metrics["grad_norm/gen"] > 0
    assert "grad_norm/vision" not in metrics and metrics["lr/vision"] == 0.0


def share(place, folder, stages):
    """{stage: (adapters after two steps, digest of the base)} with every second pack on each rank."""
    world, results = make_world(folder / f"rank{place.rank}of{place.world_size}"), {}
    packs = [replay.pack for replay in world.replay(max_pack_tokens=200).packs(world.sample(3))]
    own = packs[place.rank :: place.world_size]
    for stage in stages:
        torch.manual_seed(place.rank)  # ranks draw other numbers, but not other adapters
        model = with_adapters(world.model)
        settings = EngineSettings(OptimizerSettings({"und": 1e-2, "gen": 1e-2}, eps=1e-3), stage)
        engine = Engine(model, settings, idle_pack(CONFIG, world.model.special), place)
        for _ in range(2):
            engine.step(own, squares, {"packs": len(own)})
        state = engine.state()
        results[stage] = served({name: w.numpy() for name, w in state.changing()}), state.frozen_digest()
    return len(packs), results


def squares(output, index, totals) -> Loss:
    size = output.logits.float().square().mean() + output.velocity.square().sum() / 100
    return Loss({"text": size / totals["packs"]})


def test_two_ranks_train_the_same_adapters_as_one(tmp_path):
    stages = [2, 3]
    count, alone = share(Rank(), tmp_path, stages)
    assert count > 2
    for _, found in run_on_ranks(2, share, tmp_path, stages):
        for stage in stages:
            assert found[stage][1] == alone[stage][1] == alone[2][1]
            for name, weight in alone[stage][0].items():
                np.testing.assert_allclose(found[stage][0][name], weight, rtol=1e-4, atol=1e-5, err_msg=name)


# --- one policy


def worker(folder, lora=LORA, dtype="fp32") -> RolloutWorker:
    return RolloutWorker(WorkerSettings(str(folder), SAMPLING, NOISE, seed=5, threads=1, dtype=dtype, lora=lora))


def send(learner, worker, version: int) -> None:
    sent = learner.publish(version)
    assert worker.set_weights(sent.arrays, sent.version, sent.digest) == (version, sent.digest)


def sampled(worker, group_id: int) -> Group:
    group = worker.sample_group(group_id, Prompt("p0", "a red circle above a blue square"), 2)[1]
    for index, trajectory in enumerate(group.trajectories):
        for segment in trajectory.segments:
            segment.advantage = 1.0 - 1.5 * index
    return group


def test_samplers_that_get_the_adapters_alone_are_the_learner_s_policy_at_every_version(learner, folder):
    made, remote = learner(rate=2e-2), worker(folder)
    send(made, remote, 0)
    for version in (1, 2, 3):
        group = sampled(remote, version)
        table = made.check_ratio(group)
        assert {row["modality"] for row in table} == {"text", "image"}
        assert all(row["max"] <= row["limit"] for row in table)
        made.train(group)
        with pytest.raises(RatioError):  # the step made another policy, which the sampler does not have yet
            made.check_ratio(group)
        send(made, remote, version)
    sent = made.publish(4).arrays
    assert all(is_adapter(name) for name in sent)
    assert sum(array.size for array in sent.values()) == adapter_size(remote._model, LORA) > 0


def test_a_sampler_in_bf16_holds_the_very_numbers_that_the_learner_computes_with(learner, folder, groups, world):
    law = replace(world.law(), dtype="bf16")
    drawn = copy.deepcopy(groups)
    for trajectory in (trajectory for group in drawn for trajectory in group.trajectories):
        trajectory.law = law  # drawn in fp32, which two updates may differ by
    made = trained(learner(precision="bf16", rate=RATE, law=law), drawn, updates=2)
    remote = worker(folder, dtype="bf16")
    send(made, remote, 2)
    mine, theirs = made.engine.model.state_dict(), remote._model.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert made.check_ratio(sampled(remote, 2))


def test_a_worker_without_adapters_refuses_those_of_a_learner(learner, folder):
    with pytest.raises(ValueError, match="published weights do not fit the model"):
        send(learner(), worker(folder, lora=None), 1)


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_kl_term_is_towards_the_base_and_only_zero_3_loads_it_twice(learner, groups, world, monkeypatch, zero_stage):
    loads = []
    monkeypatch.setattr(actor, "load_unified", lambda *given: loads.append(given) or load_unified(*given))
    made = learner(zero_stage, rate=2e-2, algorithm=grpo(clip_image=1e-2, kl_text=0.1, kl_image=0.1))
    trained(made, groups, updates=1)
    second = made.train(*groups)
    assert len(loads) == (zero_stage == 3)
    pack = world.replay().packs(world.sample(1))[0].pack
    with torch.no_grad():
        found, base = made.context.reference(pack), world.model(pack)
        own = made.engine.model(pack)
    assert torch.equal(found.logits, base.logits) and torch.equal(found.velocity, base.velocity)
    assert not torch.allclose(own.logits, base.logits, atol=1e-4), "and afterwards the adapters are on again"
    assert second["skipped"] == 0 and second["text/turn1/kl"] > 0 and second["image/turn1/kl"] > 0


def test_the_base_as_reference_trains_as_a_reference_model_of_its_own(learner, groups):
    """Adapters are switched off and on between a forward and its backward; ZeRO 3 has a second model instead."""
    settings = dict(rate=2e-2, algorithm=grpo(clip_image=1e-2, kl_text=0.1, kl_image=0.1))
    alone = weights(trained(learner(3, **settings), groups, updates=3))
    without = weights(trained(learner(2, rate=2e-2), groups, updates=3))
    for zero_stage in (0, 2):
        switched = weights(trained(learner(zero_stage, **settings), groups, updates=3))
        assert switched.keys() == alone.keys()
        for name, value in switched.items():
            torch.testing.assert_close(value, alone[name], rtol=1e-3, atol=1e-4)
    changed = [name for name in alone if not torch.allclose(alone[name], without[name], rtol=1e-3, atol=1e-4)]
    assert changed, "a KL term that moves nothing would test nothing"


# --- checkpoints


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_four_updates_equal_two_and_a_resume_of_two_bit_for_bit(learner, groups, tmp_path, zero_stage):
    options = {"zero_stage": zero_stage, "ema_decay": 0.9, "algorithm": grpo(kl_text=0.01, kl_image=0.01)}
    whole = trained(learner(**options), groups, updates=2)
    path = whole.save(str(tmp_path), Snapshot(2, {}), keep_last=1)
    for _ in range(2):
        whole.train(*groups)
    torch.manual_seed(99)
    resumed = learner(**options)
    assert resumed.load(path) == []
    for _ in range(2):
        resumed.train(*groups)
    assert resumed.publish(4).digest == whole.publish(4).digest
    assert all(torch.equal(w, whole.average()[n]) for n, w in resumed.average().items())


def test_a_checkpoint_holds_adapters_alone_and_is_refused_on_another_base(world, learner, groups, tmp_path):
    made = trained(learner(ema_decay=0.9), groups, updates=1)
    path = made.save(str(tmp_path / "run"), Snapshot(1, {}), keep_last=1)
    tensors = checkpoint.load(Path(path)).tensors
    for group in ("model", "ema", "exp_avg", "exp_avg_sq"):
        assert all(is_adapter(name) or name.endswith("pos_embed.pos_embed") for name in tensors[group]), group
        assert len(served(tensors[group])) == 2 * 2 * 7 * LAYERS
    other = world.copy()
    with torch.no_grad():
        other.llm2vae.bias[0] += 1e-6
    save_folder(other, world.vae, world.tokenizer, tmp_path / "other")
    with pytest.raises(CheckpointError, match="the frozen weights are not those of the checkpoint"):
        learner(base=tmp_path / "other", ema_decay=0.9).load(path)


# --- what is left behind


def merge(world, adapted, base=None):
    weights = {name: tensor.float() for name, tensor in served(adapted.state_dict()).items()}
    return Adapter(LORA, weights, None).merge_into(base or world.copy())


def test_merged_weights_have_the_names_of_the_base_and_compute_what_the_adapters_do(world):
    pack = world.replay().packs(world.sample(2))[0].pack
    adapted = with_adapters(world.model, scale=0.3)
    merged = merge(world, adapted)
    assert list(merged.state_dict()) == list(world.model.state_dict())
    assert all(parameter.requires_grad for parameter in merged.parameters())
    before, expected, found = (model(pack).logits for model in (world.model, adapted, merged))
    assert float((expected - before).detach().abs().max()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    touched = {n for n, w in merged.state_dict().items() if not torch.equal(w, world.model.state_dict()[n])}
    assert touched == {n.replace(".lora_B.default.", ".") for n in adapted.state_dict() if ".lora_B." in n}


def test_peft_reads_a_saved_adapter_onto_the_base_with_equal_outputs(world, folder, tmp_path):
    from peft import PeftModel

    pack = world.replay().packs(world.sample(2))[0].pack
    adapted = with_adapters(world.model, scale=0.3)
    Adapter(LORA, served(adapted.state_dict()), folder).save(tmp_path)
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 8, str(folder))
    again = PeftModel.from_pretrained(world.copy(), tmp_path / "adapter")
    for found, expected in zip(vars(again(pack)).values(), vars(adapted(pack)).values()):
        assert found is expected is None or torch.equal(found, expected)
    merged, ours = again.merge_and_unload().state_dict(), merge(world, adapted).state_dict()
    assert all(torch.equal(merged[name], ours[name]) for name in ours)
    assert not torch.equal(merged["language_model.model.layers.0.mlp.up_proj.weight"],
                           load_file(folder / WEIGHTS)["language_model.model.layers.0.mlp.up_proj.weight"])  # fmt: skip
