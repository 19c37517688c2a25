"""Model folders: what is saved comes back; what does not fit is named."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from irg_rl.errors import InputError
from irg_rl.model import folder as folder_module
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.config import LLMConfig, ModelConfig
from irg_rl.model.folder import (
    AUTOENCODER,
    WEIGHTS,
    check_folder,
    is_model_folder,
    load_folder,
    require_sizes,
    save_folder,
)
from irg_rl.model.pack import SpecialIds
from irg_rl.model.unified import UnifiedModel
from tests.golden import ROOT
from tests.model.sizes import bagel_7b


@pytest.fixture
def saved(bagel, tmp_path):
    save_folder(bagel.model, bagel.autoencoder, bagel.tokenizer, tmp_path / "m")
    return tmp_path / "m"


def test_a_saved_folder_comes_back_bit_for_bit(bagel, saved):
    back = load_folder(saved)
    assert back.model.config == bagel.model.config
    for mine, theirs in ((bagel.model, back.model), (bagel.autoencoder, back.autoencoder)):
        expected, found = mine.state_dict(), theirs.state_dict()
        assert list(expected) == list(found)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    text = "A red cube; naïve café 猫 <|im_end|>"
    assert back.tokenizer.encode(text) == bagel.tokenizer.encode(text)
    assert back.tokenizer.special == bagel.tokenizer.special


@pytest.mark.parametrize("name", [WEIGHTS, AUTOENCODER])
def test_saved_files_equal_the_released_ones(saved, name):
    mine, released = load_file(saved / name), load_file(ROOT / "bagel" / "checkpoint" / name)
    assert set(mine) == set(released)
    assert all(torch.equal(mine[key], released[key]) for key in released)


def test_saving_again_replaces_the_folder_and_leaves_nothing_aside(bagel, saved):
    (saved / "stale").touch()
    save_folder(bagel.model, bagel.autoencoder, bagel.tokenizer, saved)
    assert not (saved / "stale").exists()
    assert [path.name for path in saved.parent.iterdir()] == ["m"]


def test_absent_position_tables_are_computed(bagel, saved):
    weights = load_file(saved / WEIGHTS)
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith("pos_embed.pos_embed")}
    assert len(kept) == len(weights) - 2
    save_file(kept, saved / WEIGHTS)
    assert torch.equal(load_folder(saved).model.latent_pos_embed.pos_embed, bagel.model.latent_pos_embed.pos_embed)


def test_position_tables_stay_in_fp32_in_a_bf16_model(saved):
    model = load_folder(saved, dtype=torch.bfloat16).model
    assert model.vae2llm.weight.dtype == torch.bfloat16
    assert model.latent_pos_embed.pos_embed.dtype == torch.float32
    assert model.float().bfloat16().latent_pos_embed.pos_embed.dtype == torch.float32


def test_weights_that_do_not_fit_are_named(saved):
    weights = load_file(saved / WEIGHTS)
    del weights["llm2vae.bias"]
    weights["llm2vae.extra"] = torch.zeros(1)
    weights["vae2llm.weight"] = torch.zeros(3, 2)
    save_file(weights, saved / WEIGHTS)
    with pytest.raises(ValueError, match=r"missing llm2vae.bias; unknown llm2vae.extra; vae2llm.weight is \[3, 2\]"):
        load_folder(saved)


def test_all_that_does_not_fit_is_named_and_layers_together(saved):
    weights = load_file(saved / WEIGHTS)
    layers = "language_model.model.layers"
    gone = [
        f"{layers}.{n}.{name}.weight" for n in (0, 1) for name in ("mlp.up_proj", "input_layernorm", "mlp.gate_proj")
    ]
    gone += [f"{layers}.1.self_attn.k_norm.weight", "llm2vae.bias", "vae2llm.bias", "connector.fc1.bias"]
    for name in gone:
        del weights[name]
    weights |= {f"{layers}.{number}.mlp.extra": torch.zeros(1) for number in (0, 1, 2, 7)}
    save_file(weights, saved / WEIGHTS)
    with pytest.raises(InputError) as error:
        load_folder(saved)
    told = str(error.value).split(": ", 1)[1].split("; ")
    assert sorted(told) == sorted([
        *(f"missing {layers}.{{0-1}}.{name}.weight" for name in ("mlp.up_proj", "input_layernorm", "mlp.gate_proj")),
        f"missing {layers}.1.self_attn.k_norm.weight", "missing llm2vae.bias", "missing vae2llm.bias",
        "missing connector.fc1.bias", f"unknown {layers}.{{0-2,7}}.mlp.extra",
    ])  # fmt: skip


def test_a_folder_is_checked_by_its_headers_before_a_weight_is_read(saved, monkeypatch):
    checked = check_folder(saved)
    assert all(tensor.is_meta for tensor in [*checked.model.parameters(), *checked.autoencoder.parameters()])
    weights = load_file(saved / AUTOENCODER)
    del weights["decoder.conv_out.bias"]
    save_file(weights, saved / AUTOENCODER)
    monkeypatch.setattr(folder_module, "read_tensors", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(InputError, match=rf"{AUTOENCODER} does not fit .*missing decoder.conv_out.bias"):
        load_folder(saved)


def test_an_autoencoder_that_does_not_fit_is_named(saved):
    weights = load_file(saved / AUTOENCODER)
    del weights["encoder.conv_in.bias"]
    save_file(weights, saved / AUTOENCODER)
    with pytest.raises(ValueError, match="missing encoder.conv_in.bias"):
        load_folder(saved)


def test_what_is_loaded_is_aligned_wherever_the_file_has_it(saved):
    """Matrix products of differently aligned operands differ in their last bits."""
    for name in (WEIGHTS, AUTOENCODER):
        save_file(load_file(saved / name), saved / name, metadata={"note": "a header of another length"})
    back = load_folder(saved)
    tensors = [*back.model.state_dict().values(), *back.autoencoder.state_dict().values()]
    assert all(tensor.data_ptr() % 64 == 0 and tensor.is_contiguous() for tensor in tensors)


def test_a_file_cut_off_is_named(saved):
    whole = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=rf"{WEIGHTS} cannot be read .*: write or copy it again"):
        load_folder(saved)


def test_a_missing_file_and_a_missing_key_are_named(saved):
    config = json.loads((saved / "llm_config.json").read_text())
    del config["hidden_size"]
    (saved / "llm_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"llm_config.json lacks 'hidden_size'"):
        load_folder(saved)
    (saved / "vit_config.json").unlink()
    with pytest.raises(ValueError, match="vit_config.json does not exist"):
        load_folder(saved)


def test_without_config_json_the_sizes_are_bagels(saved):
    (saved / "config.json").unlink()
    config = ModelConfig.read(saved)
    assert (config.latent_patch_size, config.max_latent_size, config.vit.max_patches_per_side) == (2, 64, 70)
    assert config.vae == bagel_7b().vae
    with pytest.raises(ValueError, match="does not fit the configuration"):
        load_folder(saved)  # this one is smaller, and the weights tell


def in_bf16(folder: Path) -> dict[str, torch.Tensor]:
    """The folder's weights, all in bf16 as in the released file."""
    weights = {name: tensor.bfloat16() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS)
    return weights


def test_a_bf16_folder_is_written_back_bit_for_bit(saved, tmp_path):
    released = in_bf16(saved)
    held = load_folder(saved, dtype=torch.bfloat16)
    save_folder(held.model, held.autoencoder, held.tokenizer, tmp_path / "again")
    written = load_file(tmp_path / "again" / WEIGHTS)
    assert {name: tensor.dtype for name, tensor in written.items()} == dict.fromkeys(released, torch.bfloat16)
    assert all(torch.equal(written[name], tensor) for name, tensor in released.items())


def test_a_bf16_model_with_exact_position_tables_keeps_them_exact(bagel, saved, tmp_path):
    held = load_folder(saved, dtype=torch.bfloat16)
    save_folder(held.model, held.autoencoder, held.tokenizer, tmp_path / "again")
    table = load_folder(tmp_path / "again").model.latent_pos_embed.pos_embed
    assert torch.equal(table, bagel.model.latent_pos_embed.pos_embed)


def shard(folder: Path, index: str) -> list[Path]:
    """The weights in two files with an index, in place of the one."""
    weights = load_file(folder / WEIGHTS)
    names = sorted(weights)
    files = [folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    parts = dict(zip(files, (names[::2], names[1::2])))
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, file)
    where = {name: file.name for file, part in parts.items() for name in part}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / WEIGHTS).unlink()
    return files


@pytest.mark.parametrize("index", ["ema.safetensors.index.json", "model.safetensors.index.json"])
def test_shards_are_read_as_one(bagel, saved, index):
    shard(saved, index)
    assert is_model_folder(saved)
    found = load_folder(saved).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in bagel.model.state_dict().items())


def test_a_missing_shard_a_broken_index_and_missing_weights_are_named(saved):
    first, second = shard(saved, "model.safetensors.index.json")
    second.unlink()
    with pytest.raises(InputError, match=f"{second} does not exist"):
        load_folder(saved)
    index = saved / "model.safetensors.index.json"
    index.write_text("{}")
    with pytest.raises(InputError, match=f"{index} is no index of shards"):
        load_folder(saved)
    index.unlink()
    assert not is_model_folder(saved)
    with pytest.raises(InputError, match=f"{WEIGHTS} does not exist, nor an index of shards"):
        load_folder(saved)


def test_sizes_that_cannot_be_are_named_with_their_folder(saved):
    config = json.loads((saved / "llm_config.json").read_text())
    (saved / "llm_config.json").write_text(json.dumps(config | {"num_attention_heads": 0}))
    with pytest.raises(InputError, match=rf"{saved}.* cannot be: llm.num_attention_heads: "):
        load_folder(saved)


def test_the_vision_tower_has_one_layer_less_than_its_json(saved):
    assert json.loads((saved / "vit_config.json").read_text())["num_hidden_layers"] == 3
    assert ModelConfig.read(saved).vit.num_hidden_layers == 2


def test_an_unknown_size_and_heads_that_do_not_divide_are_refused():
    sizes = dict(hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8, vocab_size=8)
    with pytest.raises(ValidationError, match="depth"):
        LLMConfig(**sizes, num_key_value_heads=2, depth=3)
    with pytest.raises(ValidationError, match="cannot share 3"):
        LLMConfig(**sizes, num_key_value_heads=3)


def _listed(name: str) -> dict[str, list[int]]:
    path = ROOT / "bagel" / name
    lines = (line.split("\t") for line in path.read_text().splitlines())
    return {key: json.loads(shape) for key, shape in lines}


def test_the_seven_billion_model_has_the_released_names_and_shapes():
    with torch.device("meta"):
        model = UnifiedModel(bagel_7b(), SpecialIds(151644, 151645, 151652, 151653))
        autoencoder = Autoencoder(bagel_7b().vae, 2)
    assert {name: list(t.shape) for name, t in model.state_dict().items()} == _listed("bagel-keys-ema.txt")
    assert {name: list(t.shape) for name, t in autoencoder.flux_state_dict().items()} == _listed("bagel-keys-ae.txt")
    assert sum(t.numel() for t in model.state_dict().values()) == 14_607_260_128


def change(folder: Path, file: str, **settings) -> None:
    """Set keys of one of the JSON files; ... takes one away."""
    content = json.loads((folder / file).read_text()) | settings
    (folder / file).write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def test_rotary_positions_as_transformers_5_writes_them_are_read(saved):
    change(saved, "llm_config.json", rope_theta=..., rope_parameters={"rope_theta": 5e5, "rope_type": "default"})
    assert ModelConfig.read(saved).llm.rope_theta == 5e5


@pytest.mark.parametrize(("file", "setting", "value"), [
    ("llm_config.json", "rope_scaling", {"type": "yarn", "factor": 4.0}),
    ("llm_config.json", "rope_parameters", {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}),
    ("llm_config.json", "rope_scaling", {"factor": 4.0}),
    ("llm_config.json", "hidden_act", "gelu"),
    ("llm_config.json", "model_type", "qwen3"),
    ("llm_config.json", "tie_word_embeddings", True),
    ("llm_config.json", "use_sliding_window", True),
    ("llm_config.json", "head_dim", 128),
    ("vit_config.json", "hidden_act", "gelu"),
    ("config.json", "connector_act", "relu"),
])  # fmt: skip
def test_what_would_be_ignored_is_refused(saved, file, setting, value):
    change(saved, file, **{setting: value})
    with pytest.raises(InputError, match=rf"{file}: {setting} .*not supported"):
        check_folder(saved)


def test_two_bases_of_the_rotary_positions_contradict_each_other(saved):
    change(saved, "llm_config.json", rope_parameters={"rope_theta": 5e5})
    with pytest.raises(InputError, match="rope_theta is 1000000.0, but 500000.0 in rope_parameters"):
        check_folder(saved)


@pytest.mark.parametrize(("file", "setting", "value"), [
    ("llm_config.json", "hidden_size", None),
    ("llm_config.json", "hidden_size", [64]),
    ("llm_config.json", "rope_theta", "a million"),
    ("vit_config.json", "num_hidden_layers", None),
    ("vit_config.json", "num_hidden_layers", 1),
    ("vit_config.json", "patch_size", {}),
    ("config.json", "vae_config", [1]),
    ("config.json", "vae_config", {"ch_mult": "1241"}),
    ("config.json", "vae_config", {"ch": "128"}),
    ("config.json", "vae_config", {"ch": 1.5}),
    ("config.json", "latent_patch_size", "two"),
])  # fmt: skip
def test_nulls_and_values_of_another_kind_are_errors_that_name_the_file(saved, file, setting, value):
    change(saved, file, **{setting: value})
    with pytest.raises(InputError, match=file):
        check_folder(saved)


def test_null_is_as_good_as_absent_where_there_is_a_default(saved):
    before = ModelConfig.read(saved)
    change(saved, "vit_config.json", layer_norm_eps=None)
    change(saved, "llm_config.json", rope_scaling=None, head_dim=None)
    assert ModelConfig.read(saved) == before


@pytest.mark.parametrize("content", ["[]", "3", "null", "{", "[" * 100_000, '{"hidden_size": NaN}'])
def test_a_json_file_that_holds_no_object_is_named(saved, content):
    (saved / "llm_config.json").write_text(content)
    with pytest.raises(InputError, match="llm_config.json"):
        check_folder(saved)


def test_a_stale_table_size_is_read_from_the_table_and_said(bagel, saved, caplog):
    change(saved, "config.json", max_latent_size=32)
    back = load_folder(saved)
    assert back.model.config.max_latent_size == bagel.model.config.max_latent_size == 16
    assert torch.equal(back.model.latent_pos_embed.pos_embed, bagel.model.latent_pos_embed.pos_embed)
    assert "max_latent_size is 16, as the table has it, not 32" in caplog.text


def test_weights_under_the_name_of_a_bf16_release_are_read(bagel, saved):
    (saved / WEIGHTS).rename(saved / "ema_bf16.safetensors")
    assert is_model_folder(saved)
    assert torch.equal(load_folder(saved).model.llm2vae.weight, bagel.model.llm2vae.weight)


@pytest.mark.parametrize("names", [{"a": "../other.safetensors"}, {"a": "/etc/passwd"}, {"a": 3}, {"a": ""}, [], {}])
def test_an_index_that_leads_out_of_its_folder_is_refused(saved, names):
    (saved / WEIGHTS).unlink()
    (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(InputError, match="is no index of shards"):
        check_folder(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": 3}', b"\xff\xfe", b'{"version": "1.0"}'])
def test_a_broken_tokenizer_is_named(saved, content):
    (saved / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match="its tokenizer cannot be read|has no special token"):
        check_folder(saved)


def test_sizes_that_are_not_the_recipes_are_named_and_the_shift_of_training_is_none(bagel):
    ours = bagel.model.config
    theirs = ours.model_copy(update={"timestep_shift": 9.0})
    require_sizes(theirs, ours, Path("there"))
    llm = ours.llm.model_copy(update={"num_hidden_layers": 3})
    says = r"there is another model than the recipe's: model.llm.num_hidden_layers is 2, 3 in the folder$"
    with pytest.raises(InputError, match=says):
        require_sizes(theirs.model_copy(update={"llm": llm}), ours, Path("there"))
