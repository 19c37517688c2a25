"""A task from outside of the package: named by its import path, it is prompts, verdicts and a scorer."""

import numpy as np
import pytest

from irg_rl.config import RecipeError, parse_recipe
from irg_rl.driver.checks import task_problems
from irg_rl.driver.evaluator import Evaluator, held_out_prompts
from irg_rl.driver.prepare import load_model, make_world, prompts_of
from irg_rl.driver.stages import evaluate, tracker_of
from irg_rl.task import World, task_of
from rewards.build import ScorerSpec, build_scorer
from tests.driver.begun import begun_run
from tests.learner.world import CONFIG

OWN = {"task": "tests.tasks.bright:Bright", "task_options": {"walls": 5, "limit": 0.4}, "init_from": "folder"}


def recipe(**sections):
    return parse_recipe({"name": "mine", "model": CONFIG.model_dump(mode="json")} | OWN | sections)


def test_its_options_are_typed_and_written_down_with_their_defaults():
    made = recipe(task_options={"walls": 3})
    assert made.model_dump(mode="json")["task_options"] == {"limit": 0.5, "walls": 3}
    assert parse_recipe(made.model_dump(mode="json")) == made and made.digest() != recipe().digest()


@pytest.mark.parametrize(("sections", "says"), [
    ({"task_options": {"wals": 3}}, "task_options.wals: unknown setting; did you mean task_options.walls?"),
    ({"task_options": {"limit": 2}}, "task_options.limit: Input should be less than or equal to 1"),
    ({"task": "tests.tasks.bright:Dark"}, "task: task 'tests.tasks.bright:Dark' cannot be imported"),
    ({"task": "promts"}, "task: unknown task 'promts'; did you mean prompts?"),
])  # fmt: skip
def test_a_mistake_is_named_when_the_recipe_is_read(sections, says):
    with pytest.raises(RecipeError) as caught:
        recipe(**sections)
    assert says in str(caught.value)


def test_it_is_no_world_so_a_recipe_has_to_bring_model_and_rows():
    assert not isinstance(task_of(recipe()), World) and task_problems(recipe()) == []
    assert any("init_from" in problem for problem in task_problems(recipe(init_from=None)))


def test_a_run_makes_its_prompts_and_evaluates_by_its_verdicts(world, tmp_path):
    scorers = {"scorers": [{"name": "verifier", "kind": "verifier"}]}
    evaluation = {"prompts": 3, "turns": 2, "strips": 1}
    run = begun_run(
        world, tmp_path, **OWN, sampling={"image_size": [16, 24], "points": 3, "max_text_tokens": 6}, rewards=scorers,
        evaluation=evaluation, tracking={"wandb": False}, rl={"noise": {"window_size": 1, "window_range": [0, 2]}},
    )  # fmt: skip
    run.recipe = run.recipe.model_copy(update={"init_from": str(run.path("models", "base"))})
    make_world(run)
    assert [prompt.id for prompt in prompts_of(run, "train")] == [f"train-{n}" for n in range(5)]
    facts: dict = {}
    with tracker_of(run) as tracker:
        evaluate(run, "base", tracker, facts)
    assert facts["gate"] is None and len(facts["accuracy_per_turn"]) == 2
    measured = Evaluator(run, run.recipe.evaluation).evaluate(
        load_model(run, "base"), "again", held_out_prompts(run, "test")
    )
    real = measured.evaluation.arms["real"]
    light = [t.images[0].pixels.numpy().mean() / 255 for t in measured.trajectories]
    assert real.score[:, 0] == pytest.approx(light) and (real.correct == (real.score >= 0.4)).all()


def test_a_scorer_of_its_verdicts_needs_only_what_a_recipe_says():
    spec = {"task": OWN["task"], "task_options": {"limit": 0.4}, "seed": 0, "image_size": [16, 24]}
    scorer = build_scorer(ScorerSpec("verifier", "verifier", options=spec))
    assert scorer.score([np.full((16, 24, 3), 51, np.uint8)], [task_of(recipe()).prompts("test")[0]]) == [0.2]
