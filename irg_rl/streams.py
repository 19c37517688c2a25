"""Named streams of random numbers: what is drawn is a function of the name alone, never of order or process.

A name is hashed to the 128-bit key of a counter-based generator (Philox). torch's CPU generator keeps only 32 bits of
its seed, too few for millions of streams.
"""

import hashlib
import json

import numpy as np


def hashed(*name: str | int) -> int:
    """A 128-bit number from a name; JSON keeps ("a", "bc") and ("ab", "c") apart."""
    return int.from_bytes(hashlib.sha256(json.dumps(name).encode()).digest()[:16], "little")


def stream(*name: str | int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=hashed(*name)))
