"""The processes of a Ray that belongs to one run."""

from contextlib import suppress
from pathlib import Path

import psutil

SERVERS = {"gcs_server": "Ray's server", "raylet": "Ray's node process"}
"""Programs that Ray cannot go on without -> their names in messages."""


def session_processes(session: Path) -> list[psutil.Process]:
    """Return the processes of a Ray session: the descendants of this process whose command lines contain the folder of
    the session, and their own descendants, most of which change their command lines."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(str(session) in word for word in process.cmdline()):
                found += [process, *process.children(recursive=True)]
    return found


def server_name(process: psutil.Process) -> str | None:
    """Return what a process is called in messages if Ray cannot go on without it, otherwise None."""
    with suppress(psutil.Error):
        return SERVERS.get(Path(process.cmdline()[0]).name)
    return None


def runs(process: psutil.Process) -> bool:
    """Return whether a process still works. One that has ended but was not waited for (a zombie) does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it may not be looked at, but it is there
        return True
