"""Use a Ray cluster that exists already. It may have several nodes.

The program is one of many users of such a cluster. At the end it leaves the cluster, and Ray ends the actors that the
program has started, and nothing else.
"""

import logging
import os
import re
import socket
import uuid
from collections.abc import Callable
from contextlib import suppress

import ray

from irg_rl import stopping
from irg_rl.cluster.ray_runtime import STOP_S, OwnPath, RayStartError, within
from irg_rl.config.engine import AUTO, NO_CLIENT
from irg_rl.imports import FOLDERS, PACKAGES, user_folders

ANSWER_S = 10.0
"""How many seconds the head node of a cluster may take to accept a connection."""


class AttachedRay:
    """A connection of this process to a Ray cluster. `with AttachedRay(address, name): ...` opens and closes it.

    `address` is the address of the cluster's head node as host:port, or `auto`: the address in the environment variable
    RAY_ADDRESS, or the cluster that runs on this machine. This machine must be a node of the cluster. `name` is part of
    the namespace, in which other users of the cluster see the actors.
    """

    def __init__(self, address: str, name: str, quiet: bool = True):
        self.address = address
        self.quiet = quiet
        self.namespace = f"irg-rl {name} {uuid.uuid4().hex[:8]}"

    def __enter__(self) -> "AttachedRay":
        """Connect to the cluster. Raises RayStartError if there is no cluster at the address."""
        if ray.is_initialized():
            raise RuntimeError("Ray already runs in this process; stop it before another run starts")
        where = _where(self.address)
        try:
            _require_answer(where)
            ray.init(
                address=where,
                namespace=self.namespace,
                log_to_driver=not self.quiet,
                logging_level=logging.ERROR if self.quiet else logging.INFO,
                job_config=OwnPath(_py_driver_sys_path=[str(PACKAGES)]),
                runtime_env={
                    "env_vars": {FOLDERS: os.pathsep.join([*user_folders(), os.getcwd()])},
                    "worker_process_setup_hook": _entering(os.getcwd()),
                },
            )
        except Exception as error:  # Ray raises plain `Exception` and RuntimeError here, too
            within(STOP_S, ray.shutdown)
            reason = re.sub(r"\s+", " ", str(error).strip()) or type(error).__name__
            raise RayStartError(
                f"engine.address {self.address}: no Ray cluster can be used at {where} ({reason:.300}): start one with "
                "`ray start`, run irg-rl on one of its nodes with the same Ray, or set engine.address=null for a Ray "
                "on this machine alone"
            ) from error
        stopping.listen()  # Ray has put a handler of its own in place of ours
        return self

    def __exit__(self, *exc_info: object) -> None:
        within(STOP_S, ray.shutdown)  # only leaves the cluster, because this process has not started it


def _entering(folder: str) -> Callable[[], None]:
    """Return a function that each process of an actor calls first. It enters the working folder of the driver. Such a
    process is no child of the driver, so it begins in another folder, where the paths of a recipe mean other files. If
    the node does not have the folder, nothing happens here (shared_folder.py finds it)."""

    def enter() -> None:  # a function inside a function travels as code, so the process need not find this module yet
        with suppress(OSError):
            os.chdir(folder)

    return enter


def _where(address: str) -> str:
    """Return the address that is meant by `auto`, or `auto` itself if Ray must look for a cluster on this machine."""
    meant = os.environ.get("RAY_ADDRESS", "").strip() if address == AUTO else ""
    if "://" in meant:
        raise RayStartError(f"RAY_ADDRESS is {meant}, for engine.address auto: {NO_CLIENT}")
    return meant or address


def _require_answer(address: str) -> None:
    """Connect to host:port and close the connection again. Raises OSError if nothing answers. Ray itself would try for
    a minute."""
    if address == AUTO:
        return
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
