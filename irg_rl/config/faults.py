"""Faults on purpose, for tests of what a run survives (irg_rl/faults.py)."""

import os
from typing import Annotated, Literal

from pydantic import Field, model_validator

from irg_rl.faults import ALLOWED
from irg_rl.sections import Positive, Rate, Section


class Fault(Section):
    """A fault that happens to a run on purpose."""

    what: Literal["kill", "hang", "exit", "oom", "disk_full", "corrupt", "signal", "slow"]
    """kill: the process kills itself with SIGKILL. exit: it ends with code 3. hang and slow: it sleeps for `seconds`.
    oom: its memory is full. disk_full: the disk is full. corrupt: one bit of the largest file of a checkpoint changes.
    signal: the process sends itself `signal`."""
    where: Literal[
        "stage", "stage_done", "progress", "sft_rank", "rollout", "weights", "critic", "learner", "checkpoint",
        "checkpoint_written", "judge", "update",
    ]  # fmt: skip
    """The place. In the driver: stage and stage_done are the beginning and the end of a stage, progress is each step of
    a progress bar, and update is an RL update between scoring and training. sft_rank and learner are the training ranks
    of SFT and RL. rollout and weights are a rollout actor that samples or gets weights. checkpoint is the writer of a
    checkpoint before its manifest, checkpoint_written after all. critic and judge are the processes that score."""
    of: str | None = None
    """Only for the stage of this name, the bar of this title, the rank of this number, or the checkpoints of this
    stage. null: for all."""
    step: Annotated[int, Field(ge=0)] | None = None
    """Only at this step: the number of the training step, of the RL update or of the version of the weights. null: the
    first time."""
    signal: Literal["SIGTERM", "SIGINT", "SIGHUP", "SIGSTOP"] = "SIGTERM"
    seconds: Rate = 3600.0
    times: Positive = 1
    """How often the fault happens in the whole run."""

    @model_validator(mode="after")
    def can_happen(self):
        if os.environ.get(ALLOWED) != "1":
            raise ValueError(
                f"faults happen on purpose and are for tests: set {ALLOWED}=1 in the environment to allow them, or "
                "leave the section out"
            )
        if self.what == "corrupt" and self.where != "checkpoint_written":
            raise ValueError(f"corrupt damages a checkpoint that was written, so `where` {self.where} can't be used")
        return self
