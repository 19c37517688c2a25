"""What can be seen of damaged weights, without a second copy of them and with one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from irg_rl.verify.bench import Reference
from irg_rl.verify.check import Status
from irg_rl.verify.folder_checks import keys_and_shapes, weights
from irg_rl.verify.tensors import fingerprint, likeness
from tests.verify.conftest import run, wrong

LAYER = "language_model.model.layers"
QUERY, DOWN = f"{LAYER}.1.self_attn.q_proj.weight", f"{LAYER}.0.mlp.down_proj.weight"
ALIKE = "experts are alike in every layer"
MOVED, OTHER = "weights with the same numbers in another order", "weights with other numbers"


def change(folder: Path, name: str, new, file: str = "ema.safetensors") -> None:
    """Replace a weight by new(weight)."""
    stored = load_file(folder / file)
    stored[name] = new(stored[name]).contiguous()
    save_file(stored, folder / file)


def permute(folder: Path, name: str) -> None:
    """Turn the order of the rows around."""
    change(folder, name, lambda weight: weight.flip(0))


@pytest.fixture(scope="module")
def reference(sound, tmp_path_factory) -> Reference:
    from irg_rl.verify.bench import Workbench

    bench = Workbench(sound, tmp_path_factory.mktemp("scratch"), None, None)
    assert not wrong(run(weights, bench))
    return bench.kept


def test_a_permuted_matrix_is_unlike_its_twin_of_the_other_expert(folder, bench):
    permute(folder, QUERY)
    assert QUERY in wrong(run(weights, bench(folder)))[ALIKE]


def test_a_matrix_from_another_layer_is_unlike_its_twin(folder, bench):
    there = load_file(folder / "ema.safetensors")[f"{LAYER}.0.self_attn.q_proj.weight"]
    change(folder, QUERY, lambda weight: there)
    assert set(wrong(run(weights, bench(folder)))) == {ALIKE}


def test_where_the_experts_have_nothing_in_common_a_permutation_is_seen_only_with_a_reference(folder, bench, reference):
    permute(folder, DOWN)
    assert not wrong(run(weights, bench(folder)))
    assert wrong(run(weights, bench(folder, reference))) == {MOVED: DOWN}


def test_other_numbers_and_another_type_are_told_apart_from_another_order(folder, bench, reference):
    change(folder, DOWN, lambda weight: weight * 1.0001)
    change(folder, "encoder.conv_in.weight", lambda weight: weight.flip(0), "ae.safetensors")
    assert wrong(run(weights, bench(folder, reference))) == {MOVED: "autoencoder/encoder.conv_in.weight", OTHER: DOWN}
    change(folder, DOWN, lambda weight: weight.bfloat16())
    found = run(weights, bench(folder, reference))
    assert OTHER not in wrong(found)
    assert [r.found for r in found.finding.requirements if r.what == "weights in another number type"] == [DOWN]


@pytest.mark.parametrize(("damage", "what"), [
    (lambda weight: weight.index_fill(0, torch.tensor([3]), torch.nan), "finite"),
    (lambda weight: weight.index_fill(0, torch.tensor([3]), 0.0), "no holes"),
    (lambda weight: weight * (torch.arange(weight.shape[1]) < weight.shape[1] // 3), "no holes"),
])  # fmt: skip
def test_numbers_that_are_none_and_holes_are_named(folder, bench, damage, what):
    change(folder, DOWN, damage)
    assert wrong(run(weights, bench(folder)))[what] == DOWN


def test_a_position_table_that_is_not_its_formula_is_named(folder, bench):
    permute(folder, "latent_pos_embed.pos_embed")
    assert list(wrong(run(weights, bench(folder)))) == ["latent_pos_embed.pos_embed is the sin-cos formula"]


def test_a_position_table_in_bf16_is_its_formula(folder, bench):
    change(folder, "vit_pos_embed.pos_embed", lambda table: table.bfloat16())
    assert not wrong(run(weights, bench(folder)))


def test_the_weights_of_a_folder_that_does_not_fit_are_still_read(folder, bench):
    (folder / "llm_config.json").unlink()
    permute(folder, QUERY)
    made = bench(folder)
    assert made.checked is None and ALIKE in wrong(run(weights, made))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fingerprint_tells_order_from_numbers(dtype):
    tensor = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    whole, moved = fingerprint(tensor), fingerprint(tensor.flatten()[torch.randperm(35)].view(7, 5))
    assert whole.sha256 != moved.sha256 and whole.unordered == moved.unordered
    assert fingerprint(tensor * 2).unordered != whole.unordered
    assert (whole.shape, whole.dtype) == ([7, 5], str(dtype).removeprefix("torch."))


def test_likeness_is_a_correlation_without_what_rows_and_columns_have_in_common():
    generator = torch.Generator().manual_seed(0)
    matrix, noise = (torch.randn(60, 40, generator=generator) for _ in range(2))
    common = 5 * torch.randn(60, 1, generator=generator) + 5 * torch.randn(1, 40, generator=generator)
    assert likeness(matrix, 3 * matrix + common) == pytest.approx(1)
    assert likeness(matrix + common, noise + common) == pytest.approx(0, abs=0.06)
    assert likeness(matrix, matrix + noise) == pytest.approx(0.5**0.5, abs=0.05)


@pytest.fixture
def sharded(folder) -> list[Path]:
    """The shards of a model folder with nothing wrong."""
    from irg_rl.model.shards import write_shards

    stored = load_file(folder / "ema.safetensors")
    (folder / "ema.safetensors").unlink()
    write_shards(folder, sorted(stored.items()), 20_000)
    return sorted(folder.glob("model-*.safetensors"))


def test_shards_are_read_as_one(folder, sharded, bench, reference):
    assert len(sharded) > 2
    assert not wrong(run(weights, bench(folder, reference)))


@pytest.mark.parametrize(("damage", "says"), [
    (Path.unlink, "does not exist"),
    (lambda shard: shard.write_bytes(shard.read_bytes()[:-100]), "cannot be read"),
    (lambda shard: shard.write_bytes(shard.read_bytes()[:100]), "cannot be read"),
    (lambda shard: shard.write_bytes(b""), "cannot be read"),
])  # fmt: skip
def test_a_shard_that_is_missing_or_cut_off_is_named(folder, sharded, bench, damage, says):
    damage(sharded[1])
    made = bench(folder)
    for check in (keys_and_shapes, weights):
        result = run(check, made)
        assert result.status is Status.FAILED and sharded[1].name in result.reason and says in result.reason
