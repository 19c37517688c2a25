"""`irg-rl generate` with a tiny model that has learnt nothing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irg_rl.config import GuidanceRecipe
from irg_rl.driver.prepare import BASE
from irg_rl.driver.run_folder import Run
from irg_rl.model.folder import save_folder
from irg_rl.presets import PRESETS
from rollouts.request import StopPhrase
from tests.driver.begun import begun_run


@pytest.fixture
def run(world, tmp_path) -> Run:
    """A run after SFT whose evaluation is guided."""
    made = begun_run(
        world, tmp_path, sampling={"points": 4, "max_text_tokens": 6}, evaluation={"guidance": {"text_scale": 4.0}},
        rl={"noise": {"window_size": 1, "window_range": [0, 3]}},
    )  # fmt: skip
    shutil.copytree(made.path(BASE), made.path("models", "sft1"))
    return made


@pytest.fixture
def bare(world, tmp_path) -> Path:
    """A folder as BAGEL is released, outside of any run."""
    folder = tmp_path / "weights" / "BAGEL-tiny"
    folder.parent.mkdir()
    save_folder(world.model, world.vae, world.tokenizer, folder)
    return folder


@pytest.fixture
def drawn(irg_rl, tmp_path):
    """drawn(model, *options) -> the folder written and its settings."""

    def call(model: Path, *options: object, prompts=("a red circle",), name="out") -> tuple[Path, dict]:
        words = [word for prompt in prompts for word in ("--prompt", prompt)]
        answer = irg_rl("generate", model, *words, "--out", tmp_path / name, *options)
        assert answer.code == 0, answer.err
        return tmp_path / name, json.loads((tmp_path / name / "settings.json").read_text())

    return call


def pictures(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*_turn0.png"))])


@pytest.mark.parametrize(("words", "images"), [([], 1), (["--no-stop"], 3)])
def test_a_reflection_that_is_content_ends_a_trajectory_unless_told_otherwise(bare, drawn, monkeypatch, words, images):
    monkeypatch.setattr(StopPhrase, "__call__", lambda self, text: True)
    options = ["--turns", 3, "--points", 3, "--max-text-tokens", 4, "--preset", "cfg-free"]
    folder, settings = drawn(bare, *options, *words)
    assert settings["stop"] == (not words)
    assert settings["trajectories"][0]["images"] == images == len(list(folder.glob("*_turn*.png")))
    assert settings["trajectories"][0]["stopped"] == (not words)


def test_generate_guides_as_its_run_does_unless_told_otherwise(run, drawn):
    options = {"as_the_run": [], "told_the_same": ["--text-scale", 4], "unguided": ["--text-scale", 1]}
    made = {name: drawn(run.folder, "--turns", 1, *words, name=name) for name, words in options.items()}
    settings = made["as_the_run"][1]
    assert settings["guidance"]["text_scale"] == 4.0 and settings["device"] == "cpu" and settings["preset"] is None
    of_run = run.recipe.sampling.model_dump(mode="json", exclude={"turns"})
    assert settings["sampling"] == of_run | {"temperature": run.recipe.evaluation.temperature}
    images = {name: pictures(folder) for name, (folder, _) in made.items()}
    assert np.array_equal(images["as_the_run"], images["told_the_same"])
    assert not np.array_equal(images["as_the_run"], images["unguided"])


def test_a_preset_takes_the_place_of_the_runs_settings_and_an_option_that_of_the_presets(run, drawn):
    _, settings = drawn(run.folder, "--preset", "irg", "--points", 3, "--image-scale", 1.5, "--turns", 1)
    assert settings["preset"] == "irg"
    assert settings["guidance"] == PRESETS["irg"]["guidance"] | {"image_scale": 1.5}
    expected = {"points": 3, "shift": 3.0, "temperature": 0.3, "max_text_tokens": 6, "image_size": [24, 24]}
    assert {name: settings["sampling"][name] for name in expected} == expected


def test_the_points_and_the_shift_that_are_written_are_those_that_were_drawn_with(run, drawn):
    options = {"plain": [], "points": ["--points", 9], "shift": ["--shift", 5], "again": ["--shift", 1, "--points", 4]}
    images = {name: pictures(drawn(run.folder, "--turns", 1, *words, name=name)[0]) for name, words in options.items()}
    assert np.array_equal(images["plain"], images["again"])
    assert not np.array_equal(images["plain"], images["points"])
    assert not np.array_equal(images["plain"], images["shift"])


def test_a_released_folder_outside_of_a_run_is_sampled_as_irg(bare, drawn):
    prompts = ("a red circle", "two blue squares above a green triangle")
    folder, settings = drawn(bare, "--points", 3, "--max-text-tokens", 5, "--seed", 7, prompts=prompts)
    assert settings["model"] == str(bare) and settings["dtype"] == "torch.float32"
    assert (settings["preset"], settings["seed"], settings["turns"]) == ("irg", 7, 2)
    assert settings["guidance"] == PRESETS["irg"]["guidance"]
    assert settings["sampling"]["system_prompt"].startswith("You should first think about the planning process")
    assert [(t["id"], t["prompt"]) for t in settings["trajectories"]] == [("cli-0", prompts[0]), ("cli-1", prompts[1])]
    sheet = Image.open(folder / "sheet.png")
    assert sheet.size == (2 * 136 + 8, 2 * 136)  # a line per prompt; 32 pixels four times as large, in frames
    for number, trajectory in enumerate(settings["trajectories"]):
        assert trajectory["images"] == 2 and [text["turn"] for text in trajectory["texts"]] == [0, 1]
        for turn in (0, 1):
            image = Image.open(folder / f"{number:03d}_turn{turn}.png")
            assert image.size == (32, 32), "the largest square that the position table holds"
        lines = (folder / f"{number:03d}.txt").read_text()
        assert lines.startswith(f"{prompts[number]}\n[0] ") and "\n[1] " in lines


def test_what_a_run_would_say_can_be_said_for_a_bare_folder(bare, drawn):
    options = ("--preset", "cfg-free", "--points", 3, "--max-text-tokens", 4, "--size", 16, 24, "--history", "full",
               "--system-prompt", "Draw.", "--temperature", 0.5)  # fmt: skip
    folder, settings = drawn(bare, *options)
    assert Image.open(folder / "000_turn1.png").size == (24, 16)
    assert settings["guidance"]["text_scale"] == 1.0
    assert settings["sampling"] == {
        "points": 3, "shift": 3.0, "temperature": 0.5, "max_text_tokens": 4, "image_size": [16, 24], "history": "full",
        "system_prompt": "Draw.",
    }  # fmt: skip


def test_the_written_settings_and_seed_draw_the_same_again(bare, drawn):
    first, settings = drawn(bare, "--points", 3, "--max-text-tokens", 4, "--seed", 3, name="first")
    sampling, guidance = settings["sampling"], GuidanceRecipe(**settings["guidance"])
    second, again = drawn(
        bare, "--points", sampling["points"], "--shift", sampling["shift"], "--temperature", sampling["temperature"],
        "--max-text-tokens", sampling["max_text_tokens"], "--text-scale", guidance.text_scale, "--seed", 3,
        name="second",
    )  # fmt: skip
    assert again == settings
    assert np.array_equal(pictures(first), pictures(second))
    other, _ = drawn(bare, "--points", 3, "--max-text-tokens", 4, "--seed", 4, name="other")
    assert not np.array_equal(pictures(first), pictures(other))


@pytest.mark.parametrize(("options", "says"), [
    (["--text-scale", 1, "--image-scale", 2], "guidance.image_scale 2.0 has no effect without text guidance"),
    (["--preset", "igr"], "evaluation.preset: unknown preset 'igr'; did you mean irg?"),
    (["--size", 20, 20], "sampling.image_size [20, 20]: sides must be multiples of 8 pixels"),
    (["--history", "none"], "sampling.history: Input should be 'full' or 'last'"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused_before_anything_is_written(run, irg_rl, tmp_path, options, says):
    answer = irg_rl("generate", run.folder, "--prompt", "a red circle", "--out", tmp_path / "out", *options)
    assert answer.code == 1 and says in answer.err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_weights_is_named(irg_rl, tmp_path):
    answer = irg_rl("generate", tmp_path, "--prompt", "a red circle", "--out", tmp_path / "out")
    assert answer.code == 1 and f"{tmp_path}: not a model folder (ema.safetensors, whole or in shards)" in answer.err
