"""Where the edit of a reflection is."""

import pytest

from irg_rl.view.edits import marked


def edits(text: str) -> list[str]:
    assert "".join(part for part, _ in marked(text)) == text
    return [part.strip() for part, mark in marked(text) if mark == "edit"]


@pytest.mark.parametrize(("text", "found"), [
    ("<think> i see one ring : one . one bar is missing . put red bar at north . </think>", ["put red bar at north ."]),
    ("remove red ring at north . put red ring at south .", ["remove red ring at north . put red ring at south ."]),
    ("The cat is put on the mat. Nothing else.", []),
    ("The sky is dark. Please lighten it by 1.5 stops!\nAdd a bird", ["Please lighten it by 1.5 stops!\nAdd a bird"]),
    ("The hand has six fingers.\n\n### Step-by-Step Modification Guidance:\n1. Look closely", [
        "### Step-by-Step Modification Guidance:\n1. Look closely"]),
    ("", []), ("putting it there is fine .", []),
])  # fmt: skip
def test_the_edit_is_found_in_both_formats(text, found):
    assert edits(text) == found


def test_a_stop_has_a_mark_of_its_own():
    assert marked("No changes are needed.") == [("No changes are needed.", "stop")]
    assert marked("Nothing to change in the sky, but it is grey.") == [
        ("Nothing to change in the sky, but it is grey.", "")
    ]
    assert marked("i see a cross . nothing to change .") == [("i see a cross . ", ""), ("nothing to change .", "stop")]
