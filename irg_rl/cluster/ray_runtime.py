"""Starting Ray on this machine, thread shares, and the one place where the program waits for a remote result.

Ray listens on the loopback address only, without a dashboard and without usage statistics.

Every wait has a deadline and says what it waits for (invariant 7); a remote exception arrives as its cause, not as a
Ray traceback.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ray
from ray import ObjectRef
from ray._private import ray_constants
from ray.actor import ActorHandle, ActorProxy
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.job_config import JobConfig

from irg_rl.errors import UserError
from irg_rl.imports import PACKAGES

ActorFactory = Callable[[int], ActorProxy[Any]]
"""Starts actor number i. `ActorProxy` is Ray's type of a handle that `Actor.remote()` returns."""
_START_ATTEMPTS = 3
# AF_UNIX paths end at 107 bytes; Ray appends "/session_<date>_<time>_<micros>_<pid>/sockets/plasma_store"
_SOCKET_LIMIT = 107
_SOCKET_SUFFIX = len("/session_2025-01-01_00-00-00_000000_4194304/sockets/plasma_store")


class WaitTimeoutError(UserError, TimeoutError):
    """A remote result did not arrive before its deadline."""


class RayStartError(UserError, RuntimeError):
    """Ray cannot start on this machine."""


@dataclass(frozen=True)
class RaySettings:
    """How much of this machine Ray may use."""

    num_cpus: int  # logical CPUs that actors are placed on
    object_store_mb: int = 512  # shared memory for groups and weights
    quiet: bool = True  # do not print the output of actors in the driver's terminal; Ray's log files have it


def start_actor(factory: ActorFactory, index: int) -> ActorHandle:
    """Start actor number `index`. `ActorProxy` exists only for type checkers: at run time it is an `ActorHandle`."""
    return cast(ActorHandle, factory(index))


class LocalRay:
    """A Ray instance of this process alone: `with LocalRay(settings, run_folder): ...` starts and stops it.

    Ray's sockets and logs lie in `<folder>/ray` if the socket paths are short enough for the operating system.
    Otherwise they lie in a temporary folder that is removed at the end.
    """

    def __init__(self, settings: RaySettings, folder: Path):
        if settings.num_cpus < 1:
            raise ValueError(f"num_cpus is {settings.num_cpus}; Ray needs at least 1")
        self.settings = settings
        self.run_folder = self.folder = folder
        self._temporary = False

    def __enter__(self) -> "LocalRay":
        if ray.is_initialized():
            raise RuntimeError("Ray already runs in this process; stop it before another run starts")
        self.folder, self._temporary = session_folder(self.run_folder)
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        _stay_on_loopback()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _start(self) -> None:
        """Start Ray, in several attempts: its agents give up after 20 seconds, which is too short on a busy machine."""
        for attempt in range(_START_ATTEMPTS):
            try:
                ray.init(
                    address="local",
                    num_cpus=self.settings.num_cpus,
                    object_store_memory=self.settings.object_store_mb * 2**20,
                    include_dashboard=False,
                    log_to_driver=not self.settings.quiet,
                    logging_level=logging.ERROR if self.settings.quiet else logging.INFO,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(self.folder),
                    job_config=_OwnPath(_py_driver_sys_path=[str(PACKAGES)]),
                )
                return
            except Exception as error:  # Ray raises the bare class here
                ray.shutdown()
                if attempt + 1 == _START_ATTEMPTS:
                    raise RayStartError(
                        f"Ray did not start in {_START_ATTEMPTS} attempts ({error}); its logs are in {self.folder}; "
                        "free some processor time or memory and resume"
                    ) from error

    def stop(self) -> None:
        """End every actor and Ray itself. It is safe to call twice."""
        ray.shutdown()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)


class _OwnPath(JobConfig):
    """Ray puts the working folder and the script's before everything else on the path of its workers, where a user's
    `rewards.py` or `sft/` would shadow the program's. It does not where the job says that it looks after its folder."""

    def _runtime_env_has_working_dir(self) -> bool:
        return True


def _stay_on_loopback() -> None:
    """Make Ray listen on 127.0.0.1 only. Ray replaces this address by the outward address of the machine, which would
    open its ports to the network, unless it believes that clusters are not supported. The constant was read from the
    variable when Ray was imported, and Ray's other processes read the variable, so both are set."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def session_folder(run_folder: Path) -> tuple[Path, bool]:
    """The folder for Ray's sockets, and whether it is a temporary one outside the run."""
    wanted = run_folder.resolve() / "ray"
    if len(os.fsencode(wanted)) + _SOCKET_SUFFIX <= _SOCKET_LIMIT:
        return wanted, False
    return Path(tempfile.mkdtemp(prefix="irg-ray-", dir="/tmp")), True


def bounded_get(refs: ObjectRef | Sequence[ObjectRef], timeout: float, what: str) -> Any:
    """The value of one reference, or the values of a list of references.

    Args:
        timeout: seconds for all of them together.
        what: completes "waiting for ...", used in the error.

    Raises:
        WaitTimeoutError: naming `what` and the seconds.
        the remote exception itself, with a note that names `what`, when the remote code raised.
        ray.exceptions.RayError: when the process is gone.
    """
    pending = refs if isinstance(refs, ObjectRef) else list(refs)
    try:
        return ray.get(pending, timeout=timeout)
    except GetTimeoutError as error:
        raise WaitTimeoutError(f"gave up after {timeout:g} s waiting for {what}") from error
    except RayTaskError as error:
        cause = error.cause
        if not isinstance(cause, Exception):
            raise
        cause.add_note(f"raised remotely, while waiting for {what}")
        raise cause from error  # which holds the remote traceback


def reason_of(error: BaseException) -> str:
    """A failure in one line: its first line, or the last one if the constructor of an actor raised."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return f"its constructor raised {lines[-1]}"
    return f"{type(error).__name__}: {lines[0]}"


def thread_environment(threads: int) -> dict[str, str]:
    """Environment of a process that may use `threads` cores. Without it two torch processes with two threads each slow
    each other down on two cores."""
    if threads < 1:
        raise ValueError(f"threads is {threads}; an actor needs at least 1")
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {name: str(threads) for name in names} | {"TOKENIZERS_PARALLELISM": "false"}


def actor_options(
    *, threads: int, cpus: float, gpus: float = 0.0, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """Options for `ActorClass.options(**...)`: a share of the machine, and no automatic restart. (An actor that Ray
    restarts would serve with the weights of its constructor. The fleet restarts it and sends the current weights.)"""
    variables = thread_environment(threads) | (environment or {})
    return {
        "num_cpus": cpus,
        "num_gpus": gpus,
        "max_restarts": 0,
        "max_task_retries": 0,
        "runtime_env": {"env_vars": variables},
    }
