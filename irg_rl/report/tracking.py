"""Logs the scalars (measured values) of a run: always to `metrics.jsonl`, and also to wandb (offline without a key,
online with one).

The step of wandb itself only counts the calls of its function `log`. So every stage has its own step axis in wandb:
`sft1/ce` is drawn over `sft1/step`. The wandb folder is inside the run folder. The run id is kept, so a resumed run
continues the same curve.
"""

import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import cast

import wandb
from wandb.errors import CommError, UsageError

from irg_rl.environment import wandb_mode
from irg_rl.redact import redact, redact_text
from irg_rl.report.metrics_log import METRICS, MetricsLog
from irg_rl.report.samples import SampledTrajectory
from irg_rl.report.strips import same_size

_ID_FILE = "wandb_id"
_STAGING = "WANDB_DATA_DIR"
FAILURES = (wandb.Error, OSError, RuntimeError)
"""What the functions of wandb raise when its service has died or its server has gone."""
_log = logging.getLogger(__name__)


class Tracker:
    """A logger for one run. Use it as a context manager. With `use_wandb=False` it writes only the file
    `metrics.jsonl`."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        project: str = "irg-rl",
        config: Mapping | None = None,
        use_wandb: bool = True,
        deadline_s: float = 60.0,
    ):
        """Start logging into `folder`. `deadline_s` is the longest wait for the server of wandb, in seconds: once at
        the start, and once at the end for unsent data. Data that are still unsent then stay in the run folder, for
        `wandb sync`."""
        self._folder = folder
        self.metrics = MetricsLog(folder / METRICS)
        self._stages: set[str] = set()
        self._run = None
        if use_wandb:
            self._run = _start_wandb(folder, name, project, cast(dict, redact(config or {})), deadline_s)

    def log(self, stage: str, step: int, scalars: Mapping[str, float]) -> None:
        """Log the scalars of one step of one stage. `scalars` maps the name of each scalar to its value."""
        values = self.metrics.append(stage, step, scalars)
        named = {f"{stage}/{name}": float("nan") if v is None else v for name, v in values.items()}
        with self._wandb() as run:
            if run is not None:
                self._axis(run, stage)
                run.log(named | {f"{stage}/step": step})

    def rewind(self, stage: str, step: int) -> None:
        """Remove the lines of metrics.jsonl that `stage` logged after `step`, and all lines of later stages. Call this
        before the stage continues from `step`. wandb keeps its old points and draws the new ones over them."""
        self.metrics.rewind(stage, step)

    def log_samples(self, stage: str, step: int, samples: Sequence[SampledTrajectory]) -> None:
        """Log sampled trajectories to wandb only: as image strips (all images of a trajectory side by side) and as a
        table. The report reads its samples from the folder `samples/`."""
        if self._run is None or not samples:
            return
        shown = [sample for sample in samples if sample.images]
        pictures = same_size([sample.strip() for sample in shown])
        images = [wandb.Image(p, caption=redact_text(s.prompt)) for p, s in zip(pictures, shown, strict=True)]
        content = {f"{stage}/strips": images, f"{stage}/step": step}
        with self._wandb() as run, _staged_in(self._folder / "wandb" / "data"):
            content[f"{stage}/trajectories"] = _table(shown)
            if run is not None:
                self._axis(run, stage)
                run.log(content)

    def close(self) -> None:
        self.metrics.close()
        with self._wandb() as run:
            if run is not None:
                run.finish()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _wandb(self) -> Iterator["wandb.Run | None"]:
        """Give a context (for `with`) in which something is sent to wandb. It yields the run of wandb, or None without
        wandb. If wandb fails, say so once, and from then on log to metrics.jsonl only: training does not end because a
        curve cannot be drawn."""
        try:
            yield self._run
        except FAILURES as error:
            if self._run is None:
                raise
            self._run = None
            with suppress(*FAILURES):
                wandb.teardown()  # otherwise wandb tries this at the end of the program, and shows a traceback
            said = redact_text(f"{type(error).__name__}: {error}".splitlines()[0])
            _log.warning("wandb has failed (%s): from now on only %s is written", said, self._folder / METRICS)

    def _axis(self, run: "wandb.Run", stage: str) -> None:
        if stage not in self._stages:
            self._stages.add(stage)
            run.define_metric(f"{stage}/step", hidden=True)
            run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")


def _start_wandb(folder: Path, name: str, project: str, config: dict, deadline_s: float) -> "wandb.Run":
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    mode = wandb_mode()
    settings = wandb.Settings(
        silent=True,
        console="off",  # text in the terminal may have secrets
        disable_git=True,
        save_code=False,
        x_disable_meta=True,  # do not send the command line and the host name
        init_timeout=deadline_s,
        finish_timeout=deadline_s,
    )
    about = {"project": project, "name": name, "id": _run_id(folder), "dir": str(folder), "config": config}
    try:
        return wandb.init(**about, mode=mode, resume="allow", settings=settings)
    except (CommError, UsageError) as error:
        _log.warning("wandb is not reachable (%s): the run is logged offline", redact_text(str(error)))
        wandb.teardown()  # the service of wandb still keeps the run id of the failed attempt
        return wandb.init(**about, mode="offline", resume="allow", settings=settings)


@contextmanager
def _staged_in(folder: Path) -> Iterator[None]:
    """Make wandb store the files of a table in the run folder. By default they would be in the user's home, and `wandb
    sync` would not find them after the run folder is moved."""
    before = os.environ.get(_STAGING)
    os.environ[_STAGING] = before or str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_STAGING]


def _run_id(folder: Path) -> str:
    path = folder / "wandb" / _ID_FILE
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _table(samples: Sequence[SampledTrajectory]) -> "wandb.Table":
    """Return a wandb table of trajectories with one row per turn."""
    scorers = sorted({name for sample in samples for turn in sample.turns for name in turn.rewards})
    table = wandb.Table(columns=["prompt_id", "prompt", "turn", "text", "image", "correct", "score", *scorers])
    for sample in samples:
        for number, turn in enumerate(sample.turns, start=1):
            image = None if turn.image is None else wandb.Image(turn.image)
            scores = [turn.rewards.get(name) for name in scorers]
            table.add_data(sample.prompt_id, sample.prompt, number, turn.text, image, turn.correct, turn.score, *scores)
    return table
