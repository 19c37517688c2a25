"""Guidance scales and their artefacts."""

import numpy as np
import pytest

from irg_rl.studies.guidance import Guidance, clipped, saturation
from irg_rl.studies.settings import GuidanceSettings
from tests.studies.frames import measured


def picture(*colors) -> np.ndarray:
    return np.array([colors], np.uint8)


def test_saturation_is_that_of_hsv():
    assert saturation(picture((255, 0, 0), (0, 0, 0), (100, 100, 100), (200, 100, 150))) == pytest.approx(1.5 / 4)


def test_clipped_channels_are_those_at_the_ends():
    assert clipped(picture((255, 0, 7), (1, 254, 128))) == pytest.approx(2 / 6)


def test_images_are_guided_only_where_text_is(bench, tmp_path):
    study = Guidance(bench, GuidanceSettings(text_scales=[1.0, 3.0], image_scales=[1.0, 2.0], turns=2))
    scales = [(cell.at["text_scale"], cell.at["image_scale"]) for cell in study.cells()]
    assert scales == [(1.0, 1.0), (3.0, 1.0), (3.0, 2.0)]
    frame = measured(study, tmp_path)
    means = [frame.where(text_scale=t, image_scale=i)["saturation"].mean() for t, i in scales]
    assert len(set(means)) == 3, "every pair of scales draws other images"
    findings = study.findings(frame)
    assert [plate.name for plate in findings.plates] == ["last_correct", "damage", "saturation", "clipped", "unclear"]
    assert "most right at text scale" in findings.headline
