"""Named streams of random numbers. The numbers depend only on the name of the stream, not on the order of calls or on
the process.

The name is hashed to the 128-bit key of a counter-based generator (Philox). The CPU generator of torch is not used,
because it keeps only 32 bits of its seed. This is too few for millions of streams.
"""

import hashlib
import json

import numpy as np


def hashed(*name: str | int) -> int:
    """Return a 128-bit number computed from a name, which can have several parts. The parts are written as a JSON list
    before they are hashed, so ("a", "bc") and ("ab", "c") give different numbers."""
    return int.from_bytes(hashlib.sha256(json.dumps(name).encode()).digest()[:16], "little")


def stream(*name: str | int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=hashed(*name)))
