"""How large the object store becomes, on machines with much and with little shared memory."""

import pytest

from irg_rl.cluster.shared_memory import SMALLEST, free_shared_memory, in_words, store_mb
from irg_rl.errors import InputError

GIB = 2**30


@pytest.mark.parametrize(("needed", "free", "found"), [
    (8 * GIB, 100 * GIB, 8192),
    (8 * GIB + 1, 100 * GIB, 8193),
    (8 * GIB, None, 8192),
    (8 * GIB, 4 * GIB, 3891),  # 95 %
    (8 * GIB, 64 << 20, SMALLEST),  # as in a Docker container without --shm-size
    (1000, 100 * GIB, SMALLEST),
])  # fmt: skip
def test_the_store_is_as_large_as_needed_and_as_the_shared_memory_allows(needed, free, found):
    assert store_mb(needed, None, free) == found


def test_a_size_of_the_recipe_is_taken_or_refused():
    assert store_mb(8 * GIB, 2048, 100 * GIB) == store_mb(8 * GIB, 2048, None) == 2048
    assert store_mb(8 * GIB, SMALLEST, 0) == SMALLEST
    with pytest.raises(InputError, match="engine.object_store_mb 2048: /dev/shm has room for 972"):
        store_mb(8 * GIB, 2048, GIB)


def test_words_say_when_it_does_not_fit():
    assert in_words(8 * GIB, 100 * GIB).endswith("/dev/shm of this machine has 100.00 GiB free")
    assert "8.00 GiB" in in_words(8 * GIB, GIB) and "what does not fit goes to the disk" in in_words(8 * GIB, GIB)
    assert "/dev/shm" not in in_words(8 * GIB, None)


def test_the_free_shared_memory_of_this_machine_is_known_or_it_has_none():
    free = free_shared_memory()
    assert free is None or free >= 0
