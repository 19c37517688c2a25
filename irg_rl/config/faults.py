"""Faults on purpose, for tests of what a run survives (irg_rl/faults.py)."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from irg_rl.sections import Positive, Rate, Section

NAMED = ("stage", "stage_done", "progress", "sft_rank", "learner", "checkpoint", "checkpoint_written")
"""Places that know `of`."""
WITHOUT_STEPS = ("stage", "stage_done", "judge")
"""Places that count no steps."""
OF_WHAT = {"signal": ("signal",), "seconds": ("hang", "slow")}
"""Setting -> the faults that it is a setting of."""


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
        if self.what == "corrupt" and self.where != "checkpoint_written":
            raise ValueError(f"corrupt damages a checkpoint that was written, so `where` {self.where} can't be used")
        if self.what == "disk_full" and self.where not in ("checkpoint", "checkpoint_written"):
            raise ValueError(f"disk_full happens where a file is written, so `where` {self.where} can't be used")
        if self.of is not None and self.where not in NAMED:
            raise ValueError(f"of {self.of!r}: {self.where} has no names, so this fault would never happen")
        if self.step is not None and self.where in WITHOUT_STEPS:
            raise ValueError(f"step {self.step}: {self.where} counts no steps, so this fault would never happen")
        for name, faults in OF_WHAT.items():
            if vars(self)[name] != type(self).model_fields[name].default and self.what not in faults:
                raise ValueError(f"{name}: has no effect on {self.what}; it is a setting of {' and '.join(faults)}")
        return self
