"""The size of Ray's object store, which should be in shared memory (/dev/shm). Ray puts a store that does not fit there
on the disk, or refuses to start if it is larger than 10 GB."""

import os

from irg_rl.errors import InputError

PLACE = "/dev/shm"
USABLE = 0.95
"""Share of the free shared memory that the object store may take."""
SMALLEST = 512
"""Size of the object store in MiB that Ray may put on the disk, on a machine with too little shared memory."""


def free_shared_memory() -> int | None:
    """Return the free bytes of /dev/shm, or None on a machine that has no such folder."""
    try:
        found = os.statvfs(PLACE)
    except OSError:
        return None
    return found.f_frsize * found.f_bavail


def store_mb(needed: int, wanted: int | None = None, free: int | None = None) -> int:
    """Return the size of the object store in MiB.

    Args:
        needed: Bytes that the run needs. If `wanted` is None, the store has this size, but not more than USABLE of
            `free`, and at least SMALLEST.
        wanted: Size in MiB that the recipe asks for.
        free: Free bytes of shared memory. None: this is unknown, and nothing is limited.

    Raises InputError if `wanted` does not fit the shared memory.
    """
    most = None if free is None else int(USABLE * free) >> 20
    if wanted is None:
        size = -(-needed >> 20)
        return max(size if most is None else min(size, most), SMALLEST)
    if most is not None and wanted > max(most, SMALLEST):
        raise InputError(
            f"engine.object_store_mb {wanted}: {PLACE} has room for {most}; make it larger (in Docker: --shm-size), or "
            "leave the setting out, and what does not fit goes to the disk"
        )
    return wanted


def in_words(needed: int, free: int | None) -> str:
    """Return one line that says how large the object store should be, and whether the shared memory of this machine has
    room for it."""
    said = f"object store: {needed / 2**30:,.2f} GiB of shared memory for weights and groups on their way"
    if free is None:
        return said
    room = f"{PLACE} of this machine has {free / 2**30:,.2f} GiB free"
    if needed <= USABLE * free:
        return f"{said}; {room}"
    return f"{said}, but {room}: what does not fit goes to the disk, which is slow (in Docker: --shm-size)"
