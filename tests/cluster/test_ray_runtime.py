"""Waiting, thread shares and where Ray keeps its sockets."""

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray
import torch
from ray.exceptions import ActorUnavailableError

from irg_rl.cluster.ray_processes import SERVERS, session_processes
from irg_rl.cluster.ray_runtime import (
    LocalRay,
    RaySettings,
    WaitTimeoutError,
    actor_options,
    bounded_get,
    reason_of,
    session_folder,
    thread_environment,
    within,
)
from irg_rl.cluster.threads import take_thread_share


@ray.remote
def slow(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@ray.remote
def broken() -> None:
    raise ValueError("the judge at http://127.0.0.1:9 is dead")


@ray.remote
class Worker:
    def threads(self, share: int) -> tuple[int, str]:
        take_thread_share(share)
        return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


def test_a_wait_that_is_too_long_says_what_it_waited_for(local_ray):
    with pytest.raises(WaitTimeoutError, match="gave up after 0.2 s waiting for the slow task"):
        bounded_get(slow.remote(30.0), 0.2, "the slow task")


def test_several_results_come_in_the_order_of_their_references(local_ray):
    assert bounded_get([slow.remote(0.3), slow.remote(0.0)], 30, "two tasks") == [0.3, 0.0]


def test_a_remote_error_arrives_as_its_cause_with_a_note(local_ray):
    with pytest.raises(ValueError, match="judge .* is dead") as caught:
        bounded_get(broken.remote(), 30, "the judge")
    assert caught.value.__notes__ == ["raised remotely, while waiting for the judge"]
    assert "ray" not in type(caught.value).__module__
    assert "in broken" in str(caught.value.__cause__), "the remote traceback is lost"


def test_a_call_that_does_not_end_is_left_alone_and_one_that_fails_is_not_silent():
    hanging = threading.Event()
    assert not within(0.1, hanging.wait) and within(60.0, int)
    hanging.set()
    with pytest.raises(ValueError, match="actor"):
        within(60.0, lambda: int("actor"))


def test_an_actor_gets_its_thread_share(local_ray):
    worker = Worker.options(**actor_options(threads=1, cpus=0.5)).remote()
    assert bounded_get(worker.threads.remote(1), 60, "threads") == (1, "1")


def test_a_thread_share_below_one_is_refused():
    with pytest.raises(ValueError, match="threads is 0"):
        thread_environment(0)


def test_sockets_stay_in_the_run_folder_when_the_path_is_short_and_move_when_it_is_long(tmp_path):
    short, temporary = session_folder(Path("/tmp/r"))
    assert (short, temporary) == (Path("/tmp/r/ray"), False)
    elsewhere, temporary = session_folder(tmp_path / ("a-very-long-name" * 6))
    assert temporary and len(str(elsewhere)) < 40
    elsewhere.rmdir()


def test_the_length_of_a_socket_path_is_counted_in_bytes(tmp_path):
    """A run folder of 20 letters that take 60 bytes passed, and Ray did not start."""
    elsewhere, temporary = session_folder(Path("/tmp") / ("犬" * 12))
    assert temporary
    elsewhere.rmdir()


def test_a_ray_that_is_never_started_leaves_no_folder_behind(tmp_path):
    before = set(Path("/tmp").glob("irg-ray-*"))
    LocalRay(RaySettings(num_cpus=1), tmp_path / ("a-very-long-name" * 6))
    assert set(Path("/tmp").glob("irg-ray-*")) == before


def ray_processes() -> list[int]:
    """This test session's Ray processes: its children and grandchildren."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rsplit(")", 1)[1].split()[1])
    mine = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in mine and pid not in mine}:
        mine |= more
    return sorted(mine - {os.getpid()})


def sockets_of(pid: int) -> set[str]:
    """Inode numbers of a process's open sockets."""
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads the socket table of Linux")
def test_ray_listens_on_the_loopback_address_only(local_ray):
    assert ray.get_runtime_context().gcs_address.startswith("127.")
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    inodes = {row.split()[9] for row in table if row.split()[3] == "0A" and row.split()[1][6:8] != "7F"}
    open_to_all = [pid for pid in ray_processes() if inodes & sockets_of(pid)]
    assert open_to_all == []


def test_processes_of_a_session_are_found_with_their_children_and_no_others(tmp_path):
    sleep = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    both = [subprocess.Popen([sys.executable, "-c", sleep, str(tmp_path / name / "sockets")]) for name in ("ray", "o")]
    try:
        end = time.monotonic() + 60
        while sum(len(psutil.Process(one.pid).children()) for one in both) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        found = session_processes(tmp_path / "ray")
        assert found == [psutil.Process(both[0].pid), *psutil.Process(both[0].pid).children()]
    finally:
        for one in both:
            for child in psutil.Process(one.pid).children():
                child.kill()
            one.kill()
            one.wait()


SERVERLESS = """
import sys, time
from pathlib import Path
from irg_rl.cluster.ray_runtime import LocalRay, RaySettings
from irg_rl.cluster.ray_processes import session_processes
with LocalRay(RaySettings(num_cpus=1), Path(sys.argv[1])) as local:
    [server] = [one for one in session_processes(local.folder) if Path(one.cmdline()[0]).name == sys.argv[2]]
    server.kill()
    time.sleep(600)
"""


@pytest.mark.parametrize("server", SERVERS)
def test_a_run_ends_with_one_line_when_a_server_of_ray_dies(tmp_path, server):
    command = [sys.executable, "-c", SERVERLESS, str(tmp_path), server]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.fullmatch(rf"error: {SERVERS[server]} has died, .*; resume the run", done.stderr.splitlines()[-1])


def test_a_broken_connection_is_said_in_plain_words():
    error = ActorUnavailableError("RpcError: RPC error: failed to connect; last error: UNKNOWN", b"a" * 16)
    assert reason_of(error) == "its process cannot be reached"


def test_the_files_of_ray_are_private(local_ray):
    """Whoever can read its token can run code in its processes."""
    assert local_ray.folder.stat().st_mode & 0o077 == 0
