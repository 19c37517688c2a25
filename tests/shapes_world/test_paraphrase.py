"""Other words, the same reflection."""

import random

from irg_rl.shapes_world.paraphrase import paraphrase
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.shapes_world.reading import scene_reading
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from irg_rl.shapes_world.teacher import parse_reflection, reflect


def test_lists_are_turned_round():
    text = "<think> i see red ring at north : one , bar : zero . also red cross at west , blur at south . one bar is "
    text += "missing . put red bar at center . </think>"
    turned = "<think> i see bar : zero , red ring at north : one . also blur at south , red cross at west . one bar is "
    assert paraphrase(text) == turned + "missing . put red bar at center . </think>"


def test_whatever_the_teacher_says_means_the_same_afterwards():
    rng, turned = random.Random(0), 0
    for prompt in make_prompts(60, "train", seed=0):
        scene = corrupt(sample_scene(prompt.metadata, rng), prompt.metadata, rng, 1)
        text, _ = reflect(scene_reading(scene), prompt.metadata, rng)
        other = paraphrase(text)
        if other is not None:
            turned += 1
            assert parse_reflection(other) == parse_reflection(text) and sorted(other.split()) == sorted(text.split())
    assert turned > 30


def test_what_is_not_the_teachers_has_no_paraphrase():
    assert paraphrase("i see a , b . nothing") is None
    assert paraphrase("<think> i see bar : zero . one bar is missing . put red bar at center . </think>") is None
