"""Gradients of credit schemes at one checkpoint, on the same renders, without training anything."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from irg_rl.algorithms.learner import Learner
from irg_rl.commands.study import learning_setup_of
from irg_rl.config import changed_recipe
from irg_rl.credit import SCHEMES, assign
from irg_rl.driver.scorers import spec_of
from irg_rl.errors import InputError
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.studies.credit import JUDGE, Credit, Gradients, disturb, rows_of
from irg_rl.studies.settings import CreditStudySettings
from rewards.hub import RewardHub
from rewards.segments import score_segments
from tests.studies.frames import frame_of

SETTINGS = CreditStudySettings(schemes=["trajectory", "turn"], noises=[0.0, 0.5], batches=4)


@pytest.fixture
def study(bench, tmp_path) -> Credit:
    """A judge that likes bright images: the checker calls all of a random model's images alike."""

    def brightness(images, prompts):
        found = bench.verify(images, prompts)
        return [replace(one, score=float(image.mean() / 255)) for one, image in zip(found, images)]

    prompts = make_prompts(SETTINGS.needed, "test", seed=0)
    given = dict(prompts=prompts, verify=brightness, learning=learning_setup_of, scratch=tmp_path)
    return Credit(replace(bench, **given), SETTINGS)


def changed(study: Credit, changes: dict) -> Credit:
    """The same study of a subject with another recipe; how it is evaluated stays."""
    (subject,) = study.bench.subjects
    other = replace(subject, recipe=changed_recipe(subject.recipe, changes, "the test"))
    return Credit(replace(study.bench, subjects=[other]), study.settings)


@pytest.mark.parametrize("changes", [{"sampling.temperature": 0.5}, {"rl.points": 4}])
def test_what_rl_draws_by_names_the_cells(study, changes):
    digests = [{cell.digest("credit") for cell in one.cells()} for one in (study, changed(study, changes))]
    assert not set.intersection(*digests) and len(digests[0]) == 4


def test_groups_are_drawn_as_rl_draws_them(study):
    other = changed(study, {"sampling.temperature": 0.5, "rl.points": 4})
    (subject,) = other.bench.subjects
    groups = [group for number in range(SETTINGS.batches) for group in other._batch(subject, number)]
    law = learning_setup_of(subject).learner.law
    assert all(trajectory.law == law for group in groups for trajectory in group.trajectories)
    assert law.temperature == 0.5 and law.t_second == pytest.approx(2 / 3)
    assert [group.prompt.id for group in groups] == [prompt.id for prompt in other.bench.prompts]


def test_a_failed_reward_is_no_number(study):
    def failing(images, prompts):
        first, *others = study.bench.verify(images, prompts)
        return [None, *others]

    broken = Credit(replace(study.bench, verify=failing), SETTINGS)
    (group,) = broken._batch(broken.bench.subjects[0], 0)
    disturb(group, 0.5, seed=3)
    failed, *others = group.trajectories
    assert failed.rewards[JUDGE][0] is None
    assign(group, "turn", {JUDGE: 1.0})
    assert all(segment.advantage is None for segment in failed.segments)
    assert all(segment.advantage is not None for trajectory in others for segment in trajectory.segments)


def test_noise_is_the_same_for_every_scheme_and_grows_with_its_scale(study):
    (subject,) = study.bench.subjects
    clean, small, large = (study._batch(subject, 0)[0] for _ in range(3))
    disturb(small, 0.1, seed=3)
    disturb(large, 0.2, seed=3)
    for one, two, three in zip(*(group.trajectories for group in (clean, small, large))):
        added = np.array(two.rewards[JUDGE]) - one.rewards[JUDGE]
        assert np.allclose(2 * added, np.array(three.rewards[JUDGE]) - one.rewards[JUDGE]) and (added != 0).all()
    assert len({t.rewards[JUDGE][0] for t in clean.trajectories}) == len(clean.trajectories)


def test_gradients_are_those_that_a_step_follows_and_leave_the_weights_alone(study):
    (subject,) = study.bench.subjects
    groups = study._batch(subject, 0)
    for group in groups:
        for t in group.trajectories:
            for place, segment in enumerate(t.segments):
                segment.advantage = 0.5 - place % 2 + 0.1 * t.sample
    learner: Learner = study._learner(subject, groups)
    gradients = learner.gradients(*groups)
    again = learner.gradients(*groups)
    text, image = gradients["text"], gradients["image"]
    total = sum((text[name] + image[name]).double().square().sum() for name in text)
    metrics = learner.train(*groups)
    assert metrics["grad_norm/total"] == pytest.approx(float(total) ** 0.5, rel=1e-4)
    for term in gradients:
        assert all((gradients[term][name] == again[term][name]).all() for name in gradients[term])


def test_the_study_measures_every_scheme_on_the_same_batches(study, tmp_path):
    rows = []
    for cell in study.cells():
        done = []
        rows += [cell.at | row for row in study.measure(cell, done.append)]
        assert sum(done) == cell.work
    assert len(list((tmp_path / "groups").glob("*/batch-*"))) == SETTINGS.batches
    frame = frame_of(rows, tmp_path)
    assert frame["sketch"][0].dtype == np.float32
    one = Gradients(frame.where(scheme="trajectory", noise=0.0))
    assert one.alignment(one).value == pytest.approx(1, abs=1e-6) or np.isnan(one.alignment(one).value)
    joint, parts = one.gram("joint"), one.gram("text") + one.gram("image")
    products = [one.tables["text", part][0] * one.tables["image", part][0] for part in ("und", "gen", "vision")]
    assert np.allclose(np.diag(joint), np.diag(parts) + 2 * sum(products).sum(1))
    findings = study.findings(frame)
    assert {plate.name for plate in findings.plates} - {"alignment"} == {"snr-text", "snr-image", "snr-joint"}
    schemes, against = findings.tables
    assert len(schemes.rows) == 4 and "4 batches of 1 group(s)" in findings.plates[0].svg.decode()
    assert [row[1] for row in against.rows] == ["turn", "turn"] and against.title == "SNR less that of trajectory"
    assert all(words in findings.headline for words in ("tiny, text: ", "tiny, image: ", "at |g| "))


def test_schemes_are_held_against_the_reference_on_the_same_batches(study, tmp_path):
    """The same gradients differ by nothing; twice as many have the same ratio and twice the size."""
    rng = np.random.default_rng(0)
    rows = []
    for batch in range(SETTINGS.batches):
        gradients = {term: {"a": torch.tensor(rng.normal(size=8) + 1)} for term in ("text", "image")}
        doubled = {term: {"a": 2 * own["a"]} for term, own in gradients.items()}
        for scheme, own in (("trajectory", gradients), ("turn", doubled)):
            at = {"scheme": scheme, "batch": batch, "alive": True}
            rows += [at | row for row in rows_of(own)]
    frame = frame_of(rows, tmp_path)
    one, two = (Gradients(frame.where(scheme=scheme)) for scheme in ("trajectory", "turn"))
    gained = two.gained(one, "text")
    assert (gained.value, gained.low, gained.high, gained.n) == pytest.approx((0, 0, 0, SETTINGS.batches), abs=1e-6)
    assert two.size("text") == pytest.approx(2 * one.size("text"), rel=1e-6) and one.size("text") > 0


@pytest.mark.parametrize(("signs", "drawn"), [((1, 1, 1, 1), True), ((1, -1, 1, -1), False)])
def test_directions_are_compared_only_where_the_reference_has_one(study, tmp_path, signs, drawn):
    """Gradients that agree in every batch, and those that cancel."""
    rng = np.random.default_rng(0)
    rows = []
    for batch, sign in enumerate(signs):
        own = {term: {"a": torch.tensor(sign * 5 + 0.1 * rng.normal(size=8))} for term in ("text", "image")}
        for scheme in ("trajectory", "turn"):
            at = {"subject": "tiny", "scheme": scheme, "noise": 0.0, "batch": batch, "alive": True}
            rows += [at | row for row in rows_of(own)]
    plates = study.findings(frame_of(rows, tmp_path)).plates
    assert ("alignment" in [plate.name for plate in plates]) == drawn


def test_a_batch_that_says_nothing_counts_as_a_gradient_of_zero():
    rows = rows_of({})
    assert len(rows) == 6 and all(row["square"] == 0 and not any(row["sketch"]) for row in rows)


def test_what_cannot_be_measured_is_said(bench):
    (subject,) = bench.subjects
    without = replace(subject, recipe=subject.recipe.model_copy(update={"rl": None}))
    with pytest.raises(InputError, match="its recipe has no `rl`"):
        Credit(replace(bench, subjects=[without]), SETTINGS).cells()
    with pytest.raises(InputError, match="study.batches is 5"):
        Credit(bench, CreditStudySettings(batches=5)).cells()
    with pytest.raises(InputError, match="ask for 4 prompts, and there are 3"):
        Credit(bench, SETTINGS).cells()
    with pytest.raises(InputError, match="rl.algorithm nft trains no denoising steps here.*rl.algorithm=grpo"):
        changed(Credit(bench, SETTINGS), {"rl.algorithm": "nft"}).cells()


@pytest.fixture
def forked(study) -> Credit:
    """The study with forks after the first image, and with scores of reflections and edits."""
    scorers = [
        {"name": "verifier", "kind": "verifier"}, {"name": "truth", "kind": "verifier", "of": "reflection"},
        {"name": "edit", "kind": "verifier", "of": "edit"},
    ]  # fmt: skip
    other = changed(study, {"rl.forks": {1: 4}, "rl.credit": "factorised", "rewards.scorers": scorers})
    recipe = other.bench.subjects[0].recipe
    hub = RewardHub([spec_of(recipe, scorer, None) for scorer in recipe.rewards.scorers[1:]])
    bench = replace(other.bench, score_segments=partial(score_segments, hub=hub))
    return Credit(bench, other.settings.model_copy(update={"schemes": None}))


def test_siblings_on_one_image_share_its_noise_and_reflections_and_edits_get_noise_of_their_own(forked):
    (subject,) = forked.bench.subjects
    clean, noisy = (forked._batch(subject, 0)[0] for _ in range(2))
    disturb(noisy, 0.5, seed=3)
    firsts = {id(t.images[0]): t.rewards[JUDGE][0] for t in noisy.trajectories}
    assert len(firsts) == len(noisy.trajectories) // 4
    assert all(t.rewards[JUDGE][0] == firsts[id(t.images[0])] for t in noisy.trajectories)
    added = [
        after.scores[name] - before.scores[name]
        for one, two in zip(clean.trajectories, noisy.trajectories)
        for before, after in zip(one.segments, two.segments) for name in before.scores
    ]  # fmt: skip
    assert len(added) >= len(noisy.trajectories) and len(set(added)) == len(added) and all(added)


def test_only_schemes_that_suit_the_recipe_are_compared(study, forked):
    def compared(one: Credit) -> set[str]:
        free = Credit(one.bench, one.settings.model_copy(update={"schemes": None}))
        return {str(cell.at["scheme"]) for cell in free.cells()}

    assert compared(study) == set(SCHEMES) - {"factorised"}
    assert compared(forked) == set(SCHEMES) - {"umm", "no_improve_clamp"}
    for one, scheme, said in ((study, "factorised", "of: reflection"), (forked, "umm", "whole trajectories")):
        with pytest.raises(InputError, match=said):
            Credit(one.bench, one.settings.model_copy(update={"schemes": [scheme]})).cells()


def test_the_truth_of_a_text_changes_its_gradient_alone_under_factorised(forked):
    (subject,) = forked.bench.subjects
    for scheme, changes in (("factorised", True), ("trajectory", False)):
        advantages = []
        for truth in (0.0, 1.0):
            (group,) = forked._batch(subject, 0)
            for t in group.trajectories:
                for text in t.texts[1:]:
                    text.scores["truth"] = truth * t.sample
            assign(group, scheme, {JUDGE: 1.0}, segment_weights={"truth": 1.0})
            advantages.append([s.advantage for t in group.trajectories for s in t.segments])
        assert (advantages[0] != advantages[1]) == changes
