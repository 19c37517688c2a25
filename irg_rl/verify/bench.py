"""What the checks share: the folder, its recipe, the loaded model or learner, the drawn group, and the numbers that are
kept for a later comparison.

At most one model is loaded at a time, because a card of 80 GB has no room for two of BAGEL's size.
"""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from irg_rl.algorithms.learner import Learner
from irg_rl.config import Recipe, adapters_of
from irg_rl.driver.rl_settings import learner_settings
from irg_rl.errors import InputError
from irg_rl.learner.lora import load_trainable
from irg_rl.learner.publish import Publication
from irg_rl.model.folder import Folder, load_autoencoder
from irg_rl.text_in import read_json
from irg_rl.trajectory import Group
from irg_rl.verify.finding import Finding, NotPossibleError
from irg_rl.verify.known import has_released_sizes
from rollouts.weights import load_weights

FORMAT = 1
CLOSE = {"fp32": 1e-3, "bf16": 5e-2}
"""Number type -> largest difference from a reference that still counts as equal, as a share of the largest number.
Other kernels and other machines add in another order, which changes the last bits."""


class Fingerprint(BaseModel):
    """One tensor as it is stored. `sha256` is the hash of its bytes. `unordered` is made of the same numbers in any
    order, so it stays the same if the numbers of a tensor are permuted."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dtype: str
    shape: list[Annotated[int, Field(ge=0)]]
    sha256: str
    unordered: str


class Reference(BaseModel):
    """What a verification keeps of a folder, so that a later one can be compared with it."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    dtype: Literal["", "fp32", "bf16"] = ""
    """Number type in which `numbers` were computed. It is empty if there are none."""
    tensors: dict[str, Fingerprint] = {}
    ids: dict[str, list[int]] = {}
    numbers: dict[str, list[float]] = {}

    @classmethod
    def read(cls, path: Path) -> "Reference":
        """Read the reference in a verify.json. Raises InputError if the file is not one."""
        content = read_json(path)
        if not isinstance(content, dict) or content.get("kind") != "verify" or content.get("format") != FORMAT:
            raise InputError(f"{path} is no verify.json of this version: name one that `irg-rl verify` wrote")
        try:
            return cls.model_validate(content.get("reference"))
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(f"{path}: reference.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


@dataclass
class Cost:
    """Time and largest memory on the GPU of one kind of work."""

    seconds: float
    gpu_gib: float | None


@dataclass
class Workbench:
    """`checked` has the sizes and the tokenizer of the folder. It is None if the folder is broken; then there is no
    recipe either, and checks that need one are not possible."""

    folder: Path
    scratch: Path
    checked: Folder | None
    made: Recipe | None
    reference: Reference | None = None
    kept: Reference = field(default_factory=Reference)
    measured: dict[str, Cost] = field(default_factory=dict)
    group: Group | None = None
    publication: Publication | None = None
    _held: Folder | None = None
    _learner: Learner | None = None

    @property
    def recipe(self) -> Recipe:
        if self.made is None:
            raise NotPossibleError("the folder cannot be loaded: see the check of keys and shapes")
        return self.made

    @property
    def parts(self) -> Folder:
        """The sizes, the tokenizer and the meta model of the folder."""
        if self.checked is None:
            raise NotPossibleError("the folder cannot be loaded: see the check of keys and shapes")
        return self.checked

    @property
    def is_known(self) -> bool:
        """Whether the folder has the sizes of the released model, so that facts about its weights are known."""
        return has_released_sizes(self.parts.model.config)

    def model(self) -> Folder:
        """Return the loaded model for sampling, with the adapters of the recipe, which add nothing before an update. It
        has the published adapters of the learner if there was an update."""
        if self._held is None:
            self.release()
            recipe, engine = self.recipe, self.recipe.engine
            lora = adapters_of(recipe.require_rl())
            model, tokenizer = load_trainable(
                self.folder, engine.device, engine.dtype, lora, recipe.rl_seed, engine.attention
            )
            if self.publication is not None:
                load_weights(model, self.publication.arrays, self.publication.digest)
            self._held = Folder(model.eval(), load_autoencoder(self.folder, engine.device), tokenizer)
        return self._held

    def learner(self) -> Learner:
        """Return the learner, which starts from the folder."""
        if self._learner is None:
            self.release()
            made = Learner(learner_settings(self.recipe, self.folder))
            made.setup()
            self._learner = made
        return self._learner

    def release(self) -> None:
        """Unload the model or the learner."""
        self._held = self._learner = None
        gc.collect()  # an engine is in reference cycles
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def drawn(self) -> Group:
        """Return the group that was drawn for training."""
        if self.group is None:
            raise NotPossibleError("no group was drawn: see the check of parity")
        return self.group

    def keep(self, finding: Finding, name: str, numbers: Sequence[float]) -> None:
        """Keep numbers for later comparisons. Require that they are finite and, if there is a reference, close to its
        numbers."""
        values = [float(number) for number in numbers]
        if not all(map(isfinite, values)):
            finding.require(f"{name}: finite", "NaN or infinity", "finite numbers", False)
            return
        self.kept.numbers[name] = values
        if self.reference is None:
            return
        theirs = self.reference.numbers.get(name)
        if theirs is None or len(theirs) != len(values):
            finding.require(f"{name}: same as the reference", "-", "the reference has no such numbers", None)
            return
        share = max(CLOSE[dtype] for dtype in (self.reference.dtype, self.recipe.engine.dtype) if dtype)
        largest = max(abs(mine - other) for mine, other in zip(values, theirs))
        allowed = share * max(map(abs, theirs))
        finding.require(
            f"{name}: same as the reference", f"{largest:.3g} apart", f"at most {allowed:.3g} apart", largest <= allowed
        )


def fact(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return numbers as texts of four digits, for the facts of a check."""
    return {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in numbers.items()}
