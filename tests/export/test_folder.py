"""`irg-rl export`: what is published is whole, other libraries and our own read it, and it says where it is from."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from irg_rl.config import LoraRecipe
from irg_rl.driver.prepare import write_trained
from irg_rl.errors import InputError
from irg_rl.export import card
from irg_rl.export.card import Origin, licence_of
from irg_rl.export.folder import export_folder
from irg_rl.learner.lora import add_adapters, is_adapter
from irg_rl.model.folder import load_folder, save_folder
from tests.golden import ROOT

BASE = "ByteDance-Seed/BAGEL-7B-MoT"


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory) -> Path:
    """The last model of a finished run, exported in small shards."""
    from irg_rl.driver.run_folder import Run
    from irg_rl.export.card import origin_of

    run, out = Run.open(finished), tmp_path_factory.mktemp("exported") / "tiny-rl"
    source = finished / "models" / "rl"
    export_folder(source, out, origin_of(source, run.recipe, run, None, None), most_bytes=40_000)
    return out


@pytest.fixture
def adapted(world, recipe, tmp_path) -> Path:
    """An exported model that adapters have changed."""
    base, lora = tmp_path / "private" / "base", LoraRecipe(rank=2, alpha=4)
    base.parent.mkdir()
    save_folder(world.model, world.vae, world.tokenizer, base)
    model = world.copy()
    add_adapters(model, lora, 0)
    weights = {name: tensor + 0.01 for name, tensor in model.state_dict().items() if is_adapter(name)}
    write_trained(base, weights, tmp_path / "trained", lora)
    export_folder(tmp_path / "trained", tmp_path / "out", Origin("mine", recipe, BASE, "apache-2.0"))
    return tmp_path / "out"


def pattern(name: str) -> str:
    return re.sub(r"\.\d+\.", ".N.", name)


def released(name: str) -> set[str]:
    """Names of the released file, those of all layers as one."""
    return {pattern(line.split("\t")[0]) for line in (ROOT / "bagel" / name).read_text().splitlines()}


def stored(folder: Path) -> dict[str, torch.Tensor]:
    shards = map(load_file, folder.glob("model-*.safetensors"))
    return {name: tensor for shard in shards for name, tensor in shard.items()}


def head(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


# --- weights


def test_names_are_those_of_the_release_and_every_shard_is_in_the_index(exported):
    weights, index = stored(exported), json.loads((exported / "model.safetensors.index.json").read_text())
    assert {pattern(name) for name in weights} == released("bagel-keys-ema.txt")
    assert {pattern(name) for name in load_file(exported / "ae.safetensors")} <= released("bagel-keys-ae.txt")
    files = sorted(path.name for path in exported.glob("model-*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert set(index["weight_map"].values()) == set(files)
    for file in files:
        inside = load_file(exported / file)
        assert {name for name, where in index["weight_map"].items() if where == file} == inside.keys()
        assert len(inside) == 1 or sum(t.nbytes for t in inside.values()) <= 40_000
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in weights.values())


def test_weights_are_the_checkpoints_in_bf16_and_the_tables_are_exact(exported, finished):
    weights, source = stored(exported), load_file(finished / "models" / "rl" / "ema.safetensors")
    tables = {name for name in weights if name.endswith("pos_embed.pos_embed")}
    assert len(tables) == 2
    assert all(torch.equal(weights[name], source[name]) for name in tables)
    assert all(torch.equal(weights[name], source[name].bfloat16()) for name in weights.keys() - tables)
    assert {weights[name].dtype for name in weights.keys() - tables} == {torch.bfloat16}


def test_the_exported_folder_loads_as_the_checkpoint_does(exported, finished):
    mine, theirs = load_folder(exported), load_folder(finished / "models" / "rl")
    assert mine.model.config == theirs.model.config
    assert mine.tokenizer.encode("a red circle") == theirs.tokenizer.encode("a red circle")
    weight = theirs.model.llm2vae.weight
    assert torch.equal(mine.model.llm2vae.weight, weight.bfloat16().float())
    assert all(torch.equal(a, b) for a, b in zip(mine.autoencoder.parameters(), theirs.autoencoder.parameters()))


# --- settings and cards


def test_generate_draws_with_the_settings_of_the_run(irg_rl, exported, run, tmp_path):
    sampled = run.recipe.sampling.model_copy(update={"temperature": run.recipe.evaluation.temperature})
    for folder, out in ((exported, "exported"), (run.folder, "run")):
        answer = irg_rl("generate", folder, "--prompt", "a red circle", "--turns", 1, "--out", tmp_path / out)
        assert answer.code == 0, answer.err
    found, own = (json.loads((tmp_path / out / "settings.json").read_text()) for out in ("exported", "run"))
    assert found["sampling"] == own["sampling"] == sampled.model_dump(mode="json", exclude={"turns"})
    assert (found["guidance"], found["preset"]) == (own["guidance"], own["preset"])


def test_the_judge_of_a_run_s_evaluation_is_not_exported(exported, run, tmp_path, world):
    from irg_rl.commands.generate import released
    from irg_rl.config import changed_recipe
    from irg_rl.export.settings import GENERATION, OWN, exported_sections, write_settings

    folder = Path(shutil.copytree(exported, tmp_path / "judged"))
    judge = {"name": "eye", "kind": "judge"}
    judged = changed_recipe(run.recipe, {"rewards.scorers": [judge], "evaluation.preference": "eye"}, "test")
    write_settings(folder, judged, world.model.config, world.model.special)
    content = json.loads((folder / GENERATION).read_text())
    assert "preference" not in content[OWN]["evaluation"]
    content[OWN]["evaluation"]["preference"] = "eye"  # as older versions wrote it
    (folder / GENERATION).write_text(json.dumps(content))
    assert "preference" not in exported_sections(folder)["evaluation"]
    found = released(folder).evaluation
    assert found == judged.evaluation.model_copy(update={"preference": None})


def test_settings_that_cannot_be_are_named_with_their_folder(irg_rl, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "changed")
    for content, says in (("{", "generation_config.json"), ('{"irg_rl": []}', "irg_rl must hold the objects"),
                          ('{"irg_rl": {"sampling": {"pionts": 3}}}', "did you mean sampling.points?")):  # fmt: skip
        (folder / "generation_config.json").write_text(content)
        answer = irg_rl("generate", folder, "--prompt", "a", "--out", tmp_path / "out")
        assert answer.code == 1 and says in answer.err


def test_others_libraries_read_the_generation_settings(exported, world):
    from transformers import GenerationConfig

    settings = GenerationConfig.from_pretrained(exported)
    special = world.model.special
    assert (settings.bos_token_id, settings.eos_token_id) == (special.bos, special.eos)
    images = json.loads((exported / "preprocessor_config.json").read_text())
    assert images["vae"] == {"max_size": 32, "min_size": 16, "stride": 8}
    assert images["vit"] == {"max_size": 32, "min_size": 8, "stride": 8, "patch_size": 8}


def test_the_card_has_recipe_digest_data_and_results_with_intervals(exported, run):
    said = (exported / "README.md").read_text()
    assert head(said)["license"] == "other" and "base_model" not in head(said)
    assert f"| digest of the recipe | {run.recipe.digest()} |" in said and "| algorithm of RL | grpo |" in said
    assert "sources and weights: mode (1)" in said and "rewarded by verifier (verifier)" in said
    evaluated = json.loads((run.folder / "evaluation" / "rl.json").read_text())
    last = evaluated["arms"]["real"]["accuracy"][-1]
    row = next(line for line in said.splitlines() if line.startswith("| real | accuracy |"))
    assert row.count("|") == 5 and f"{last['value']:.3f} [{last['low']:.3f}, {last['high']:.3f}] n=4" in row
    assert "| redraw | accuracy |" in said and "| shuffled | accuracy |" in said


def test_no_path_of_this_machine_is_published(exported, adapted, run):
    for folder in (exported, adapted):
        for path in [*folder.rglob("*.json"), *folder.rglob("*.md")]:
            if path.name != "tokenizer.json":
                text = path.read_text()
                assert not re.search(r"(?<![\w:/])/(tmp|home|root|work)/", text), path
                assert "private" not in text and str(run.recipe.output_dir) not in text, path


def test_the_card_of_a_folder_outside_of_a_run_claims_nothing(irg_rl, world, tmp_path):
    save_folder(world.model, world.vae, world.tokenizer, tmp_path / "BAGEL-tiny")
    (tmp_path / "BAGEL-tiny" / "README.md").write_text("---\nlicense: mit\n---\n# Hello\n")
    answer = irg_rl("export", tmp_path / "BAGEL-tiny", "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    said = (tmp_path / "out" / "README.md").read_text()
    assert head(said)["license"] == "mit" and "| base | BAGEL-tiny |" in said
    assert "exported outside of a run" in said and "has not been evaluated" in said and "digest" not in said


@pytest.mark.parametrize(("text", "licence"), [
    ("---\nlicense: apache-2.0\nx: 1\n---\n", "apache-2.0"), ("---\r\nlicense: mit\r\n---\r\n", "mit"),
    ("no head", None), ("---\n[\n---\n", None), ("---\nlicense: [a]\n---\n", None), ("---\n- a\n---\n", None),
])  # fmt: skip
def test_the_licence_is_read_from_the_head_of_the_bases_card(tmp_path, text, licence):
    (tmp_path / "README.md").write_bytes(text.encode())
    assert licence_of(tmp_path) == licence
    assert licence_of(tmp_path / "nothing") is None


# --- adapters


def test_adapters_are_peft_s_by_name_and_card_and_name_the_base_by_its_published_name(adapted):
    from peft import PeftConfig

    folder = adapted / "adapter"
    names, known = load_file(folder / "adapter_model.safetensors").keys(), released("bagel-keys-ema.txt")
    found = [re.fullmatch(r"base_model\.model\.(.*)\.lora_[AB]\.weight", name) for name in names]
    layers = {match[1] for match in found if match is not None}
    assert len(names) == 2 * len(layers) == 2 * 2 * 2 * 7
    assert {f"{pattern(layer)}.weight" for layer in layers} <= known
    assert PeftConfig.from_pretrained(folder).base_model_name_or_path == BASE
    found = head((folder / "README.md").read_text())
    assert (found["library_name"], found["license"]) == ("peft", "apache-2.0") and "lora" in found["tags"]
    assert "already merged" in (adapted / "README.md").read_text()


def test_base_and_adapters_are_the_merged_model(adapted, world):
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(world.copy(), adapted / "adapter").merge_and_unload()
    weights = stored(adapted)
    for name, tensor in tuned.state_dict().items():
        torch.testing.assert_close(tensor, weights[name].float(), rtol=2**-8, atol=1e-6)


# --- what goes wrong


def test_a_folder_that_is_there_is_left_as_it_is_and_a_broken_model_leaves_nothing(finished, recipe, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    origin = Origin("a", recipe, BASE, None)
    with pytest.raises(InputError, match="is there already"):
        export_folder(finished / "models" / "rl", tmp_path / "out", origin)
    with pytest.raises(InputError, match="does not exist"):
        export_folder(tmp_path / "out", tmp_path / "new", origin)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_evaluation_of_another_kind_is_named(run):
    (run.folder / "evaluation" / "eval-rl-seed1.json").write_text('{"kind": "parity"}')
    with pytest.raises(InputError, match="eval-rl-seed1.json is no evaluation"):
        card.origin_of(run.folder / "models" / "rl", run.recipe, run, None, None)


def test_what_a_recipe_says_ends_no_table(recipe):
    origin = Origin("a", recipe.model_copy(update={"task": "a|b\nc"}), "x | y", None, stages={"rl": {"seconds": 1.0}})
    said = card.model_card(origin, 10, has_adapter=False)
    assert "| base | x \\| y |" in said and "Task: a\\|b c." in said
    assert head(card.model_card(replace(origin, licence="mit"), 10, False))["license"] == "mit"
