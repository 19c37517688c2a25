"""The figure of when each actor worked."""

import json

from irg_rl.cluster.timeline import FILE, Interval, Timeline
from irg_rl.report.timeline import ROWS, draw_timeline
from tests.report.test_curves import svg


def test_every_actor_has_a_row_and_the_learner_is_the_first(tmp_path):
    assert draw_timeline(tmp_path) is None
    timeline = Timeline(tmp_path)
    for update in range(1, 8):
        timeline.add(update, [
            Interval("rollout 10", "sample_groups", update, update + 0.5),
            Interval("rollout 9", "sample_groups", update, update + 0.4),
            Interval("learner", "train", update + 0.5, update + 1),
        ])  # fmt: skip
    picture = draw_timeline(tmp_path)
    text = svg(picture)
    assert text.index(">learner<") < text.index(">rollout 9<") < text.index(">rollout 10<")
    assert picture.caption == "Updates 3 to 7, n = 15."


def test_a_damaged_line_and_too_many_actors_are_left_out(tmp_path):
    Timeline(tmp_path).add(1, [Interval(f"rollout {number}", "sample_groups", 0, 1) for number in range(ROWS + 2)])
    with (tmp_path / FILE).open("a") as out:
        out.write(json.dumps([1]) + '\n{"upd')
    assert draw_timeline(tmp_path).caption.endswith("2 more actors are left out.")
