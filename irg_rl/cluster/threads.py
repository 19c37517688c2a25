"""Sets how many CPU threads a process uses when several processes share a machine. This module does not import Ray,
because a rollout worker can also run without Ray.
"""

import torch


def take_thread_share(threads: int) -> None:
    """Set the number of threads that torch uses in this process. Call this first inside an actor. Environment variables
    such as OMP_NUM_THREADS would come too late there, because torch's own thread pools ignore later changes of them.
    """
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
