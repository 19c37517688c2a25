"""Runs a function on several learner ranks, each a process of its own, and returns what rank 0 returned."""

import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable
from typing import Any

import torch

from irg_rl.learner.process_group import LOOPBACK, Rank, host_store, join


def _main(rank: int, world_size: int, address: str, port, results, function: Callable, args: tuple) -> None:
    torch.set_num_threads(1)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # set if the parent process itself has called `join`
        os.environ.pop(name, None)
    try:
        place = Rank(rank, world_size)
        if rank == 0:
            store = host_store(world_size, 60, address)
            for _ in range(world_size - 1):
                port.put(store.port)
            join(place, store, timeout=60, address=address)
        else:
            join(place, port=port.get(timeout=60), timeout=60, address=address)
        results.put((rank, function(place, *args)))
    except BaseException:
        results.put((rank, RuntimeError(traceback.format_exc())))
        raise


def run_on_ranks(
    world_size: int, function: Callable, *args: Any, timeout: float = 120.0, address: str = LOOPBACK
) -> list[Any]:
    """`function(place, *args)` on every rank; results in rank order. Raises the first rank's failure."""
    context = multiprocessing.get_context("spawn")
    port, results = context.Queue(), context.Queue()
    processes = [
        context.Process(target=_main, args=(rank, world_size, address, port, results, function, args), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    try:
        while len(found) < world_size:
            rank, value = results.get(timeout=timeout)
            if isinstance(value, Exception):
                raise value
            found[rank] = value
    except queue.Empty as error:
        missing = sorted(set(range(world_size)) - set(found))
        raise TimeoutError(f"ranks {missing} did not finish in {timeout} s") from error
    finally:
        for process in processes:
            process.join(timeout=5 if len(found) == world_size else 0.1)
            process.kill()
    return [found[rank] for rank in range(world_size)]
