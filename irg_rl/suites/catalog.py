"""Find a suite by its name or by its import path."""

import difflib

from irg_rl.errors import InputError
from irg_rl.imports import imported
from irg_rl.suites.base import Suite
from irg_rl.suites.compbench import CompBench
from irg_rl.suites.dpg import DPG
from irg_rl.suites.genai_bench import GenAIBench
from irg_rl.suites.geneval import GenEval
from irg_rl.suites.geneval2 import GenEval2
from irg_rl.suites.genevalpp import GenEvalPlusPlus
from irg_rl.suites.imgedit import ImgEdit
from irg_rl.suites.oneig import OneIG
from irg_rl.suites.r3bench import R3Bench
from irg_rl.suites.tiif import Tiif
from irg_rl.suites.wise import Wise, WiseVerified

SUITES: dict[str, type[Suite]] = {suite.name: suite for suite in (
    GenEval, GenEval2, GenEvalPlusPlus, Wise, WiseVerified, Tiif, GenAIBench, OneIG, ImgEdit, CompBench, DPG, R3Bench,
)}  # fmt: skip


def suite_of(name: str) -> Suite:
    """Return a new object of the suite class (benchmark) that `name` names. `name` is the name of a built-in suite, or
    an import path `package.module:Class`. Raises InputError if there is no such suite; the message suggests the most
    similar name."""
    if ":" in name:
        return _own_suite(name)
    if name not in SUITES:
        near = difflib.get_close_matches(name, SUITES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"no suite {name!r}{hint} Known: {', '.join(SUITES)}, or package.module:Class")
    return SUITES[name]()


def _own_suite(path: str) -> Suite:
    try:
        found = imported(path)
    except InputError as error:
        raise InputError(f"suite {error}") from error
    if not (isinstance(found, type) and issubclass(found, Suite)):
        raise InputError(f"suite {path!r} is no subclass of irg_rl.suites.base.Suite")
    return found()
