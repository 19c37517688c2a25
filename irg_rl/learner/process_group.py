"""Connects the ranks (processes) of the learner to one process group. It works for one process or several, with or
without Ray.

The ranks meet at an address of rank 0. If all ranks are on one machine, this is its loopback address. Otherwise it is
an address at which the other machines reach rank 0. Nothing listens at any other address.

Rank 0 hosts a TCPStore on a port that the operating system chooses, and then tells the port to the other ranks. So no
other program can take the port between its choice and its use.
"""

import logging
import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import deepspeed
import deepspeed.ops
import psutil
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


def host_store(world_size: int, timeout: float, address: str = LOOPBACK) -> TCPStore:
    """Create the TCPStore through which the ranks (processes of the learner) find each other. Only rank 0 calls this.
    It must then tell the `port` of the store to the other ranks, which pass it to `join`. `timeout` is in seconds.

    The store listens at `address` only, which must be an address of this machine. By itself a TCPStore would listen at
    every address of the machine. Raises InputError if this machine has no such address.
    """
    try:
        listener = socket.create_server((address, 0), family=_family(address))
    except OSError as error:
        raise InputError(f"learner rank 0 cannot listen at {address} ({error}): {_CHECK_ADDRESS}") from error
    port, limit = listener.getsockname()[1], timedelta(seconds=timeout)
    return TCPStore(
        address, port, world_size, is_master=True, timeout=limit, wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )  # fmt: skip


def join(
    place: Rank, store: Store | None = None, port: int | None = None, timeout: float = 600.0, address: str = LOOPBACK
) -> None:
    """Connect this process with the other processes (ranks) of the learner. `place` says which rank it becomes. A
    second call with the same `place` does nothing.

    If there is only one rank, neither `store` nor `port` is needed. If there are several, rank 0 passes its store and
    the other ranks pass its port.

    Args:
        timeout: Seconds. A collective call that waits longer than this for a missing rank fails.
        address: The address of rank 0 at which its store listens.

    Raises:
        InputError: if `address` cannot be reached through any network interface of this machine.
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
        store = TCPStore(address, port, place.world_size, is_master=False, timeout=limit)
    if store is None:
        if place.world_size > 1:
            raise ValueError(f"rank {place.rank} of {place.world_size} needs the store or its port to find the others")
        store = HashStore()
    _environment(place, address, port or 0)
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


def interface_to(address: str) -> str:
    """Return the name of the network interface, such as `eth0`, through which this machine reaches `address`. For an
    address of this machine it is the interface that has this address. Raises InputError if there is none."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # chooses a route; a datagram socket sends nothing here
        except OSError as error:
            raise InputError(f"no way leads from this machine to {address} ({error}): {_CHECK_ADDRESS}") from error
        own = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address.partition("%")[0] == own for one in addresses):
            return name
    raise InputError(f"no network interface of this machine has the address {own}: {_CHECK_ADDRESS}")


_CHECK_ADDRESS = "start Ray on this node with --node-ip-address=ADDRESS, an address that the other nodes reach"


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _environment(place: Rank, address: str, port: int) -> None:
    """Set the environment variables that DeepSpeed, gloo and NCCL read. LOCAL_RANK is always 0, because each process
    sees only its own device. A network interface that the user has chosen is kept.
    """
    interface = interface_to(address)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if address != LOOPBACK:
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # "=" asks for exactly this name
    os.environ.update(
        RANK=str(place.rank),
        WORLD_SIZE=str(place.world_size),
        LOCAL_RANK="0",
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
    )
