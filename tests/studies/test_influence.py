"""Exchanges change one cause and keep the rest, the noise included."""

import pytest
import torch

from irg_rl.studies.frame import Frame, read_table, write_rows
from irg_rl.studies.influence import OWN, REDRAW, Influence, arm_of, exchanges, partners, refinements
from irg_rl.studies.settings import InfluenceSettings
from rollouts.request import Request

SETTINGS = InfluenceSettings(turns=[1, 2], reflections=2, seeds=2, probe_prompts=2)


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
    write_rows(tmp_path / "rows.parquet", rows, {})
    frame = Frame.of(read_table(tmp_path / "rows.parquet"))
    assert len(frame.where(part="probe")) == 3 * 2 * 2 * 2
    swaps = frame.where(part="exchange", turn=2)
    assert {OWN, REDRAW, "image: grey", "reflection: blank"} <= set(swaps.values("arm"))
    assert arm_of(swaps, OWN).gained.value == 0
    findings = study.findings(frame)
    assert {plate.name for plate in findings.plates} == {"exchange", "distance", "variance"}
    assert "share of the variance that is the text's" in findings.headline


def test_full_history_looks_at_the_second_image_alone(bench):
    (subject,) = bench.subjects
    full = type(subject)(**vars(subject) | {"sampling": subject.sampling.model_copy(update={"history": "full"})})
    study = Influence(type(bench)(**vars(bench) | {"subjects": [full]}), SETTINGS)
    assert {cell.at["turn"] for cell in study.cells()} == {1, 2}
