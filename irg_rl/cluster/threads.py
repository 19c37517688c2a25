"""The threads of one process among several. No Ray here: a rollout worker also runs without it."""

import torch


def take_thread_share(threads: int) -> None:
    """Call this first inside an actor: it sets torch's own thread pools, which ignore a later OMP setting."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
