"""The dict `STUDIES`, which maps the name of each study to its class."""

from irg_rl.studies.credit import Credit
from irg_rl.studies.guidance import Guidance
from irg_rl.studies.influence import Influence
from irg_rl.studies.modality import ModalityStudy
from irg_rl.studies.modes import Modes
from irg_rl.studies.recovery import Recovery
from irg_rl.studies.schemes import Schemes
from irg_rl.studies.study import Study
from irg_rl.studies.teacher import Teacher
from irg_rl.studies.turns import Turns

STUDIES: dict[str, type[Study]] = {study.name: study for study in (
    Turns, Influence, Credit, Schemes, Guidance, Recovery, Teacher, ModalityStudy, Modes
)}
