"""`irg-rl verify` from the command to the page, on a sound folder and on broken ones."""

import json

import pytest

from irg_rl.verify.run import CHECKS
from tests.report.page import Page
from tests.verify.conftest import SMALL

NEEDS_KNOWN_WEIGHTS = {"language", "vision", "autoencoder"}
NEEDS_GPU = {"memory and time"}


@pytest.fixture(scope="module")
def verified(sound, tmp_path_factory):
    """verify.json and the page of a sound folder, made by the command's own function."""
    from irg_rl.commands.verify import verify_folder

    out = tmp_path_factory.mktemp("verified")
    verify_folder(sound, out, SMALL, None)
    return out


def statuses(out) -> dict[str, str]:
    return {check["name"]: check["status"] for check in json.loads((out / "verify.json").read_text())["checks"]}


def test_a_sound_folder_passes_every_check_that_is_possible_here(verified):
    found = statuses(verified)
    assert list(found) == [check.name for check in CHECKS]
    impossible = {name for name, status in found.items() if status == "not possible here"}
    assert impossible == NEEDS_KNOWN_WEIGHTS | NEEDS_GPU
    assert {status for name, status in found.items() if name not in impossible} == {"passed"}
    assert [path.name for path in sorted(verified.iterdir())] == ["verify.html", "verify.json"]


def test_the_page_shows_every_check_the_two_drawn_images_and_both_texts(verified):
    page = Page((verified / "verify.html").read_text())
    assert not page.unclosed
    assert page.sections == ["overview", *(check.name.replace(" ", "-") for check in CHECKS), "machine"]
    drawn = [image["alt"] for image in page.all("img")]
    assert {"image 1", "image 2", "given", "came back"} <= set(drawn)
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert "think text" in page.text and "reflection" in page.text and "7 checks" not in page.text


def test_a_cut_shard_fails_its_checks_stops_no_other_and_shows_no_path(irg_rl, folder, tmp_path):
    weights = folder / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    answer = irg_rl("verify", folder, "--out", tmp_path / "out")
    assert answer.code == 1
    assert "2 of 15 checks failed: keys and shapes, weights" in answer.err
    found = statuses(tmp_path / "out")
    assert found.pop("keys and shapes") == found.pop("weights") == "failed" and found.pop("tokenizer") == "passed"
    assert set(found.values()) == {"not possible here"}
    said = (tmp_path / "out" / "verify.json").read_text() + (tmp_path / "out" / "verify.html").read_text()
    assert "<folder>/ema.safetensors cannot be read" in said
    assert not [place for place in (str(tmp_path), "/tmp", "/home", "/root") if place in said]


def test_a_permuted_weight_is_found_by_the_reference_while_all_else_goes_on(irg_rl, verified, folder, tmp_path):
    from tests.verify.test_tensors import permute

    permute(folder, "language_model.model.layers.1.mlp.down_proj.weight")
    answer = irg_rl("verify", folder, *SMALL, "--out", tmp_path / "out", "--against", verified / "verify.json")
    assert answer.code == 1
    found = statuses(tmp_path / "out")
    assert {name for name, status in found.items() if status == "failed"} == {"weights", "language", "vision"}
    assert found["generation"] == found["update"] == found["sft"] == "passed"
    assert "layers.1.mlp.down_proj.weight" in answer.out


def test_a_wrong_setting_and_a_wrong_reference_are_errors_before_anything_is_checked(irg_rl, folder, tmp_path):
    answer = irg_rl("verify", folder, "rl.groupsize=3", "--out", tmp_path / "out")
    assert answer.code == 1 and "did you mean rl.group_size?" in answer.err
    answer = irg_rl("verify", folder, "--against", folder / "config.json", "--out", tmp_path / "out")
    assert answer.code == 1 and "config.json is no verify.json" in answer.err
    answer = irg_rl("verify", tmp_path / "nothing", "--out", tmp_path / "out")
    assert answer.code == 1 and "is not a folder" in answer.err
    assert not list(tmp_path.glob("out/verify.*"))
