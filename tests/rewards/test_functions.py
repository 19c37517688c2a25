"""A function with the right parameters is a scorer."""

import inspect

import numpy as np
import pytest

from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt
from rewards.build import ScorerSpec, check_spec
from rewards.functions import form_of
from rewards.hub import RewardHub
from tests.rewards import functions

HERE = "tests.rewards.functions"
PROMPT = Prompt("p", "a circle")
IMAGES = [np.full((4, 4, 3), level, np.uint8) for level in (0, 51, 255)]


def hub(function: str, of: str, **options) -> RewardHub:
    return RewardHub([{"name": "own", "kind": f"{HERE}:{function}", "of": of, **options}])


def test_a_function_of_images_scores_them_with_its_options():
    assert hub("brightness", "image", scale=2).score(IMAGES, [PROMPT] * 3) == {"own": [0.0, 0.4, 2.0]}


def test_a_function_of_reflections_may_fail_for_some():
    scorer = hub("letters", "reflection")
    assert scorer.score_reflections(IMAGES, [PROMPT] * 3, ["ab", "?", "abc"]) == {"own": [2.0, None, 3.0]}
    assert scorer.scorers["own"].last_error == "its function returned None"


def test_a_function_of_edits_gets_both_images():
    found = hub("brightened", "edit").score_edits(IMAGES[:2], ["", ""], IMAGES[1:], [PROMPT] * 2)
    assert found == {"own": [51.0, 204.0]}


def test_a_function_of_a_group_gets_all_images_at_once():
    assert hub("ranks", "group").score_siblings(IMAGES[::-1], PROMPT) == {"own": [2.0, 1.0, 0.0]}


def test_a_function_that_makes_a_scorer_is_called_with_its_name():
    found = hub("factory", "image").scorers["own"]
    assert type(found).__name__ == "Brightness" and found.name == "own"


def test_a_class_is_told_from_a_function():
    kind = "tests.rewards.scorers:Brightness"
    assert RewardHub([{"name": "b", "kind": kind}]).score(IMAGES, [PROMPT] * 3) == {"b": [0.0, 0.2, 1.0]}


@pytest.mark.parametrize(
    ("function", "of", "options", "says"),
    [
        ("brightness", "reflection", {}, r"parameters \(images, prompts, scale\) does not score of: reflection"),
        ("letters", "image", {}, r"parameters \(images, prompts, texts\) does not score of: image"),
        ("shades", "image", {}, r"parameters \(pictures\) does not score of: image; functions begin with"),
        ("agrees", "image", {}, "does not score of: image"),
        ("brightness", "image", {"scael": 2}, "no option 'scael'; did you mean 'scale'"),
        ("brightness", "image", {"scale": "bright"}, "option scale: "),
        ("agrees", "reflection", {"conversational": 3}, "option conversational: "),
    ],
)
def test_a_function_that_does_not_fit_is_refused_before_anything_runs(function, of, options, says):
    with pytest.raises(InputError, match=says):
        check_spec(ScorerSpec("own", f"{HERE}:{function}", of=of, options=options))


@pytest.mark.parametrize(
    ("name", "form"),
    [("brightness", "image"), ("letters", "reflection"), ("brightened", "edit"), ("ranks", "group"),
     ("agrees", "reflection"), ("penalty", "reflection"), ("shades", None)],
)  # fmt: skip
def test_the_first_parameters_say_what_is_scored(name, form):
    assert form_of(inspect.signature(vars(functions)[name])) == form
