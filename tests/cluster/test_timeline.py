"""The file of a run that says when each actor worked."""

import json

from irg_rl.cluster.timeline import FILE, KEPT_UPDATES, Interval, Timeline


def updates(folder) -> list[int]:
    return [json.loads(line)["update"] for line in (folder / FILE).read_text().splitlines()]


def test_the_newest_updates_are_kept_and_a_resumed_run_writes_each_once(tmp_path):
    timeline, work = Timeline(tmp_path), [Interval("rollout 0", "sample_groups", 1.0, 3.0)]
    for update in range(1, KEPT_UPDATES + 4):
        timeline.add(update, work)
    assert updates(tmp_path) == list(range(1, KEPT_UPDATES + 4))
    for update in range(KEPT_UPDATES + 4, 2 * KEPT_UPDATES + 1):
        timeline.add(update, work)
    assert updates(tmp_path) == list(range(KEPT_UPDATES + 1, 2 * KEPT_UPDATES + 1))
    with (tmp_path / FILE).open("a") as out:
        out.write('{"update": 41, "act')  # the run was killed
    Timeline(tmp_path).add(24, work * 2)
    assert updates(tmp_path) == [21, 22, 23, 24, 24]
    row = json.loads((tmp_path / FILE).read_text().splitlines()[0])
    assert row["actor"] == "rollout 0" and row["ended"] - row["began"] == 2.0


def test_an_update_does_not_read_the_lines_of_the_updates_before_it(tmp_path):
    """Each update parsed all lines and wrote them again, while the learner waited."""
    timeline, work = Timeline(tmp_path), [Interval("rollout 0", "sample_groups", 1.0, 3.0)]
    timeline.add(1, work)
    (tmp_path / FILE).write_text("no line of a timeline\n")
    timeline.add(2, work)
    assert (tmp_path / FILE).read_text().startswith("no line of a timeline\n{")


def test_the_first_update_keeps_those_before_the_checkpoint(tmp_path):
    work = [Interval("rollout 0", "sample_groups", 1.0, 3.0)]
    for update in (1, 2):
        Timeline(tmp_path).add(update, work)
    assert updates(tmp_path) == [1, 2]
