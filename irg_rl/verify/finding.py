"""What a check has found: requirements with what was expected, facts, and pictures."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

from irg_rl.errors import UserError

GIB = 2**30
NOTHING_KNOWN = "nothing is known of weights of these sizes; --against compares with a folder that is right"


class NotPossibleError(UserError):
    """Raised by a check that cannot run here. The message says what is missing."""


@dataclass(frozen=True)
class Requirement:
    """One thing that a check asks for. `holds` is None if this cannot be decided here; `expected` then says why."""

    what: str
    found: str
    expected: str
    holds: bool | None


@dataclass
class Finding:
    """What a check has found so far. The check adds to it while it runs, so nothing is lost if an error ends it."""

    requirements: list[Requirement] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    pictures: list[tuple[str, UInt8[np.ndarray, "H W 3"]]] = field(default_factory=list)

    def require(self, what: str, found: object, expected: str, holds: bool | None) -> None:
        self.requirements.append(Requirement(what, str(found), expected, holds))

    def require_if(self, known: bool, what: str, found: object, expected: str, holds: bool) -> None:
        """Require something of weights that are known. Of other weights nothing can be expected."""
        self.require(what, found, expected if known else NOTHING_KNOWN, holds if known else None)
