"""What a fleet (fleet.py) remembers: its members, their units of work, and the news for them."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ray import ObjectRef
from ray.actor import ActorHandle


class Health(StrEnum):
    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    DEAD = "dead"
    RETIRED = "retired"


@dataclass(frozen=True)
class FleetSettings:
    """Settings of a fleet, a set of actors that can be restarted. A unit is one method call on an actor. All times are
    in seconds.
    """

    size: int  # number of actors; each one is a member of the fleet
    unit_timeout: float = 600.0  # a unit that takes longer than this counts as hung
    start_timeout: float = 120.0  # time limit for the constructor of an actor and `prepare` together
    max_respawns: int = 3  # how often in a row a member is restarted; if it dies once more, it is retired
    backoff: float = 0.5  # wait before the first restart; doubles with every further death in a row
    max_attempts: int = 3  # a unit is given up when it has been lost this many times
    min_healthy: int = 1  # the run stops if fewer members than this are left (not retired)


@dataclass
class Unit:
    id: Hashable
    method: str
    args: tuple
    returns: int = 1  # number of values that the method returns
    attempts: int = 0
    last_loss: str = ""


@dataclass(frozen=True)
class News:
    """A method call that every actor must answer before it gets its next unit. `check` raises an error if the answer is
    wrong."""

    method: str
    args: tuple
    timeout: float
    check: Callable[[Any], None]


@dataclass
class Member:
    index: int
    health: Health = Health.DEAD
    actor: ActorHandle | None = None
    unit: Unit | None = None
    refs: list[ObjectRef] = field(default_factory=list)
    news: News | None = None  # not sent yet, because the actor is starting, working, or reading older news
    told: tuple[ObjectRef, News] | None = None  # sent to the idle actor, which has not acknowledged them yet
    began: float = 0.0  # when the unit began
    deadline: float = 0.0  # deadline of the unit, of the start, or of the acknowledgement
    respawn_at: float = 0.0
    deaths: int = 0  # number of deaths in a row; a finished unit resets it to 0


@dataclass(frozen=True)
class Finished:
    """The result of a unit (one method call on an actor). `id` is the id of the unit, and `attempts` says how often the
    unit was started.

    `value` is the first value that the method returned. If the unit was submitted with `returns=n`, the method returned
    n values. Then `others` has Ray references to the second value and all later ones. The driver process owns these
    references. So they stay valid even if the actor dies.
    """

    id: Hashable
    value: Any
    others: tuple[ObjectRef, ...]
    attempts: int
