"""The file of a run that says when each actor worked."""

import json

from irg_rl.cluster.timeline import FILE, KEPT_UPDATES, Interval, Timeline


def updates(folder) -> list[int]:
    return [json.loads(line)["update"] for line in (folder / FILE).read_text().splitlines()]


def test_the_newest_updates_are_kept_and_a_resumed_run_writes_each_once(tmp_path):
    timeline, work = Timeline(tmp_path), [Interval("rollout 0", "sample_groups", 1.0, 3.0)]
    for update in range(1, KEPT_UPDATES + 4):
        timeline.add(update, work)
    assert updates(tmp_path) == list(range(4, KEPT_UPDATES + 4))
    with (tmp_path / FILE).open("a") as out:
        out.write('{"update": 24, "act')  # the run was killed
    Timeline(tmp_path).add(8, work * 2)
    assert updates(tmp_path) == [4, 5, 6, 7, 8, 8]
    row = json.loads((tmp_path / FILE).read_text().splitlines()[0])
    assert row["actor"] == "rollout 0" and row["ended"] - row["began"] == 2.0
