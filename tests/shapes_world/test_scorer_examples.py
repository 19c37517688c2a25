"""Examples for the small scorers: captions are true of their pictures, and the hard negatives are wrong."""

import numpy as np

from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.constraints import make_metadata
from irg_rl.shapes_world.judge_language import parse_prompt
from irg_rl.shapes_world.prompts import split_of
from irg_rl.shapes_world.reading import scene_reading
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scorer_examples import Examples


def test_captions_are_true_of_their_scenes_and_of_the_train_split():
    scenes, captions = Examples(seed=1).scenes(120)
    assert len(set(captions)) == len(captions)
    for scene, caption in zip(scenes, captions):
        metadata = as_metadata(caption)
        assert judge(scene_reading(scene), metadata).correct, caption
        assert split_of(metadata) == "train"


def as_metadata(caption):
    """Metadata of a caption, by the embedded judge's parser."""
    demand = parse_prompt(caption)
    return make_metadata("scene", caption, list(demand.includes), list(demand.relations))


def test_every_second_scene_fails_the_caption_before_it():
    scenes, captions = Examples(seed=1).scenes(60)
    for right, wrong, caption in zip(scenes[::2], scenes[1::2], captions[::2]):
        assert judge(scene_reading(right), as_metadata(caption)).correct
        assert not judge(scene_reading(wrong), as_metadata(caption)).correct, caption


def test_some_pictures_are_painted_badly():
    clean = [render(scene) for scene in Examples(seed=1).scenes(40)[0]]
    painted = Examples(seed=1).captioned(40)[0]
    differing = sum(not np.array_equal(a, b) for a, b in zip(clean, painted))
    assert 10 <= differing <= 30
