"""The stages of a run."""

import re
from pathlib import Path

from irg_rl.config import STAGES
from irg_rl.driver import stages


def test_every_stage_may_have_a_budget():
    steps = re.findall(r'step\(run, "(\w+)"', Path(stages.__file__).read_text())
    assert tuple(steps) == STAGES[: len(steps)] and {"pretrain", "vae", "report"} < set(steps)
