import json

from irg_rl.driver.alarm import tell_learning
from irg_rl.report.tracking import METRICS


def test_the_rows_of_rl_are_judged_written_and_told(run, capsys):
    rows = [{"stage": "sft1", "step": 1, "time": 0.0, "drawn/last": 9.0}]
    rows += [{"stage": "rl", "step": k, "time": 0.0, "drawn/last": 0.3, "drawn/spread": 0.05} for k in range(1, 13)]
    (run.folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = tell_learning(run)
    assert (found.updates, found.alarmed) == (12, True)
    written = json.loads((run.folder / "evaluation" / "learning.json").read_text())
    assert written["sentence"] == found.sentence and "only 5% of the groups" in found.sentence
    assert "only 5% of the groups" in capsys.readouterr().out.replace("\n", " ")
