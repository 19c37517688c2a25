"""Exchanges change one cause and keep the rest, the noise included."""

from dataclasses import replace

import pytest
import torch

from irg_rl.config import changed_recipe
from irg_rl.studies.bench import Subject
from irg_rl.studies.influence import OWN, REDRAW, Influence, arm_of, exchanges, partners, refinements
from irg_rl.studies.settings import InfluenceSettings
from rollouts.request import Request
from tests.studies.frames import frame_of, measured

SETTINGS = InfluenceSettings(turns=[1, 2], reflections=2, seeds=2, probe_prompts=2)
ONE = SETTINGS.model_copy(update={"turns": [1]})


@pytest.fixture
def drawn(bench):
    (subject,) = bench.subjects
    return subject.sampler(temperature=1.0).sample([Request(p, s, 7) for p in bench.prompts for s in range(2)], 3)


def test_each_exchange_changes_one_cause(drawn):
    sources = refinements(drawn, 1)
    own = sources[0]
    sibling, other = partners(own, sources)
    assert sibling.prompt.id == own.prompt.id and sibling.trajectory is not own.trajectory
    assert other.prompt.id != own.prompt.id
    made = {name: change(own, sibling, other) for name, change in exchanges(lambda words: "other words").items()}
    for name, (image, reflection) in made.items():
        same_image = image.shape == own.image.shape and torch.equal(image, own.image)
        assert same_image is not name.startswith("image")
        same_text = torch.is_tensor(reflection) and torch.equal(reflection, own.reflection)
        assert same_text is not name.startswith("reflection")
    assert exchanges(None)["reflection: paraphrased"](own, sibling, other) is None
    assert exchanges(None)["image: a sibling's"](own, None, other) is None


def test_a_stop_is_no_refinement(drawn):
    drawn[0].texts[1].stop = True
    assert [r.trajectory for r in refinements(drawn, 1)] == drawn[1:]


def test_the_study_measures_exchanges_and_probes_and_says_what_they_show(bench, tmp_path):
    study, rows = Influence(bench, SETTINGS), []
    for cell in study.cells():
        done = []
        rows += [cell.at | row for row in study.measure(cell, done.append)]
        assert 0 < sum(done) <= cell.work
    assert [(c.at["part"], c.at["turn"]) for c in study.cells()] == [
        ("exchange", 2), ("exchange", 3), ("probe", 1), ("probe", 2), ("probe", 3),
    ]  # fmt: skip
    frame = frame_of(rows, tmp_path)
    assert len(frame.where(part="probe")) == 3 * 2 * 2 * 2
    swaps = frame.where(part="exchange", turn=2)
    assert {OWN, REDRAW, "image: grey", "reflection: blank"} <= set(swaps.values("arm"))
    assert arm_of(swaps, OWN).gained.value == 0
    findings = study.findings(frame)
    assert {plate.name for plate in findings.plates} == {"exchange", "distance", "variance"}
    assert "share of the variance that is the text's" in findings.headline
    dots = next(plate for plate in findings.plates if plate.name == "distance").svg.decode()
    assert f"n={len(swaps.where(arm=OWN))}<" in dots and "n = 2 prompts |" in findings.plates[-1].svg.decode()


class Stopping(Subject):
    """Every reflection of the model is a stop."""

    def sampler(self, is_stop=lambda text: True, **changes):
        return super().sampler(is_stop=is_stop, **changes)


def test_a_probe_begins_where_the_model_would_have_drawn_on(bench):
    """Of the second image every one is there, and all texts stop; nobody would have drawn on from the third."""
    (subject,) = bench.subjects
    study = Influence(replace(bench, subjects=[Stopping(**vars(subject))]), SETTINGS)
    second, third = (study.measure(cell, lambda units: None) for cell in study.cells()[-2:])
    assert len(second) == 2 * 2 * 2 and all(row["stop"] for row in second) and not third


def test_the_temperature_of_rl_names_the_probes_alone(bench):
    (subject,) = bench.subjects
    cooler = replace(subject, recipe=changed_recipe(subject.recipe, {"sampling.temperature": 0.5}, "the test"))
    one, two = (Influence(replace(bench, subjects=[own]), SETTINGS).cells() for own in (subject, cooler))
    same = [cell.digest("influence") == other.digest("influence") for cell, other in zip(one, two, strict=True)]
    assert same == [cell.at["part"] == "exchange" for cell in one]


def test_a_failed_reward_is_no_number(bench):
    def failing(images, prompts):
        found = bench.verify(images, prompts)
        return [None if p.id == bench.prompts[0].id else one for one, p in zip(found, prompts)]

    study = Influence(replace(bench, verify=failing), ONE)
    for cell in study.cells():
        prompts = {row["prompt"] for row in study.measure(cell, lambda units: None)}
        assert prompts and bench.prompts[0].id not in prompts


def test_checkpoints_are_held_against_the_first(bench, tmp_path):
    """The same checkpoint twice: exchanges cost the same, and the text's share is the same."""
    (subject,) = bench.subjects
    twice = replace(bench, subjects=[subject, replace(subject, label="again")])
    study = Influence(twice, ONE)
    table = study.findings(measured(study, tmp_path)).tables[-1]
    assert table.title == "Checkpoints against the first"
    assert {tuple(row[:2]) for row in table.rows} == {("again", "tiny")}
    known = [row[-1] for row in table.rows if row[-1] != "–"]
    assert known and all(told.startswith("+0.000 [+0.000, +0.000]") for told in known)
    told = {row[3] for row in table.rows}
    assert {"reflection: blank: score − that of its own", "the text's share of the variance"} <= told


def test_full_history_looks_at_the_second_image_alone(bench):
    (subject,) = bench.subjects
    full = type(subject)(**vars(subject) | {"sampling": subject.sampling.model_copy(update={"history": "full"})})
    study = Influence(type(bench)(**vars(bench) | {"subjects": [full]}), SETTINGS)
    assert {cell.at["turn"] for cell in study.cells()} == {1, 2}
