"""The image in an editor's answer."""

import numpy as np
import pytest

from irg_rl.data.drawing import edited_image
from rewards.judge_answer import Unanswered
from tests.data.servers import drawn, landscape
from tests.rewards.servers import spoken

PICTURE = landscape(1, 0.8)
PART = drawn(PICTURE)["choices"][0]["message"]["content"][0]


@pytest.mark.parametrize("completion", [
    spoken([PART]),
    spoken([{"type": "text", "text": "Here it is."}, PART]),
    spoken("Here it is.", images=[PART]),
    spoken(None, images=[PART]),
])  # fmt: skip
def test_an_image_is_read_from_the_content_or_beside_it(completion):
    assert np.array_equal(edited_image(completion).pixels, PICTURE)


@pytest.mark.parametrize(("completion", "reason"), [
    (spoken("Here it is."), "no image in the answer"),
    ({"error": "busy"}, "no chat completion"),
    (spoken([{"image_url": {"url": "http://elsewhere/image.png"}}]), "nothing is downloaded"),
    (spoken([{"image_url": {"url": "data:image/png;base64,AAAA"}}]), "broken image"),
    (spoken([{"image_url": {"url": "data:image/png;base64,?"}}]), "not base64"),
    (spoken([{"image_url": "flat"}]), "no chat completion"),
    (drawn(PICTURE * 0), "one colour only"),
])  # fmt: skip
def test_an_answer_without_a_usable_image_is_no_answer(completion, reason):
    with pytest.raises(Unanswered, match=reason):
        edited_image(completion)
