"""Checks of stored weights, one tensor at a time.

Without a second copy, three kinds of damage can be seen:

* numbers that are not finite, and holes: zeros where a download or a copy was interrupted;
* position tables that are not the sin-cos formula;
* a matrix of one expert that has lost its likeness to its twin. BAGEL's expert for images began as a copy of the expert
  for text, so a matrix W and its twin W' (`_moe_gen`) stay correlated in all layers. If one of them was permuted or
  taken from another layer, the correlation falls to 0 in this layer alone:

      r = <C(W), C(W')> / (|C(W)| |C(W')|),   C(W) = W minus its row means, then minus the column means of the rest

  Permuting rows or columns changes no mean of C, so the expected r after a permutation is 0. The check says which
  matrices have r < TWIN_SHARE * the median of their kind over all layers. It says nothing about a kind whose median is
  below TWIN_MEDIAN.

With a reference (`--against`), every changed tensor is found, and one whose numbers only stand in another order is told
apart from one with other numbers.
"""

import hashlib
import re
from collections import defaultdict
from pathlib import Path
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

from irg_rl.model.files import StoredTensors, stored_tensors, weight_files
from irg_rl.model.folder import AUTOENCODER, TABLES
from irg_rl.model.latents import sincos_table
from irg_rl.model.weights import folded
from irg_rl.verify.bench import Fingerprint, Reference
from irg_rl.verify.finding import Finding

TWIN_MEDIAN, TWIN_SHARE = 0.3, 0.1
TABLE_ERROR = 2.0**-8
"""Largest error of a number in a position table. bf16 rounds numbers below 1 by at most 2^-9."""
OF_AUTOENCODER = "autoencoder/"
_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")
"""Ends of the names of matrices with rows of tokens that do not exist. Such rows may be zero."""
_LAYER = re.compile(r"\.\d+\.")
_CHUNK = 1 << 22
_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def check_tensors(
    folder: Path, hidden_size: int | None, reference: Reference | None, finding: Finding
) -> dict[str, Fingerprint]:
    """Check all weights of a folder, and return their fingerprints by name. Names of the autoencoder's weights begin
    with `autoencoder/`."""
    prints: dict[str, Fingerprint] = {}
    wrong: dict[str, list[str]] = defaultdict(list)
    with stored_tensors(weight_files(folder)) as model, stored_tensors([folder / AUTOENCODER]) as autoencoder:
        for stored, prefix in ((model, ""), (autoencoder, OF_AUTOENCODER)):
            for name in stored.names:
                tensor = stored.read(name).to(_DEVICE)
                prints[prefix + name] = fingerprint(tensor)
                if not bool(torch.isfinite(tensor).all()):
                    wrong["not finite"].append(prefix + name)
                elif _has_holes(tensor, name):
                    wrong["holes"].append(prefix + name)
                if name.endswith(TABLES) and hidden_size is not None:
                    _check_table(name, tensor, finding)
        _check_twins(model, finding)
    finding.require("finite", _named(wrong["not finite"]), "no NaN and no infinity", not wrong["not finite"])
    finding.require("no holes", _named(wrong["holes"]), "no matrix with a row of zeros or more than half zeros",
                    not wrong["holes"])  # fmt: skip
    kinds = sorted({entry.dtype for entry in prints.values()})
    finding.facts |= {"tensors": str(len(prints)), "number types": ", ".join(kinds)}
    if reference is not None:
        _compare(prints, reference, finding)
    return prints


def fingerprint(tensor: Tensor) -> Fingerprint:
    """Return the fingerprint of a tensor. Its numbers are taken as the whole numbers with the same bits, because sums
    of whole numbers do not depend on the order."""
    flat = tensor.contiguous().reshape(-1)
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = flat.view(kinds[flat.element_size()])
    total = squares = 0
    for part in bits.split(_CHUNK):
        whole = part.long()
        total += int(whole.sum())
        squares += int((whole * whole).sum())  # wraps at 2^64, in any order alike
    words = hashlib.sha256(flat.view(torch.uint8).cpu().numpy().data).hexdigest()
    return Fingerprint(
        dtype=str(tensor.dtype).removeprefix("torch."), shape=list(tensor.shape), sha256=words,
        unordered=f"{total % 2**64:016x}{squares % 2**64:016x}",
    )  # fmt: skip


def likeness(one: Float[Tensor, "M N"], other: Float[Tensor, "M N"]) -> float:
    """Return the correlation r of two matrices after their row and column means were taken away (see the top of this
    file)."""

    def centred(matrix: Tensor) -> Tensor:
        rest = matrix.float() - matrix.float().mean(1, keepdim=True)
        return rest - rest.mean(0, keepdim=True)

    a, b = centred(one), centred(other)
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-30))


def _has_holes(tensor: Tensor, name: str) -> bool:
    if tensor.ndim < 2:
        return False
    rows = tensor.flatten(1)
    if 2 * int(rows.count_nonzero()) < rows.numel():
        return True
    return not name.endswith(_EMBEDDINGS) and not bool(rows.any(1).all())


def _check_table(name: str, table: Tensor, finding: Finding) -> None:
    side = round(table.shape[0] ** 0.5)
    error = float((table.float().cpu() - sincos_table(side, table.shape[1])).abs().max())
    finding.require(f"{name} is the sin-cos formula", f"{error:.2g} off", f"at most {TABLE_ERROR:.2g}",
                    error <= TABLE_ERROR)  # fmt: skip


def _check_twins(stored: StoredTensors, finding: Finding) -> None:
    """Compare the matrices of both experts. Nothing can be said of a kind of matrix whose experts have little in
    common."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    names = set(stored.names)
    for name in sorted(names):
        twin = re.sub(r"(_proj|mlp)\b", r"\1_moe_gen", name, count=1)
        if twin == name or twin not in names or not name.endswith(".weight"):
            continue
        one, other = stored.read(name).to(_DEVICE), stored.read(twin).to(_DEVICE)
        if one.ndim == 2 and one.shape == other.shape:
            found[_LAYER.sub(".N.", name)][name] = likeness(one, other)
    alike = {kind: r for kind, r in found.items() if median(r.values()) >= TWIN_MEDIAN}
    finding.facts["kinds of matrices whose experts are alike"] = f"{len(alike)} of {len(found)}"
    if not alike:
        expected = f"a median likeness of at least {TWIN_MEDIAN:g} in some kind of matrix, to see outliers"
        finding.require("experts are alike in every layer", "no kind of matrix is alike", expected, None)
        return
    lost = [
        f"{name} (likeness {value:.2f}, median {median(values.values()):.2f})"
        for values in alike.values()
        for name, value in values.items()
        if value < TWIN_SHARE * median(values.values())
    ]
    finding.require("experts are alike in every layer", ", ".join(lost[:5]) or "no outlier",
                    f"no matrix below {TWIN_SHARE:g} of its kind's median: such a matrix is permuted or from elsewhere",
                    not lost)  # fmt: skip


def _compare(prints: dict[str, Fingerprint], reference: Reference, finding: Finding) -> None:
    if not reference.tensors:
        finding.require("weights are those of the reference", "-", "the reference has no weights", None)
        return
    missing = sorted(reference.tensors.keys() ^ prints.keys())
    both = {name: (mine, reference.tensors[name]) for name, mine in prints.items() if name in reference.tensors}
    retyped = [name for name, (mine, theirs) in both.items() if mine.dtype != theirs.dtype]
    changed = {name: pair for name, pair in both.items() if pair[0].sha256 != pair[1].sha256 and name not in retyped}
    moved = [name for name, (mine, theirs) in changed.items() if mine.unordered == theirs.unordered]
    other = [name for name in changed if name not in moved]
    expected = "none"
    finding.require("weights that only one of both has", _named(missing), expected, not missing)
    finding.require("weights with the same numbers in another order", _named(moved), expected, not moved)
    finding.require("weights with other numbers", _named(other), expected, not other)
    if retyped:
        finding.require("weights in another number type", _named(retyped), "the reference's type, to compare", None)


def _named(names: list[str]) -> str:
    lines = folded(names)
    return "none" if not lines else ", ".join(lines[:8]) + (f" and {len(lines) - 8} more" if len(lines) > 8 else "")
