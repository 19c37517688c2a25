"""Ray plumbing, once: starting it, waiting for it, restartable actors, and the slot buffer.

Ray replaces 127.0.0.1 by the machine's outward address, which would open its ports to the network, except where
clusters are not supported; this switch says so. Ray reads it when it is imported, hence its place here.
"""

import os

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
