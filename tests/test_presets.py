"""Presets in a recipe: what they stand for, and who wins where they meet other settings."""

from pathlib import Path

import pytest
import yaml

from irg_rl.config import EvaluationRecipe, GuidanceRecipe, Recipe, RecipeError, changed_recipe, load_recipe
from irg_rl.presets import PRESETS

SMOKE = Path(__file__).resolve().parents[1] / "configs" / "shapes-smoke.yaml"


def of_file(folder: Path, evaluation: dict, *overrides: str) -> Recipe:
    """The smoke recipe with another `evaluation` section."""
    data = yaml.safe_load(SMOKE.read_text()) | {"evaluation": {"prompts": 8} | evaluation}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    return load_recipe(path, overrides)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_leaves_no_part_of_sampling_open(name):
    """What it does not name would come from elsewhere, and the name would not say how it was sampled."""
    preset = PRESETS[name]
    assert set(preset) == {"temperature", "points", "shift", "noise", "guidance"}
    assert set(preset["guidance"]) == set(GuidanceRecipe.model_fields)


@pytest.mark.parametrize(
    ("name", "text", "image", "temperature", "refined"),
    [
        ("irg", 4.0, 2.0, 0.3, ((0.0, 1.0), "text_channel")),
        ("irg-paper", 2.0, 2.0, 0.3, ((0.0, 1.0), "text_channel")),
        ("bagel-t2i", 4.0, 1.0, 0.0, ((0.4, 1.0), "global")),
        ("cfg-free", 1.0, 1.0, 0.0, ((0.4, 1.0), "global")),
    ],
)
def test_presets_are_the_references_numbers(name, text, image, temperature, refined):
    settings = EvaluationRecipe(preset=name)
    guidance = settings.guidance
    assert (guidance.text_scale, guidance.image_scale, settings.temperature) == (text, image, temperature)
    assert (guidance.first_interval, guidance.first_renorm, guidance.renorm_min) == ((0.4, 1.0), "global", 0.0)
    assert (guidance.interval, guidance.renorm) == refined
    assert (settings.points, settings.shift) == (50, 3.0)
    assert guidance.is_on is (name != "cfg-free")


def test_a_preset_draws_without_noise_whatever_the_file_says(tmp_path):
    file = {"noise": {"kind": "cps", "noise_level": 0.9, "window": "all"}}
    assert of_file(tmp_path, file).evaluation.noise.noise_level == 0.9
    assert of_file(tmp_path, file, "evaluation.preset=irg").evaluation.noise is None


def test_what_stands_beside_a_preset_in_a_file_counts_more(tmp_path):
    beside = {"preset": "irg", "points": 8, "guidance": {"text_scale": 3.0}}
    settings = of_file(tmp_path, beside).evaluation
    assert (settings.points, settings.guidance.text_scale) == (8, 3.0)
    assert (settings.shift, settings.guidance.image_scale, settings.temperature) == (3.0, 2.0, 0.3)


def test_a_preset_as_an_override_replaces_the_files_settings_but_not_those_beside_it(tmp_path):
    file = {"points": 8, "temperature": 0.5, "guidance": {"text_scale": 3.0, "renorm": "channel"}}
    for overrides in (
        ["evaluation.points=9", "evaluation.preset=irg"],
        ["evaluation.preset=irg", "evaluation.points=9"],
    ):
        settings = of_file(tmp_path, file, *overrides).evaluation
        assert settings == EvaluationRecipe(preset="irg", points=9, prompts=8)


def test_a_resolved_recipe_can_be_given_another_preset(tmp_path):
    """As `fork`, `eval` and `generate` do, whose recipes state every setting."""
    resolved = of_file(tmp_path, {"preset": "irg", "turns": 3})
    again = changed_recipe(resolved, {"evaluation.points": 9, "evaluation.preset": "irg-paper"}, "here")
    assert again.evaluation == EvaluationRecipe(preset="irg-paper", points=9, turns=3, prompts=8)


def test_settings_beside_a_preset_leave_the_preset_as_it_is(tmp_path):
    resolved = of_file(tmp_path, {"preset": "irg"})
    changed = {"evaluation.preset": "irg", "evaluation.guidance.text_scale": 9.0}
    assert changed_recipe(resolved, changed, "here").evaluation.guidance.text_scale == 9.0
    assert EvaluationRecipe(preset="irg").guidance.text_scale == 4.0


def test_without_a_preset_nothing_changes(tmp_path):
    settings = of_file(tmp_path, {}).evaluation
    assert settings.preset is settings.points is settings.shift is None
    assert settings.guidance == GuidanceRecipe()


@pytest.mark.parametrize(("name", "says"), [
    ("igr", "unknown preset 'igr'; did you mean irg?"),
    ("bagel_t2i", "unknown preset 'bagel_t2i'; did you mean bagel-t2i?"),
    ("xyzzy", "unknown preset 'xyzzy'; known: irg, irg-paper, bagel-t2i, cfg-free"),
])  # fmt: skip
def test_an_unknown_preset_is_named_with_the_nearest(name, says):
    with pytest.raises(RecipeError) as caught:
        load_recipe(SMOKE, [f"evaluation.preset={name}"])
    assert f"evaluation.preset: {says}" in str(caught.value)


def test_a_preset_that_is_no_name_is_refused():
    with pytest.raises(RecipeError, match=r"evaluation\.preset: Input should be a valid string"):
        load_recipe(SMOKE, ["evaluation.preset=[irg]"])


def test_the_digest_is_of_the_values_and_not_of_the_name(tmp_path):
    values = PRESETS["irg"]
    assert of_file(tmp_path, {"preset": "irg"}).digest() == of_file(tmp_path, values).digest()
    assert of_file(tmp_path, {"preset": "irg"}).digest() != of_file(tmp_path, {"preset": "irg-paper"}).digest()
    assert of_file(tmp_path, {"points": 7}).digest() != of_file(tmp_path, {}).digest()
