"""Convert the training state of an engine to the tensors of a checkpoint, and back. The functions are collective: every
rank must call them.
"""

from typing import Any

from torch import Tensor

from irg_rl.learner import rng
from irg_rl.learner.checkpoint import CheckpointError
from irg_rl.learner.ema import EMA
from irg_rl.learner.engine import Engine
from irg_rl.learner.old_weights import OldWeights
from irg_rl.learner.reduce import gather_objects, rank, world_size

MODEL, EMA_WEIGHTS, OLD_WEIGHTS, RNG = "model", "ema", "old", "rng"


def capture(
    engine: Engine, ema: EMA | None = None, old: OldWeights | None = None
) -> tuple[dict[str, dict[str, Tensor]], dict]:
    """Return the training state as a pair for a checkpoint `Snapshot`: the tensors as {group: {name: tensor}}, and a
    dict of JSON data. Only rank 0 gets the tensors of the model and the optimizer. The moving average `ema` and the
    weights of the old policy `old` are included if they are given.

    The tensors do not depend on the ZeRO stage or the world size, except the states of the random number generators:
    there is one state for each rank. For frozen parameters only a digest (hash) is stored, because the model folder has
    their values.
    """
    state = engine.state()
    keep = rank() == 0
    groups = {MODEL: _collect(state.changing(), keep)}
    for key in state.MOMENTS:
        if moments := _collect(state.moment(key), keep):
            groups[key] = moments
    groups[RNG] = {
        f"rank{index}.{name}": tensor
        for index, own in enumerate(gather_objects(rng.capture()))
        for name, tensor in own.items()
    }
    words: dict[str, Any] = {"steps": engine.steps, "skipped": engine.skipped, "world_size": world_size()}
    words["frozen"] = state.frozen_digest()
    if ema is not None:
        groups[EMA_WEIGHTS] = ema.weights
        words["ema_updates"] = ema.updates
    if old is not None:
        groups[OLD_WEIGHTS] = old.weights
        words["old_updates"] = old.updates
    return groups, words


def restore(
    engine: Engine,
    groups: dict[str, dict[str, Tensor]],
    words: dict,
    ema: EMA | None = None,
    old: OldWeights | None = None,
) -> list[str]:
    """Restore a training state. `groups` and `words` are the two values that `capture` returned. The state is restored
    bit for bit if the world size is the same as before. Return a list of messages about what could not be restored.

    With another world size, the weights and optimizer moments are still exact. But the checkpoint has no state of the
    random number generators for a new rank. So a new rank keeps its own state. Raises CheckpointError if the checkpoint
    was written with other frozen parameters.
    """
    state = engine.state()
    if words.get("frozen") != state.frozen_digest():
        raise CheckpointError(
            "the frozen weights are not those of the checkpoint: the model folder that the stage started from has "
            "changed; put the old one back or start a new run"
        )
    moments = {key: groups[key] for key in state.MOMENTS if key in groups}
    engine.load(groups[MODEL], moments, words["steps"])
    engine.skipped = words["skipped"]
    if ema is not None:
        ema.load(groups[EMA_WEIGHTS], words["ema_updates"])
    if old is not None:
        old.load(groups[OLD_WEIGHTS], words["old_updates"])
    prefix = f"rank{rank()}."
    own = {name.removeprefix(prefix): t for name, t in groups[RNG].items() if name.startswith(prefix)}
    if own:
        rng.restore(own)
    if words["world_size"] == world_size():
        return []
    return [f"{words['world_size']} ranks saved and {world_size()} resume: random numbers of new ranks start afresh"]


def _collect(tensors, keep: bool) -> dict[str, Tensor]:
    """Collect (name, tensor) pairs in a dict. All ranks must read all tensors, because reading is a collective call. A
    rank without `keep` does not store them and returns an empty dict."""
    found = {}
    for name, tensor in tensors:
        if keep:
            found[name] = tensor
    return found
