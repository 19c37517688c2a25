from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irg_rl.shapes_world.check import judge
from irg_rl.shapes_world.constraints import Thing, make_metadata
from irg_rl.shapes_world.reading import read, scene_reading
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scene import WORLD
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from tests.shapes_world.worlds import PROMPTS, demands, metadata, rngs


@settings(max_examples=200)
@given(demands, rngs, st.sampled_from([0.0, 1.0]))
def test_a_sampled_scene_is_right(wanted, rng, distractor_share):
    scene = sample_scene(wanted, rng, distractor_share)
    assert judge(read(render(scene)), wanted).correct


@given(demands, rngs)
def test_nothing_but_the_demanded_objects_is_drawn_by_default(wanted, rng):
    assert len(sample_scene(wanted, rng).objects) == sum(entry["count"] for entry in wanted["include"])


def test_what_the_prompt_leaves_open_is_random():
    wanted = make_metadata("single_object", "", [(Thing("ring"), 1)], [])
    drawn = [sample_scene(wanted, Random(seed)) for seed in range(400)]
    objects = [scene.objects[0] for scene in drawn]
    assert len({thing.color for thing in objects}) == 6 and len({thing.cell for thing in objects}) == 9
    assert len({thing.size for thing in objects}) == 2 and len({scene.background for scene in drawn}) == 3
    assert {abs(shift) for thing in objects for shift in (thing.dx, thing.dy)} == set(range(WORLD.jitter + 1))


@settings(max_examples=200, deadline=None)
@given(demands, rngs, st.integers(1, 3))
def test_a_corrupted_scene_is_wrong_and_its_picture_reads_as_intended(wanted, rng, n_defects):
    scene = corrupt(sample_scene(wanted, rng), wanted, rng, n_defects)
    assert 1 <= len(judge(scene_reading(scene), wanted).defects) <= n_defects
    assert read(render(scene)) == scene_reading(scene)


def test_corruptions_are_varied_and_as_many_as_asked_for():
    rng, kinds, exact = Random(0), Counter(), 0
    for index, prompt in enumerate(PROMPTS):
        scene = corrupt(sample_scene(prompt.metadata, rng), prompt.metadata, rng, 1 + index % 3)
        defects = judge(scene_reading(scene), prompt.metadata).defects
        kinds.update(str(defect.kind) for defect in defects)
        kinds["garbled"] += bool(scene.blobs)
        exact += len(defects) == 1 + index % 3
    assert min(kinds[kind] for kind in ("missing", "extra", "color", "shape", "relation", "garbled")) > 50
    assert exact > 0.8 * len(PROMPTS)


def test_a_demand_that_no_places_satisfy_is_refused():
    square, circle = {"class": "square", "count": 4}, {"class": "circle", "count": 13}
    with pytest.raises(ValueError, match="17 objects do not fit"):
        sample_scene(metadata(square, circle), Random(0))
    loop = [
        {"class": "ring", "count": 1, "position": ["above", 1]},
        {"class": "bar", "count": 1, "position": ["above", 0]},
    ]
    with pytest.raises(ValueError, match="relations of 'by hand'"):
        sample_scene(metadata(*loop), Random(0))
