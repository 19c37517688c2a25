"""Connects the ranks (processes) of the learner to one process group. It works for one process or several, with or
without Ray. All ranks are on one machine and use its loopback address.

Rank 0 hosts a TCPStore on a port that the operating system chooses, and then tells the port to the other ranks. So no
other program can take the port between its choice and its use.
"""

import logging
import os
import sys
from dataclasses import dataclass
from datetime import timedelta

import deepspeed
import deepspeed.ops
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

# torch documents the store classes under this module name, but does not mark them as exported
from torch.distributed import HashStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from irg_rl.errors import InputError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Rank:
    """Describes one process (rank) of the learner: its number, the number of all ranks, and its device."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"  # "cpu" or "cuda"

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} does not exist among {self.world_size} ranks")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device {self.device!r}: choose cpu or cuda")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("device cuda is asked for, but this machine has no usable GPU; set device to cpu")
        accelerator = get_accelerator()
        assert accelerator is not None
        chosen = accelerator.device_name()
        if chosen != self.device:
            raise InputError(f"device is {self.device} but DeepSpeed chose {chosen}: set DS_ACCELERATOR={self.device}")


def host_store(world_size: int, timeout: float) -> TCPStore:
    """Create the TCPStore through which the ranks (processes of the learner) find each other. Only rank 0 calls this.
    It must then tell the `port` of the store to the other ranks, which pass it to `join`. `timeout` is in seconds."""
    limit = timedelta(seconds=timeout)
    return TCPStore(LOOPBACK, 0, world_size, is_master=True, timeout=limit, wait_for_workers=False)


def join(place: Rank, store: Store | None = None, port: int | None = None, timeout: float = 600.0) -> None:
    """Connect this process with the other processes (ranks) of the learner. `place` says which rank it becomes. A
    second call with the same `place` does nothing.

    If there is only one rank, neither `store` nor `port` is needed. If there are several, rank 0 passes its store and
    the other ranks pass its port.

    Args:
        timeout: Seconds. A collective call that waits longer than this for a missing rank fails.

    Raises:
        RuntimeError: if this process already is another rank, or if another rank does not join in time.
        ValueError: if there are several ranks and neither `store` nor `port` is given.
    """
    if dist.is_initialized():
        found = (dist.get_rank(), dist.get_world_size())
        if found != (place.rank, place.world_size):
            raise RuntimeError(f"this process is rank {found[0]} of {found[1]}, not {place.rank} of {place.world_size}")
        return
    limit = timedelta(seconds=timeout)
    if store is None and port is not None:
        store = TCPStore(LOOPBACK, port, place.world_size, is_master=False, timeout=limit)
    if store is None:
        if place.world_size > 1:
            raise ValueError(f"rank {place.rank} of {place.world_size} needs the store or its port to find the others")
        store = HashStore()
    _environment(place, port or 0)
    _quieten_deepspeed()
    backend = "nccl" if place.device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world_size, timeout=limit)
    deepspeed.init_distributed(dist_backend=backend, dist_init_required=False, verbose=False)


def leave() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _quieten_deepspeed() -> None:
    """Switch off an extension that DeepSpeed would build with ninja and g++ at its first start on a CPU. The build
    takes half a minute, and it fails on a machine without these tools. Also make DeepSpeed log only errors.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)


def _environment(place: Rank, port: int) -> None:
    """Set the environment variables that DeepSpeed reads. LOCAL_RANK is always 0, because each process sees only its
    own device.
    """
    interface = "lo0" if sys.platform == "darwin" else "lo"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    os.environ.update(
        RANK=str(place.rank),
        WORLD_SIZE=str(place.world_size),
        LOCAL_RANK="0",
        MASTER_ADDR=LOOPBACK,
        MASTER_PORT=str(port),
    )
