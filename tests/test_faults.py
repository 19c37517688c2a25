"""Faults on purpose: where, when, how often, and that none happens without permission. Then the cases that use them."""

import errno
import os
import re
import signal
import subprocess
import sys

import pytest

from irg_rl import faults
from irg_rl.config import load_recipe
from irg_rl.config.faults import Fault
from irg_rl.driver.checks import machine_problems
from irg_rl.errors import InputError
from tests.fault_list import CASES, IN_CI
from tests.faults import STAGES, Case, Outcome, play
from tests.paths import CONFIGS


@pytest.fixture
def armed(tmp_path, monkeypatch):
    """armed(fault, ...) arms these faults for a run in tmp_path."""
    monkeypatch.setenv(faults.ALLOWED, "1")

    def arm(*asked: dict) -> None:
        faults.arm(tmp_path, [Fault(**one).model_dump() for one in asked])

    yield arm
    faults.arm(tmp_path, [])


def test_a_recipe_with_faults_needs_permission_from_the_environment(monkeypatch, tmp_path):
    """A run with faults can be looked at without the permission."""
    asked = ["faults=[{what: kill, where: stage}]"]
    monkeypatch.delenv(faults.ALLOWED, raising=False)
    with_faults, plain = (load_recipe(CONFIGS / "shapes-smoke.yaml", words) for words in (asked, []))
    assert with_faults.faults[0].what == "kill" and with_faults.digest() == plain.digest()
    with pytest.raises(InputError, match="faults: .*set IRG_RL_FAULTS=1 in the environment to allow them"):
        faults.arm(tmp_path, [fault.model_dump() for fault in with_faults.faults])
    assert faults.environment() == {}
    problems = machine_problems(with_faults)
    assert [problem for problem in problems if "IRG_RL_FAULTS" in problem], problems


@pytest.mark.parametrize(("fault", "said"), [
    ({"what": "corrupt", "where": "rollout"}, "`where` rollout can't be used"),
    ({"what": "disk_full", "where": "critic"}, "`where` critic can't be used"),
    ({"what": "kill", "where": "rollout", "of": "1"}, "rollout has no names, so this fault would never happen"),
    ({"what": "kill", "where": "judge", "step": 2}, "judge counts no steps, so this fault would never happen"),
    ({"what": "kill", "where": "update", "signal": "SIGHUP"}, "signal: has no effect on kill"),
    ({"what": "oom", "where": "update", "seconds": 2.0}, "seconds: has no effect on oom; .* hang and slow"),
])  # fmt: skip
def test_a_fault_that_could_not_happen_as_it_is_asked_for_is_an_error(fault, said):
    with pytest.raises(ValueError, match=said):
        Fault(**fault)


def test_nothing_happens_without_faults(tmp_path):
    faults.arm(tmp_path, [])
    faults.at("learner", 1, "0")
    assert faults.environment() == {} and faults.happened(tmp_path) == 0 and not (tmp_path / "faults").exists()


def test_a_fault_happens_at_its_place_and_step_and_as_often_as_it_is_asked_for(armed, tmp_path):
    armed({"what": "oom", "where": "learner", "of": "1", "step": 2, "times": 2})
    for place in (("critic", 2, "1"), ("learner", 1, "1"), ("learner", 2, "0")):
        faults.at(*place)
    for _ in range(2):
        with pytest.raises(MemoryError):
            faults.at("learner", 2, "1")
    faults.at("learner", 2, "1")
    assert faults.happened(tmp_path) == 2


def test_a_fault_that_has_happened_does_not_happen_again_in_the_next_process(armed, tmp_path):
    armed({"what": "kill", "where": "rollout"})
    words = [sys.executable, "-c", "from irg_rl import faults; faults.at('rollout')"]
    codes = [subprocess.run(words, timeout=60, check=False).returncode for _ in range(2)]
    assert codes == [-signal.SIGKILL, 0] and faults.happened(tmp_path) == 1


def test_a_full_disk_a_bit_and_a_signal_are_those_of_the_machine(armed, tmp_path):
    armed(
        {"what": "disk_full", "where": "checkpoint"}, {"what": "corrupt", "where": "checkpoint_written"},
        {"what": "signal", "where": "stage", "signal": "SIGHUP"}, {"what": "exit", "where": "critic"},
    )  # fmt: skip
    with pytest.raises(OSError, match="No space left") as full:
        faults.at("checkpoint", path=tmp_path / "x")
    assert full.value.errno == errno.ENOSPC
    written = tmp_path / "step"
    written.mkdir()
    (written / "small").write_bytes(b"1")
    (written / "large").write_bytes(bytes(9))
    faults.at("checkpoint_written", path=written)
    assert sorted((written / "large").read_bytes()) == [0] * 8 + [1] and (written / "small").read_bytes() == b"1"
    arrived = []
    before = signal.signal(signal.SIGHUP, lambda number, frame: arrived.append(number))
    try:
        faults.at("stage", of="world")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert arrived == [signal.SIGHUP]
    child = os.fork()
    if child == 0:
        faults.at("critic")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == faults.EXIT_CODE


def test_there_are_at_least_thirty_cases_with_names_of_their_own_and_faults_that_a_recipe_may_have(armed):
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 30 and len(IN_CI) == 6 and set(IN_CI) <= set(names)
    for case in CASES:
        assert case.stage in STAGES, case.name
        armed(*case.faults)


def test_a_run_that_ends_in_another_way_than_its_case_says_fails(tmp_path, monkeypatch):
    """Fails where a case holds whatever happens."""
    monkeypatch.setattr("tests.faults.begun", lambda whole, run, case: run.mkdir())
    ending = "import sys; print('error: this is not a run folder', file=sys.stderr); sys.exit(1)"
    monkeypatch.setattr("tests.faults.words_of", lambda *words: [sys.executable, "-c", ending])
    for case, told in (
        (Case("", "rl"), "exit code 1, not .0,.*not a run folder"),
        (Case("", "rl", codes=(1,), says="resume"), "the last line is not 'resume'"),
        (Case("", "rl", ({},), codes=(1,)), "0 of 1 faults have happened"),
    ):  # fmt: skip
        place = tmp_path / str(len(told))
        place.mkdir()
        outcome, said = play(case, lambda case: tmp_path, place)
        assert outcome is Outcome.FAILS and re.search(told, said), said
