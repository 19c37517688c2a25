import json

import numpy as np
import pytest
from PIL import Image

from irg_rl.report.samples import INDEX, from_trajectory, load_samples, save_samples
from irg_rl.shapes_world.prompts import make_prompts
from tests.report.demo import AFTER_SFT, sample
from tests.shapes_world.worlds import TASK


def samples(n: int = 4):
    drawn = [sample(prompt, 0, AFTER_SFT) for prompt in make_prompts(n, "test", seed=1)]
    verdicts = [TASK.verdicts([i.pixels.numpy() for i in t.images], [t.prompt] * t.turns) for t in drawn]
    return [from_trajectory(t, v) for t, v in zip(drawn, verdicts)]


def test_samples_come_back_as_they_were_pixel_by_pixel(tmp_path):
    before = samples()
    save_samples(tmp_path / "sft", before)
    after = load_samples(tmp_path / "sft")
    assert [(s.prompt_id, s.prompt, s.task, s.stopped) for s in after] == [
        (s.prompt_id, s.prompt, s.task, s.stopped) for s in before
    ]
    for one, other in zip(before, after):
        assert [(t.text, t.correct, t.score, t.rewards) for t in one.turns] == [
            (t.text, t.correct, t.score, t.rewards) for t in other.turns
        ]
        for left, right in zip(one.images, other.images, strict=True):
            np.testing.assert_array_equal(left, right)


def test_a_stop_is_a_turn_without_an_image(tmp_path):
    stopped = next(s for s in samples(8) if s.stopped)
    assert stopped.turns[-1].image is None and stopped.turns[-1].correct is None and stopped.turns[-1].rewards == {}
    assert len(stopped.images) == len(stopped.turns) - 1


def test_every_prompt_has_a_strip_and_a_second_save_replaces_the_first(tmp_path):
    save_samples(tmp_path / "sft", samples(4))
    save_samples(tmp_path / "sft", samples(2))
    names = sorted(path.name for path in (tmp_path / "sft").iterdir())
    assert [name for name in names if name.endswith("strip.png")] == ["000-strip.png", "001-strip.png"]
    with Image.open(tmp_path / "sft" / "000-strip.png") as strip:
        assert strip.height == 152
    assert [path.name for path in tmp_path.iterdir()] == ["sft"]


def test_an_index_cannot_reach_files_outside_its_folder(tmp_path):
    save_samples(tmp_path / "sft", samples(1))
    index = tmp_path / "sft" / INDEX
    entries = json.loads(index.read_text())
    entries[0]["turns"][0]["image"] = "../secret.png"
    index.write_text(json.dumps(entries))
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    with pytest.raises(ValueError, match="not a file of its own folder"):
        load_samples(tmp_path / "sft")


@pytest.mark.parametrize("content", ["[{}]", "{", '{"prompt": 1}', "[1]"])
def test_an_index_of_another_form_is_named(tmp_path, content):
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(ValueError, match=f"{INDEX} is not a list of samples"):
        load_samples(tmp_path)


def test_one_verdict_per_image_or_none_at_all():
    trajectory = sample(make_prompts(1, "test", seed=1)[0], 0, AFTER_SFT)
    assert from_trajectory(trajectory).turns[0].correct is None
    with pytest.raises(ValueError, match="0 verdicts"):
        from_trajectory(trajectory, [])
