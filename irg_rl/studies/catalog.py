"""The studies by name."""

from irg_rl.studies.influence import Influence
from irg_rl.studies.study import Study
from irg_rl.studies.turns import Turns

STUDIES: dict[str, type[Study]] = {study.name: study for study in (Turns, Influence)}
