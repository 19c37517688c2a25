"""Recipes of data sets: shipped ones are whole, mistakes are named, and only what changes the data is in the digest."""

import pytest
import yaml

from irg_rl.config import RecipeError
from irg_rl.config.data import DataRecipe, load_data_recipe
from irg_rl.config.shipped import shipped_data_recipes, shipped_recipes
from tests.paths import CONFIGS

FILES = sorted((CONFIGS / "data").glob("*.yaml"))


def problems(*overrides: str, name: str = "irgl") -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_data_recipe(name, overrides)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_data_recipe_is_valid_and_has_its_own_name(file):
    recipe = load_data_recipe(file.stem)
    assert recipe == load_data_recipe(file) and recipe.description and recipe.budget.calls
    assert file.stem in shipped_data_recipes() and file.stem not in shipped_recipes()


def test_a_recipe_written_out_is_read_as_the_same(tmp_path):
    recipe = load_data_recipe("irgl", ["images.settings.sampling.shift=2.5"])
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert load_data_recipe(tmp_path / "again.yaml") == recipe
    assert recipe.images.settings["sampling.shift"] == 2.5
    assert recipe.images.settings["sampling.image_size"] == [1024, 1024]


@pytest.mark.parametrize(("override", "problem"), [
    ("teacher.langage=de", "teacher.langage: unknown setting; did you mean teacher.language?"),
    ("techer={}", "techer: unknown setting; did you mean teacher?"),
    ("langage=de", "langage: unknown setting; known here: budget, concurrency, description, images, improve, keep, "
                   "out, prompts, rows, seed, teacher"),
    ("language=de", "language: unknown setting; did you mean teacher.language?"),
    ("keep.judge.logprob=true", "keep.judge.logprob: unknown setting; did you mean keep.judge.logprobs?"),
    ("images.settings.sampling.shfit=3", "images.settings.sampling.shfit: unknown setting; did you mean "
                                         "images.settings.sampling.shift?"),
    ("images.settings.smapling.shift=3", "images.settings.smapling: unknown setting; did you mean "
                                         "images.settings.sampling?"),
    ("teacher.language=tlh", "teacher.language: 'tlh': choose en, de, es, fr, it, pt, ru, zh, ja, ko"),
    ("teacher.think_question=plan?", "teacher.think_question: the question lacks {prompt}: the teacher would not know "
                                     "what the image is for"),
    ("teacher.mind=a:b", "teacher: give base_url, the address of a server, or mind, but not both"),
    ("images.folder=here", "images: give folder, a folder of images, or model, which draws them, but not both"),
    ("improve.by=folder", "improve: by: folder needs the setting folder"),
    ("improve.folder=here", "improve: folder: no effect with by: model"),
    ("rows.modes=[improving_ful_learning]", "rows.modes: 'improving_ful_learning' is no learning mode; did you mean "
                                            "improving_full_learning?"),
    ("keep.true_at_least=1.5", "keep.true_at_least: Input should be less than or equal to 1 (given: 1.5)"),
    ("teacher.extra_body.top_p=.nan", "teacher.extra_body: top_p: a setting must be finite, not NaN or infinity"),
])  # fmt: skip
def test_a_mistake_is_named(override, problem):
    assert problems(override) == [problem]


def test_nobody_redraws_without_a_model(tmp_path):
    settings = yaml.safe_load((CONFIGS / "data" / "irgl.yaml").read_text())
    settings["images"] = {"folder": "images"}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(settings))
    assert problems(name=str(tmp_path / "r.yaml")) == ["improve.by: model needs improve.model, or images.model"]
    assert load_data_recipe(tmp_path / "r.yaml", ["improve.model=BAGEL"]).redrawing_model == "BAGEL"


def test_a_recipe_that_is_not_there_is_named():
    with pytest.raises(RecipeError, match="nowhere: no such recipe; `irg-rl ls` lists all"):
        load_data_recipe("nowhere")
    with pytest.raises(RecipeError, match="igrl: no such recipe; did you mean irgl?"):
        load_data_recipe("igrl")


def test_an_override_that_cannot_be_applied_is_named():
    with pytest.raises(RecipeError, match=r"'prompts.exclude.x=1': cannot be applied"):
        load_data_recipe("irgl", ["prompts.exclude.x=1"])


def test_a_short_name_of_training_recipes_is_none_here():
    """`prompts` was taken for evaluation.prompts."""
    assert load_data_recipe("irgl", ["prompts={file: other.jsonl}"]).prompts.file == "other.jsonl"


@pytest.mark.parametrize(("override", "changes"), [
    ("out=elsewhere", False),
    ("budget.calls=7", False),
    ("concurrency=3", False),
    ("teacher.base_url=http://other:1/v1", False),
    ("keep.judge.timeout_s=7", False),
    ("teacher.model=other", True),
    ("teacher.extra_body.temperature=0.1", True),
    ("keep.shows_at_least=0.6", True),
    ("seed=1", True),
])  # fmt: skip
def test_only_what_changes_the_data_is_in_the_digest(override, changes):
    digests = [recipe.digest() for recipe in map(changed, ([], [override]))]
    assert (digests[0] != digests[1]) == changes


def changed(overrides: list[str]) -> DataRecipe:
    return load_data_recipe("irgl", overrides)
