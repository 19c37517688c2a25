"""Gradients of credit schemes at one checkpoint, on the same renders, without training anything."""

from dataclasses import replace

import numpy as np
import pytest

from irg_rl.commands.study import lesson_of
from irg_rl.errors import InputError
from irg_rl.learner.actor import Learner
from irg_rl.studies.credit import JUDGE, Credit, Gradients, disturb, rows_of
from irg_rl.studies.frame import Frame, read_table, write_rows
from irg_rl.studies.settings import CreditSettings

SETTINGS = CreditSettings(schemes=["trajectory", "turn"], noises=[0.0, 0.5], batches=4)


@pytest.fixture
def study(bench, tmp_path) -> Credit:
    """A judge that likes bright images: the checker calls all of a random model's images alike."""

    def brightness(images, prompts):
        found = bench.verify(images, prompts)
        return [replace(one, score=float(image.mean() / 255)) for one, image in zip(found, images)]

    return Credit(replace(bench, verify=brightness, lesson=lesson_of, scratch=tmp_path), SETTINGS)


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
    write_rows(tmp_path / "rows.parquet", rows, {})
    frame = Frame.of(read_table(tmp_path / "rows.parquet"))
    one = Gradients(frame.where(scheme="trajectory", noise=0.0))
    assert one.alignment(one).value == pytest.approx(1, abs=1e-6) or np.isnan(one.alignment(one).value)
    joint, parts = one.gram("joint"), one.gram("text") + one.gram("image")
    products = [one.tables["text", part][0] * one.tables["image", part][0] for part in ("und", "gen", "vision")]
    assert np.allclose(np.diag(joint), np.diag(parts) + 2 * sum(products).sum(1))
    findings = study.findings(frame)
    assert {plate.name for plate in findings.plates} == {"snr-text", "snr-image", "snr-joint", "alignment"}
    assert len(findings.tables[0].rows) == 4 and "4 batches of 1 group(s)" in findings.plates[0].svg.decode()


def test_a_batch_that_says_nothing_counts_as_a_gradient_of_zero():
    rows = rows_of({})
    assert len(rows) == 6 and all(row["square"] == 0 and not any(row["sketch"]) for row in rows)


def test_what_cannot_be_measured_is_said(bench):
    (subject,) = bench.subjects
    without = replace(subject, recipe=subject.recipe.model_copy(update={"rl": None}))
    with pytest.raises(InputError, match="its recipe has no `rl`"):
        Credit(replace(bench, subjects=[without]), SETTINGS).cells()
    with pytest.raises(InputError, match="study.batches is 5"):
        Credit(bench, CreditSettings(batches=5)).cells()
