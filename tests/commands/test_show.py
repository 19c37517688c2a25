"""What `irg-rl show` tells of a trajectory."""

from irg_rl.commands.show import as_table
from irg_rl.trajectory import Statement
from tests.test_credit import sample


def test_scores_of_reflections_and_edits_stand_beside_what_was_said_and_drawn():
    trajectory = sample(0, [0.25, 0.75], stopped=False)
    trajectory.text(2).text = "one ring is missing"
    trajectory.text(2).scores = {"truth": 0.5}
    trajectory.image(3).scores = {"edit": None}
    told = list(as_table(trajectory).columns[2].cells)
    assert told[1:] == ["score 0.250", "one ring is missing\ntruth 0.500", "score 0.750\nedit failed"]


def test_statements_that_are_not_true_are_told_in_their_words():
    trajectory = sample(0, [0.25, 0.75], stopped=False)
    text = trajectory.text(2)
    text.text = "one ring at north . put a bar ."
    text.statements = {"said": [Statement(0, 19, 1.0), Statement(20, 31, 0.0)]}
    assert list(as_table(trajectory).columns[2].cells)[2].endswith("said: not true: “put a bar .”")
    text.statements = {"said": [Statement(0, 19, 1.0)]}
    assert list(as_table(trajectory).columns[2].cells)[2].endswith("said: all statements are true")
