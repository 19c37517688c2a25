"""The size of a JPEG file as a score."""

import numpy as np
from PIL import Image as PILImage

from irg_rl.trajectory import Prompt
from rewards.jpeg import JpegScorer

PROMPT = Prompt("p", "anything")


def test_the_score_is_the_size_of_the_file_in_bytes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    flat = np.full((32, 48, 3), 90, np.uint8)
    PILImage.fromarray(noise).save(tmp_path / "noise.jpg", quality=95)
    PILImage.fromarray(flat).save(tmp_path / "flat.jpg", quality=95)
    sizes = [(tmp_path / f"{name}.jpg").stat().st_size for name in ("noise", "flat")]
    assert JpegScorer().score([noise, flat], [PROMPT] * 2) == sizes and sizes[0] > 3 * sizes[1]


def test_a_lower_quality_makes_a_smaller_file_of_the_same_picture():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    [coarse], [fine] = (JpegScorer(quality=quality).score([noise], [PROMPT]) for quality in (20, 90))
    assert 0 < coarse < fine
