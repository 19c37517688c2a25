"""Named streams of random numbers. The numbers depend only on the name, not on order or process.

The name is hashed to the 128-bit key of a counter-based generator (Philox). The CPU generator of torch keeps only 32
bits of its seed, which is too few for millions of streams.
"""

import hashlib
import json

import numpy as np


def hashed(*name: str | int) -> int:
    """A 128-bit number from a name. The name is written as JSON, so ("a", "bc") and ("ab", "c") differ."""
    return int.from_bytes(hashlib.sha256(json.dumps(name).encode()).digest()[:16], "little")


def stream(*name: str | int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=hashed(*name)))
