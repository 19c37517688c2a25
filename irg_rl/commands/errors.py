"""Failures a user can do something about, as one line: what, where, what to do. All others are mistakes of the program
and show their traceback."""

import errno

from ray.exceptions import RayError

from irg_rl.cluster.fleet import FleetError
from irg_rl.cluster.ranks import RankError
from irg_rl.cluster.ray_runtime import RayStartError
from irg_rl.commands.run import RunError
from irg_rl.config import RecipeError
from irg_rl.errors import InputError
from irg_rl.learner.checkpoint import CheckpointError
from irg_rl.learner.ratio_check import RatioError
from irg_rl.learner.update import NonFiniteError
from rewards.base import ScorerUnavailable, TooManyFailures
from sft.dataset import DataError

EXPECTED = (
    InputError, RecipeError, RunError, DataError, CheckpointError,  # what was given
    ScorerUnavailable, TooManyFailures, FleetError, RankError, RayStartError, RayError, OSError,  # the machine
    NonFiniteError, RatioError,  # training that would do harm
    KeyboardInterrupt,
)  # fmt: skip


def explain(error: BaseException) -> str:
    """The line, with the actor and the call where a remote failure happened."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped by hand; `irg-rl resume RUN` goes on from the last checkpoint"
    notes = "".join(f" ({note})" for note in vars(error).get("__notes__", []))
    return _words(error) + notes


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"disk full while writing {error.filename or 'a file'}: free some space, then `irg-rl resume RUN`"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port in use ({error}): stop the other program or let the system choose a port"
    text = str(error).strip()
    return text or type(error).__name__
