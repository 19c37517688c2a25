import pytest
from hypothesis import given, settings

from irg_rl.shapes_world.check import DefectKind, judge
from irg_rl.shapes_world.constraints import Thing, make_metadata
from irg_rl.shapes_world.reading import PictureReading
from irg_rl.shapes_world.scene import Object
from tests.shapes_world.worlds import demands, metadata, readings, seen

RED_CIRCLE = {"class": "circle", "color": "red", "count": 1}
NO_MORE = ({**RED_CIRCLE, "count": 2},)
SQUARE = {"class": "square", "count": 1}


def _defects(reading, wanted):
    return [(str(defect.kind), str(defect.thing), defect.cell) for defect in judge(reading, wanted).defects]


@settings(max_examples=300)
@given(readings, demands)
def test_the_score_is_one_and_the_defects_are_none_exactly_if_the_verdict_is_right(reading, wanted):
    verdict = judge(reading, wanted)
    assert 0 <= verdict.score <= 1
    assert (verdict.score == 1) == verdict.correct == (not verdict.defects) == all(c.passed for c in verdict.checks)


def test_what_is_not_mentioned_is_tolerated():
    assert judge(seen("red circle northwest, blue bar southeast"), metadata(RED_CIRCLE, exclude=NO_MORE)).correct
    unreadable = PictureReading((Object("circle", "red", "small", "northwest"),), ("center", "south"))
    assert judge(unreadable, metadata(RED_CIRCLE)).correct


def test_without_excludes_more_than_enough_is_right_as_in_geneval():
    assert judge(seen("red circle northwest, red circle north"), metadata(RED_CIRCLE)).correct
    assert not judge(seen("red circle northwest, red circle north"), metadata(RED_CIRCLE, exclude=NO_MORE)).correct


def test_an_empty_picture_scores_zero():
    assert judge(PictureReading(()), metadata(RED_CIRCLE, SQUARE)).score == 0


def test_the_score_grows_with_every_step_towards_the_demand():
    wanted = make_metadata("scene", "", [(Thing("circle", "red"), 2), (Thing("bar"), 1)], [])
    steps = [
        "",
        "red circle northwest",
        "red circle northwest, blue circle west",
        "red circle northwest, red circle west",
        "red circle northwest, red circle west, red bar southwest, cyan bar north",
        "red circle northwest, red circle west, red bar southwest",
    ]
    scores = [judge(seen(step), wanted).score for step in steps]
    assert scores == sorted(set(scores)) and scores[0] == 0 and scores[-1] == 1
    assert scores[2] == pytest.approx(1.5 / 2 / 2)  # one of two circles and a near miss; no bar
    assert scores[4] == pytest.approx((1 + 1 / 2) / 2)  # one bar wanted, two found


def test_a_relation_needs_every_pair_strictly_in_place():
    wanted = make_metadata("position", "", [(Thing("square"), 1), (Thing("circle"), 1)], [])
    wanted["include"][1]["position"] = ["left of", 0]
    assert judge(seen("red circle northwest, red square south"), wanted).correct
    assert judge(seen("red circle north, red square south"), wanted).score == pytest.approx(2 / 3)
    assert _defects(seen("red circle northeast, red square south"), wanted) == [("relation", "circle", "northeast")]
    assert judge(seen("red circle northwest"), wanted).checks[-1].reason == "no square to compare"


def test_a_wrong_color_is_one_defect_and_not_two():
    wanted = make_metadata("colors", "", [(Thing("circle", "red"), 1)], [])
    (defect,) = judge(seen("blue circle east"), wanted).defects
    assert defect.kind is DefectKind.COLOR and defect.cell == "east"
    assert (defect.thing, defect.want) == (Thing("circle", "blue"), Thing("circle", "red"))


def test_a_wrong_shape_is_recognised_by_its_color():
    wanted = make_metadata("color_attr", "", [(Thing("circle", "red"), 1), (Thing("bar", "cyan"), 1)], [])
    assert _defects(seen("red ring northwest, cyan bar west"), wanted) == [("shape", "red ring", "northwest")]
    assert _defects(seen("green ring northwest, cyan bar west"), wanted) == [("missing", "red circle", None)]


def test_one_too_many_is_extra_and_one_of_another_color_too():
    wanted = make_metadata("colors", "", [(Thing("circle", "red"), 1)], [])
    assert _defects(seen("red circle northwest, red circle north"), wanted) == [("extra", "red circle", "north")]
    assert _defects(seen("blue circle northwest, red circle north"), wanted) == [("extra", "blue circle", "northwest")]


def test_an_extra_of_open_color_is_named_without_color():
    wanted = make_metadata("single_object", "", [(Thing("circle"), 1)], [])
    assert _defects(seen("red circle northwest, blue circle north"), wanted) == [("extra", "circle", "north")]


def test_of_too_many_the_one_that_stands_right_is_kept():
    wanted = make_metadata("position", "", [(Thing("square"), 1), (Thing("circle"), 1)], [])
    wanted["include"][1]["position"] = ["above", 0]
    assert _defects(seen("red circle southwest, blue square center, cyan circle northeast"), wanted)[0] == (
        "extra",
        "circle",
        "southwest",
    )
    assert len(_defects(seen("red circle southwest, blue square center, cyan circle northeast"), wanted)) == 1


def test_an_exclude_of_something_not_included_is_a_constraint_of_its_own():
    wanted = metadata(RED_CIRCLE, exclude=({"class": "ring", "count": 1},))
    verdict = judge(seen("red circle northwest, blue ring north"), wanted)
    assert not verdict.correct and 0 < verdict.score < 1
    assert _defects(seen("red circle northwest, blue ring north"), wanted) == [("extra", "blue ring", "north")]


def test_every_check_says_why_it_failed():
    verdict = judge(seen("red circle northwest, red circle north"), metadata(RED_CIRCLE, SQUARE, exclude=NO_MORE))
    assert [check.reason for check in verdict.checks] == [
        "at most 1 red circle wanted, 2 found",
        "1 square wanted, 0 found",
    ]


@pytest.mark.parametrize(
    "entry, complaint",
    [
        ({"class": "dog", "count": 1}, "unknown class 'dog'.*circle"),
        ({"class": "ring", "count": 1, "color": "pink"}, "unknown color 'pink'.*red"),
        ({"class": "ring", "count": 0}, "count of 'ring' is 0"),
        ({"class": "ring", "count": 1, "position": ["near", 0]}, "unknown relation 'near'"),
        ({"class": "ring", "count": 1, "position": ["above", 4]}, "include 0 stands 'above' include 4"),
    ],
)
def test_a_demand_this_world_cannot_meet_is_refused(entry, complaint):
    with pytest.raises(ValueError, match=complaint):
        judge(PictureReading(()), metadata(entry))


def test_metadata_without_includes_is_refused():
    with pytest.raises(ValueError, match="'by hand' includes nothing"):
        judge(PictureReading(()), metadata())


def test_of_several_pairs_one_that_stands_wrong_breaks_the_relation():
    """Fails where a relation holds as soon as any pair of its things stands so."""
    wanted = make_metadata("position", "", [(Thing("square"), 2), (Thing("circle"), 1)], [])
    wanted["include"][1]["position"] = ["left of", 0]
    assert judge(seen("red circle west, red square center, blue square east"), wanted).correct
    assert not judge(seen("red circle center, red square west, blue square east"), wanted).correct
