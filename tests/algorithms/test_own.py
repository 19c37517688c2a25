"""Algorithms from outside the package, and what an algorithm declares about its need of denoising steps."""

import pickle
from pathlib import Path

import pytest
import torch

from irg_rl.algorithms.base import algorithm_of
from irg_rl.algorithms.learner import Learner
from irg_rl.config import changed_recipe, parse_recipe
from irg_rl.driver.critic import CreditSettings
from irg_rl.driver.rl_settings import learner_settings, worker_settings
from irg_rl.learner.policy import evaluate_texts, velocities
from irg_rl.model.folder import save_folder
from irg_rl.plan.worst_case import trained_steps
from irg_rl.trajectory import Group
from tests.driver.begun import begun_run
from tests.learner.world import SAMPLING

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RL = {"groups": 1, "group_size": 2, "noise": None, "optimizer": {"lr": 2e-3}, "max_pack_tokens": 400}


@pytest.fixture
def folder(world, tmp_path):
    save_folder(world.model, world.vae, world.tokenizer, tmp_path / "base")
    return str(tmp_path / "base")


def recipe_of(world, tmp_path, **rl):
    """A run's recipe that samples as the tiny world does."""
    recipe = begun_run(world, tmp_path, rl=RL | rl).recipe
    return parse_recipe(recipe.model_dump(mode="json") | {"sampling": SAMPLING.model_dump(mode="json")})


def started(recipe, folder) -> Learner:
    learner = Learner(learner_settings(recipe, folder))
    learner.setup()
    return learner


def likelihood(learner, world, trajectories) -> list[float]:
    """Mean log-probability of each trajectory's texts under the learner's weights."""
    found = []
    for trajectory in trajectories:
        (replay,) = world.replay().packs([trajectory])
        with torch.no_grad():
            scores = evaluate_texts(learner.engine.model(replay.pack), replay, world.law(noise=None))
        found.append(float(torch.cat([score.logprobs for score in scores]).mean()))
    return found


def test_an_algorithm_of_one_s_own_is_named_by_its_path_and_one_update_trains_what_ended_right(
    world, folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(EXAMPLES)  # the working folder is searched last
    recipe = recipe_of(world, tmp_path, algorithm="raft:RAFT", options={"threshold": 0.5, "times_per_image": 2})
    algorithm = algorithm_of(recipe)
    run = begun_run(world, tmp_path / "other", rl=RL | {"algorithm": "raft:RAFT"})
    assert not worker_settings(run.recipe, "base").record_steps
    assert (trained_steps(recipe), recipe.rl.credit, algorithm.forwards("fp32")) == (2, None, {"trained": 1})
    again = pickle.loads(pickle.dumps(algorithm))
    assert type(again).__name__ == "RAFT" and again.options.threshold == 0.5 and again.shared == algorithm.shared

    drawn = world.sample(2, noise=None, record_steps=False)
    for trajectory, last in zip(drawn, (1.0, 0.0)):
        trajectory.rewards = {"verifier": [0.0] * (trajectory.turns - 1) + [last]}
    group = Group(0, drawn[0].prompt, drawn)
    selection = algorithm.select(group, lambda: pytest.fail("RAFT takes no credit"))
    assert selection.has_spread and not selection.empty
    assert [{s.advantage for s in t.segments} for t in drawn] == [{1.0}, {None}]

    learner = started(recipe, folder)
    learner.check_ratio(group)
    before = likelihood(learner, world, drawn)
    first = learner.train(group)
    assert first["text/turn0/count"] == len(drawn[0].texts[0].ids) and first["loss/image"] > 0
    for _ in range(3):
        last = learner.train(group)
    assert likelihood(learner, world, drawn)[0] > before[0] and last["loss/text"] < first["loss/text"]


def test_its_loss_is_likelihood_and_flow_matching(world, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    learner = started(recipe_of(world, tmp_path, algorithm="raft:RAFT"), folder)
    drawn = world.sample(1, noise=None, record_steps=False)
    for segment in drawn[0].segments:
        segment.advantage = 1.0
    [(packs, loss)] = learner.settings.algorithm.minibatches(learner.context, [Group(0, drawn[0].prompt, drawn)], {}, 1)
    totals, text, image = loss.denominators(), 0.0, 0.0
    found = {"text": 0.0, "image": 0.0}
    for index, (pack, replay) in enumerate(zip(packs, loss._replays)):
        output = learner.engine.model(pack)
        for name, term in loss(output, index, totals).terms.items():
            found[name] += float(term.detach())
        scores = evaluate_texts(output, replay, world.law(noise=None))
        text -= sum(float(score.logprobs.detach().sum()) for score in scores)
        for ref, v in zip(replay.images, velocities(output, replay)):
            one = ref.of(loss._trajectories)
            steps = list(ref.steps)
            noise = (one.x[steps] - (1 - one.t[steps])[:, None, None] * one.drawn) / one.t[steps][:, None, None]
            image += float(((v.detach() - (noise - one.drawn)) ** 2).mean((1, 2)).sum())
    assert found["text"] == pytest.approx(text / totals["text"], rel=1e-4)
    assert found["image"] == pytest.approx(image / totals["image"], rel=1e-4)


def test_without_an_image_weight_grpo_records_no_steps_builds_no_noise_blocks_and_trains_the_texts(
    world, folder, tmp_path
):
    recipe = recipe_of(world, tmp_path, image_weight=0.0)
    assert not algorithm_of(recipe).records_steps and trained_steps(recipe) == 0
    both = changed_recipe(recipe, {"rl.image_weight": 1.0, "rl.noise": {"window": "all"}}, "both")
    assert algorithm_of(both).records_steps and trained_steps(both) == 5
    run = begun_run(world, tmp_path / "other", rl=RL | {"image_weight": 0.0})
    assert not worker_settings(run.recipe, "base").record_steps
    drawn = world.sample(2, noise=None, record_steps=False)
    group = Group(0, drawn[0].prompt, drawn)
    learner = started(recipe, folder)
    rows = learner.check_ratio(group)
    assert {row["modality"] for row in rows} == {"text"}
    assert all(not made.images for made in learner.context.packs(drawn))
    before = likelihood(learner, world, drawn)
    metrics = learner.train(group)
    after = likelihood(learner, world, drawn)
    assert after[0] > before[0] and after[1] < before[1]  # advantages are positive and negative
    assert metrics["loss/image"] == 0 and not any(name.startswith("image/") for name in metrics)


def test_a_scheme_from_outside_gives_a_run_s_groups_their_credit(world, tmp_path):
    recipe = recipe_of(world, tmp_path, credit="tests.test_credit:OWN", image_weight=0.0)
    drawn = world.sample(2, noise=None, record_steps=False)
    for trajectory, last in zip(drawn, (1.0, 0.0)):
        trajectory.rewards = {"verifier": [0.5] * (trajectory.turns - 1) + [last]}
    summary = CreditSettings.of(recipe).give(Group(0, drawn[0].prompt, drawn))
    assert summary.has_spread and drawn[0].segments[0].advantage is None
    assert [t.segments[-1].advantage for t in drawn] == [0.5, -0.5]
