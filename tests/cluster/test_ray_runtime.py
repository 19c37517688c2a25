"""Waiting, thread shares and where Ray keeps its sockets."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray
import torch

from irg_rl.cluster.ray_runtime import (
    LocalRay,
    RaySettings,
    WaitTimeoutError,
    actor_options,
    bounded_get,
    kill_processes_of,
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


def test_processes_of_a_session_are_killed_and_no_others(tmp_path):
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    mine, other = (subprocess.Popen([*sleep, str(tmp_path / name / "sockets")]) for name in ("ray", "other"))
    try:
        kill_processes_of(tmp_path / "ray")
        assert mine.wait(timeout=10) != 0
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_the_files_of_ray_are_private(local_ray):
    """Whoever can read its token can run code in its processes."""
    assert local_ray.folder.stat().st_mode & 0o077 == 0
