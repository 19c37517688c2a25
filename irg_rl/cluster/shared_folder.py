"""Check that the nodes of a cluster see the same run folder as the driver. The actors read models from this folder, and
learner rank 0 writes checkpoints into it.

The driver writes a file with a random word. A task on every node reads the word back.
"""

import time
import uuid
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from irg_rl.cluster.placement import ClusterNode
from irg_rl.cluster.ray_runtime import bounded_get
from irg_rl.errors import UserError

ANSWER_S = 60.0
"""How many seconds a node may take to answer. It may have to start a process first."""
APPEAR_S = 5.0
"""How many seconds a network disk may take to show a new file on all nodes."""


class SharedFolderError(UserError, RuntimeError):
    """Raised if a node of the cluster does not see the run folder of the driver."""


class SharedFolder:
    """The run folder of the driver. `with SharedFolder(folder) as shared: shared.check(node)` checks whether a node
    sees it. Each node is checked only once."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self._word = uuid.uuid4().hex
        self._file = self.folder / f".shared-{self._word[:8]}"
        self._checked: set[str] = set()

    def __enter__(self) -> "SharedFolder":
        self._file.write_text(self._word)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.unlink(missing_ok=True)

    def check(self, *nodes: ClusterNode) -> None:
        """Raise SharedFolderError if a node does not see the folder, or if it sees another folder at this path."""
        new = {node.id: node for node in nodes if node.id not in self._checked}
        asked = []
        for node in new:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            task = ray.remote(read_back).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            asked.append(task.remote(str(self._file), APPEAR_S))
        for node, answer in zip(new.values(), asked, strict=True):
            found = bounded_get(answer, ANSWER_S, f"node {node.address} to read the run folder {self.folder}")
            if found != self._word:
                raise SharedFolderError(
                    f"node {node.address} does not see the run folder {self.folder} as the driver does ({found:.100}): "
                    "set output_dir to a folder on a disk that all nodes share, at the same path"
                )
        self._checked |= new.keys()


def read_back(path: str, patience_s: float) -> str:
    """Return the content of a small file, or the reason why it cannot be read. If it is missing, look for it again for
    `patience_s` seconds."""
    end = time.monotonic() + patience_s
    while True:
        try:
            return Path(path).read_text()
        except OSError as error:
            if time.monotonic() >= end:
                return f"{type(error).__name__}: {error.strerror}"
            time.sleep(0.5)
