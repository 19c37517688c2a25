"""Start Ray on this machine, give each process a share of the CPU threads, and wait for remote results. A Ray cluster
that exists already is used by attached.py instead.

Ray listens on the loopback address only, without a dashboard and without usage statistics.

The program waits for remote results only in the function `bounded_get`. Every wait has a deadline. The error at the
deadline says which result is missing (invariant 7 of docs/architecture.md). If remote code raised an exception, the
same exception is raised here, instead of a Ray traceback.
"""

import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import psutil
import ray
from ray import ObjectRef
from ray._private import ray_constants
from ray.actor import ActorHandle, ActorProxy
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayTaskError
from ray.job_config import JobConfig

from irg_rl import faults, stopping
from irg_rl.cluster.ray_processes import runs, server_name, session_processes
from irg_rl.cluster.shared_memory import SMALLEST
from irg_rl.errors import UserError
from irg_rl.imports import PACKAGES

ActorFactory = Callable[[int], ActorProxy[Any]]
"""Type of a function that starts actor number i. `ActorProxy` is Ray's type for the handle that `Actor.remote()`
returns.
"""
LOOPBACK = "127.0.0.1"
STOP_S = 60.0
"""How many seconds Ray may take to end before its processes are killed."""
_LOOK_S = 0.2
_SIGNAL_S = 1.0  # a signal to all processes reaches this one within this time
KILL_S = 10.0
"""How many seconds Ray may take to kill actors."""
_START_ATTEMPTS = 3
# An AF_UNIX path has at most 107 bytes. Ray appends "/session_<date>_<time>_<micros>_<pid>/sockets/plasma_store".
_SOCKET_LIMIT = 107
_OPEN = "s"  # Ray lets everybody write into its folder. So this folder is inside a private one.
_SOCKET_SUFFIX = len(f"/{_OPEN}/session_2025-01-01_00-00-00_000000_4194304/sockets/plasma_store")


class WaitTimeoutError(UserError, TimeoutError):
    """Raised if a remote result did not arrive before its deadline."""


class RayStartError(UserError, RuntimeError):
    """Raised if Ray cannot start on this machine."""


@dataclass(frozen=True)
class RaySettings:
    """Settings that say how much of this machine Ray may use."""

    num_cpus: int  # number of logical CPUs that Ray may give to actors
    object_store_mb: int = SMALLEST  # shared memory for groups and weights, in MiB
    quiet: bool = True  # do not print the output of actors in the driver's terminal; it is still in Ray's log files


def start_actor(factory: ActorFactory, index: int) -> ActorHandle:
    """Start actor number `index`, and return its handle. `factory(index)` does the work. This function only adds a cast
    for type checkers, because Ray declares another type for the handle."""
    return cast(ActorHandle, factory(index))


def within(seconds: float, work: Callable[[], object]) -> bool:
    """Call `work()`, and wait for its end at most so many seconds. Return whether it has ended. An exception of it is
    raised here. Use this for calls of Ray that have no time limit of their own: they wait for ever if a process of Ray
    hangs."""
    failed: list[Exception] = []

    def call() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    return not thread.is_alive()


def end_actors(actors: Sequence[ActorHandle]) -> list[str]:
    """Kill actors, all at the same time, in at most KILL_S seconds. Return for each actor an empty text, or why it may
    still live."""
    said = [f"Ray has not killed it in {KILL_S:g} s"] * len(actors)

    def end(index: int) -> None:
        try:
            ray.kill(actors[index], no_restart=True)
            said[index] = ""
        except Exception as error:  # noqa: BLE001 - whatever it is, the actor may live
            said[index] = reason_of(error)

    threads = [threading.Thread(target=end, args=(index,), daemon=True) for index in range(len(actors))]
    until = time.monotonic() + KILL_S
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return list(said)  # a thread that is late changes the other list


class LocalRay:
    """A Ray instance that only this process uses. `with LocalRay(settings, run_folder): ...` starts and stops it.

    Ray's sockets and logs are in the subfolder `ray` of the run folder if the socket paths are short enough for the
    operating system. Otherwise they are in a temporary folder, which is removed at the end.
    """

    def __init__(self, settings: RaySettings, folder: Path):
        if settings.num_cpus < 1:
            raise ValueError(f"num_cpus is {settings.num_cpus}; Ray needs at least 1")
        self.settings = settings
        self.run_folder = self.folder = folder
        self._temporary = False
        self._loopback_only = ExitStack()
        self._processes: list[psutil.Process] = []
        self._ends = threading.Event()

    def __enter__(self) -> "LocalRay":
        if ray.is_initialized():
            raise RuntimeError("Ray already runs in this process; stop it before another run starts")
        self.folder, self._temporary = session_folder(self.run_folder)
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._loopback_only.enter_context(_loopback_only())
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)  # whoever can read Ray's files can run code in its processes
        try:
            self._start()
        except RayStartError:
            self._loopback_only.close()  # the folder stays, because the message points to the logs in it
            raise
        except BaseException:  # also a signal, which may arrive while Ray starts
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _start(self) -> None:
        """Start Ray. This is tried several times, because Ray's agents give up after 20 seconds, which is too short on
        a busy machine.
        """
        for attempt in range(_START_ATTEMPTS):
            try:
                ray.init(
                    address="local",
                    num_cpus=self.settings.num_cpus,
                    object_store_memory=self.settings.object_store_mb * 2**20,
                    include_dashboard=False,
                    log_to_driver=not self.settings.quiet,
                    logging_level=logging.ERROR if self.settings.quiet else logging.INFO,
                    _node_ip_address=LOOPBACK,
                    _temp_dir=str(self.folder / _OPEN),
                    job_config=OwnPath(_py_driver_sys_path=[str(PACKAGES)]),
                )
                stopping.listen()  # Ray has put a handler of its own in place of ours
                self._processes = session_processes(self.folder)
                self._ends.clear()
                threading.Thread(target=self._watch, daemon=True).start()
                return
            except Exception as error:  # Ray raises plain `Exception` here, not a subclass
                self._shut_down()
                if attempt + 1 == _START_ATTEMPTS:
                    raise RayStartError(
                        f"Ray did not start in {_START_ATTEMPTS} attempts ({error}); its logs are in {self.folder}; "
                        "free some processor time or memory and resume"
                    ) from error

    def stop(self) -> None:
        """End every actor and Ray itself. It is safe to call this twice."""
        self._shut_down()
        self._loopback_only.close()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _shut_down(self) -> None:
        """End Ray within `STOP_S` seconds. Processes that still run then are killed, and so are those that a failed
        start has left behind."""
        self._ends.set()
        late = threading.Timer(STOP_S, self._kill)
        late.daemon = True
        late.start()
        try:
            ray.shutdown()
        finally:
            late.cancel()
        self._kill()

    def _watch(self) -> None:
        """End this process with one line if one of Ray's two servers dies. Neither comes back, and Ray itself would end
        this process without a line, or only after a minute."""
        watched = {process: name for process in self._processes if (name := server_name(process))}
        while not self._ends.wait(_LOOK_S):
            for process, name in watched.items():
                if not runs(process):
                    if self._ends.wait(_SIGNAL_S) or stopping.asked():
                        return  # the same signal has ended all processes, and this one ends in order
                    self._end(name)

    def _end(self, name: str) -> NoReturn:
        """End this process because the server `name` of Ray has died."""
        try:
            show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides it
            sys.stderr.write(
                f"{show_cursor}\nerror: {name} has died, perhaps because the machine had too little memory; its logs "
                f"are in {self.folder}; resume the run\n"
            )
            sys.stderr.flush()
            self._kill()
        finally:
            os._exit(1)

    def _kill(self) -> None:
        """Kill all processes of this Ray that still run. Where Ray's node process has died, its agents are no longer
        descendants of this process, so those that were found at the start are killed, too."""
        for process in {*self._processes, *session_processes(self.folder)}:
            with suppress(psutil.Error):
                process.kill()


class OwnPath(JobConfig):
    """A Ray job configuration that keeps Ray from changing the import path of its workers. Normally Ray puts the
    working folder and the folder of the script first on this path. Then a user's own `rewards.py` or `sft/` in these
    folders would be imported instead of the program's modules. Ray does not change the path of a job that has its own
    working folder. So this class tells Ray that the job has one.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Give a context (for `with`) in which Ray listens on 127.0.0.1 only.

    Normally Ray replaces this address by the outward address of the machine, which would open its ports to the network.
    It keeps 127.0.0.1 if its setting ENABLE_RAY_CLUSTER is false. This function switches the setting off in two ways.
    It sets an environment variable, which is read by Ray's other processes. It also sets a constant of Ray in this
    process, because Ray has read the variable only once, at its import.
    """
    name, before = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", ray_constants.ENABLE_RAY_CLUSTER
    told = os.environ.get(name)
    os.environ[name] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(name)
        if told is not None:
            os.environ[name] = told


def session_folder(run_folder: Path) -> tuple[Path, bool]:
    """Return (the folder for Ray's sockets, whether this is a temporary folder outside the run folder)."""
    wanted = run_folder.resolve() / "ray"
    if len(os.fsencode(wanted)) + _SOCKET_SUFFIX <= _SOCKET_LIMIT:
        return wanted, False
    return Path(tempfile.mkdtemp(prefix="irg-ray-", dir="/tmp")), True


def bounded_get(refs: ObjectRef | Sequence[ObjectRef], timeout: float, what: str) -> Any:
    """Wait for a remote result and return it. For a list of references, wait for all of them and return the list of
    their results.

    Args:
        timeout: Seconds for all references together.
        what: Text that completes "waiting for ..." in the error message.

    Raises:
        WaitTimeoutError: if the time is over. It names `what` and the seconds.
        the remote exception itself: if the remote code raised one. A note with `what` is added to it.
        ray.exceptions.RayError: if the remote process is gone.
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
        raise cause from error  # `error` holds the remote traceback


def reason_of(error: BaseException) -> str:
    """Describe an error in one line. If the constructor of an actor raised the error, the line contains the last line
    of the message. If the connection to an actor is broken, the line says so. Otherwise it contains the name of the
    error and the first line of the message.
    """
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return f"its constructor raised {lines[-1]}"
    if isinstance(error, ActorUnavailableError):  # its message is that of the connection, in several layers
        return "its process cannot be reached"
    return f"{type(error).__name__}: {lines[0]}"


def thread_environment(threads: int) -> dict[str, str]:
    """Return environment variables that limit a process to `threads` CPU threads. Without them, for example, two torch
    processes on two cores would start two threads each and slow each other down.
    """
    if threads < 1:
        raise ValueError(f"threads is {threads}; an actor needs at least 1")
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {name: str(threads) for name in names} | {"TOKENIZERS_PARALLELISM": "false"}


def actor_options(
    *, threads: int, cpus: float, gpus: float = 0.0, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return the options for `ActorClass.options(**...)`. They give the actor its share of the machine: `threads` CPU
    threads, and the numbers of CPUs and GPUs that Ray reserves for it. `environment` has further environment variables.

    The options also switch off Ray's automatic restart. Ray would restart an actor with the old weights that its
    constructor got. So the fleet (fleet.py) restarts actors itself and sends them the current weights.
    """
    variables = thread_environment(threads) | (environment or {}) | faults.environment()
    return {
        "num_cpus": cpus,
        "num_gpus": gpus,
        "max_restarts": 0,
        "max_task_retries": 0,
        "runtime_env": {"env_vars": variables},
    }
