"""Lets real runs go wrong on purpose, and checks what they promise to survive.

    python -m tests.faults [PART OF A NAME] [--limit 300] [--list]

The cases stand in tests/fault_list.py. Each case begins with a copy of a run that nothing has disturbed, from which
one stage was removed. The program does this stage again, and the fault happens (irg_rl/faults.py, or `meddle` of the
case). If the run ends, it is resumed. Checked are:

* the exit code, and one clear line instead of a traceback;
* that no process is left behind;
* that the run can be finished, with the same weights to the bit (where this is promised);
* that every group was trained, dropped or cancelled exactly once (the ledger in stages.json).

Results are appended to runs/faults.jsonl. A case with a result there is not run again, as long as the case and the
program stay as they were. The exit status is 1 if a case fails. All cases take about 40 minutes on two cores.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import yaml

from irg_rl import faults
from irg_rl.text_out import Terminal

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "runs" / "faults.jsonl"
LONGEST_S = 300.0
"""How many seconds one command of a case may take."""
LEFT_BEHIND_S = 20.0
"""How many seconds the processes of a run may live on after its driver has ended."""
RAYS_AGENTS, AGENTS_S = ("ray::DashboardAgent", "ray::RuntimeEnvAgent"), 90.0
"""Two processes of Ray, and how many seconds they may live on after the driver was killed. They try for a minute to
tell Ray's server about it, and then end. They hold no group, no GPU and no file of the run."""
TINY = (
    "vae.steps=20", "rewards.training_steps=4", "task_options.own_images=8", "sft.base.steps=4", "sft.stage1.steps=6",
    "sft.stage2.steps=4", "sft.checkpoint_every=2", "sft.validate_every=3", "rl.updates=3", "evaluation.prompts=8",
    "tracking.wandb=false", "engine.threads=1", "engine.rollout_actors=1", "rl.groups_per_batch=2",
)  # fmt: skip
"""The smallest run that has all stages: these settings in place of those of shapes-smoke."""
STAGES = (
    "world", "vae", "scorers", "pretrain", "sft1", "own_images", "sft2", "evaluate_sft", "rl", "evaluate_rl", "report",
)  # fmt: skip
MADE = {
    "world": ("world",), "vae": ("models/base",), "scorers": ("scorers",), "pretrain": ("models/pretrain", "pretrain"),
    "sft1": ("models/sft1", "sft1"), "own_images": ("world/rows/own",), "sft2": ("models/sft2", "sft2"),
    "rl": ("models/rl", "rl", "dropped.jsonl"),
}  # fmt: skip
"""Stage -> files and folders that it makes."""


class Outcome(StrEnum):
    HOLDS = "holds"
    FAILS = "fails"


@dataclass(frozen=True)
class Case:
    """What happens to a run in the stage `stage`, and how it must end. All other stages of the run are done."""

    name: str
    stage: str
    faults: tuple[dict[str, Any], ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)  # dotted setting -> value
    codes: tuple[int, ...] = (0,)  # exit codes of the command, one of which it must have
    says: str = ""  # pattern that the output must contain; if the command fails, in its last line
    meddle: Callable[["Playing"], None] | None = None  # what is done to the run from outside, while it runs
    limits: str = ""  # shell commands, such as ulimit, before the command; RUN is the run folder
    same_weights: bool = True  # whether the run must end with the weights of the undisturbed one
    again: tuple[str, ...] = ()  # options of the `resume` that follows
    again_says: str = ""  # pattern that the output of this `resume` must contain
    refused: str = ""  # pattern of the error of a plain `resume` that comes before it
    command: tuple[str, ...] = ()  # another command that shows the case: its exit code alone decides


@dataclass
class Playing:
    """A command of a case that runs. `run` is its run folder."""

    run: Path
    process: subprocess.Popen

    def wait_for(self, place: str, seconds: float = 120.0) -> None:
        """Wait until a file or folder of the run exists. Raises AssertionError if the command ends before."""
        end = time.monotonic() + seconds
        while not (self.run / place).exists():
            assert self.process.poll() is None, f"the command ended before {place} was there"
            assert time.monotonic() < end, f"{place} did not appear in {seconds:g} s"
            time.sleep(0.05)

    def child(self, word: str) -> psutil.Process:
        """Return the descendant whose command line contains a word."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if any(word in part for part in process.cmdline()):
                    return process
        raise AssertionError(f"the run has no process {word}")


class Descendants(threading.Thread):
    """Knows all descendants that a process has had. It looks for new ones several times a second, because those of a
    process that was killed can no longer be found."""

    def __init__(self, process: subprocess.Popen) -> None:
        super().__init__(daemon=True)
        self.top, self.found, self.ended = psutil.Process(process.pid), set[psutil.Process](), threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.3):
            with suppress(psutil.Error):
                self.found.update(self.top.children(recursive=True))

    def alive(self) -> list[psutil.Process]:
        return living(self.found)


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return those of the processes that have not ended."""
    found = []
    for process in list(processes):
        with suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@dataclass(frozen=True)
class Result:
    """What became of a case. `key` is a hash of everything that the outcome depends on. `told` is the line with which
    the run ended, or what is wrong."""

    name: str
    key: str
    outcome: Outcome
    seconds: float
    told: str = ""


def key_of(case: Case, root: Path) -> str:
    """Return a hash of the case and of the program."""
    meddle = "" if case.meddle is None else case.meddle.__name__
    total = hashlib.sha256(repr((replace(case, meddle=None), meddle, TINY)).encode())
    for package in ("irg_rl", "sft", "rewards", "rollouts"):
        for path in sorted((root / package).rglob("*.py")):
            total.update(path.read_bytes())
    return total.hexdigest()[:16]


def words_of(*words: str) -> list[str]:
    return [sys.executable, "-P", "-c", "from irg_rl.commands.cli import main; main()", *words]


def heed_signals() -> None:
    """Undo what `nohup` and `&` do to this process: signals that are ignored stay ignored in children."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def environment() -> dict[str, str]:
    allowed = {faults.ALLOWED: "1", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, **allowed, "PYTHONPATH": path}


def reference(folder: Path, case: Case | None = None, longest_s: float = 900.0) -> Path:
    """Return a run that nothing has disturbed. It is made if it is not in `folder`. With `case`, the run has the
    changes of the case in its stage."""
    asked = None if case is None else (case.stage, sorted(case.changes.items()))
    place = folder / ("plain" if asked is None else hashlib.sha256(repr(asked).encode()).hexdigest()[:8])
    run = place / "shapes-smoke"
    if (run / "report.html").is_file():
        return run
    shutil.rmtree(place, ignore_errors=True)
    words = words_of("train", "shapes-smoke", f"output_dir={place}", *TINY)
    if case is not None:
        begun(reference(folder), run, replace(case, faults=()))
        words = words_of("resume", str(run))
    told = subprocess.run(
        words, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=longest_s, check=False,
        preexec_fn=heed_signals,
    )  # fmt: skip
    assert told.returncode == 0, f"the undisturbed run failed: {told.stdout[-2000:]}{told.stderr[-2000:]}"
    return run


def begun(whole: Path, run: Path, case: Case) -> None:
    """Copy an undisturbed run into the folder `run`, without what the stage `case.stage` has made. The recipe of the
    copy gets the changes and faults of the case."""
    shutil.copytree(whole, run, ignore=shutil.ignore_patterns("ray", "wandb", "report.html", "metrics.jsonl", "faults"))
    for place in MADE.get(case.stage, ()):
        shutil.rmtree(run / place, ignore_errors=True)
        (run / place).unlink(missing_ok=True)
    stages = json.loads((run / "stages.json").read_text())
    del stages[case.stage]
    (run / "stages.json").write_text(json.dumps(stages))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    for setting, value in case.changes.items():
        *sections, name = setting.split(".")
        place = recipe
        for section in sections:
            place = place[section]
        place[name] = value
    write_recipe(run, recipe | {"faults": list(case.faults)})


def write_recipe(run: Path, recipe: dict[str, Any]) -> None:
    """Write the recipe of a run, and the digest that belongs to it."""
    from irg_rl.config import parse_recipe

    parsed = parse_recipe(recipe)
    (run / "recipe.yaml").write_text(parsed.to_yaml())
    facts = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(facts | {"digest": parsed.digest()}))


def play(
    case: Case, whole: Callable[[Case | None], Path], work: Path, longest_s: float = LONGEST_S
) -> tuple[Outcome, str]:
    """Run a case in the folder `work`. `whole` returns an undisturbed run: that without changes, or that of a case.
    Return (outcome, what was told)."""
    if case.command:
        done = subprocess.run(
            [sys.executable, *case.command], cwd=ROOT, capture_output=True, text=True, timeout=longest_s, check=False,
            env=environment(),
        )  # fmt: skip
        last = (done.stdout.strip().splitlines() or [""])[-1]
        return (Outcome.HOLDS if done.returncode == 0 else Outcome.FAILS), last[:200]
    run, undisturbed = work / "run", whole(case if _has_other_weights(case) else None)
    begun(whole(None), run, case)
    agents: list[psutil.Process] = []
    try:
        told = _disturbed(case, run, longest_s, agents)
        _finished(case, run, undisturbed, longest_s)
        psutil.wait_procs(agents, timeout=AGENTS_S)
        assert not living(agents), f"Ray's agents were left behind: {living(agents)}"
    except (AssertionError, subprocess.TimeoutExpired) as error:
        return Outcome.FAILS, " ".join(str(error).split())[:600]
    return Outcome.HOLDS, told


def _has_other_weights(case: Case) -> bool:
    """Return whether the changes of a case give other weights than those of the plain reference."""
    return case.same_weights and any(name.endswith(("learner_ranks", "packs_per_step")) for name in case.changes)


def _disturbed(case: Case, run: Path, longest_s: float, agents: list[psutil.Process]) -> str:
    """Run the command that is disturbed, and check how it ends. Return its last line. Ray's agents that still live are
    added to `agents`."""
    code, said = _command(run, ("resume", str(run)), longest_s, case, agents)
    assert code in case.codes, f"exit code {code}, not {case.codes}: {said[-600:]}"
    if case.faults:
        expected = sum(fault.get("times", 1) for fault in case.faults)
        assert faults.happened(run) == expected, f"{faults.happened(run)} of {expected} faults have happened"
    assert "Traceback" not in said, f"a traceback: {said[-600:]}"
    _require_ledger(run)
    last = (said.strip().splitlines() or [""])[-1]
    if code > 0:
        ends = re.findall(r"(?<!last )error: ", said)  # "last error: ..." is a part of such a line
        assert len(ends) == 1 and "error: " in last, f"not one clear line at the end: {said[-600:]}"
        assert re.search(case.says, last), f"the last line is not {case.says!r}: {last}"
        if saved := re.search(r"after (?:step|update) (\d+) of (\w+), which is saved", last):
            step = run / saved[2] / "checkpoints" / f"step_{int(saved[1]):06d}"
            assert step.is_dir(), f"{step} was not saved: {last}"
        return last[last.index("error: ") :]
    assert re.search(case.says, said), f"the output has no {case.says!r}: {said[-600:]}"
    return last if code == 0 else f"killed ({code})"


def _finished(case: Case, run: Path, whole: Path, longest_s: float) -> None:
    """Resume the run until it is finished, and compare it with the run that nothing has disturbed."""
    words, said = ("resume", str(run)), ""
    if case.refused:
        code, said = _command(run, words, longest_s)
        assert code == 1 and re.search(case.refused, said), f"a plain resume was not refused: {said[-600:]}"
    if case.codes != (0,):
        code, said = _command(run, (*words, *case.again), longest_s)
        assert code == 0, f"the run could not be resumed: {said[-600:]}"
        assert re.search(case.again_says, said), f"resuming said no {case.again_says!r}: {said[-600:]}"
    stages = json.loads((run / "stages.json").read_text())
    assert all(entry["done"] for entry in stages.values()), "not all stages are done"
    models = sorted((run / "models").glob("*/*.safetensors"))
    assert models, "the run has no model"
    for path in models if case.same_weights else ():
        assert path.read_bytes() == (whole / path.relative_to(run)).read_bytes(), f"{path.parent.name} differs"
    if "rl" in stages:
        recipe, facts = yaml.safe_load((run / "recipe.yaml").read_text()), _require_ledger(run)
        wanted = recipe["rl"]["updates"] * recipe["rl"]["groups"]
        assert facts["in_flight"] == 0, f"groups are still in flight: {facts}"
        assert facts["trained"] == wanted or not case.same_weights, f"{wanted} groups were to be trained: {facts}"


def _require_ledger(run: Path) -> dict[str, Any]:
    """Check that the run accounts for every group that it has begun, and return the facts about RL in stages.json."""
    stages = run / "stages.json"
    facts = json.loads(stages.read_text()).get("rl", {}) if stages.exists() else {}
    left = [facts.get(name, 0) for name in ("trained", "dropped", "cancelled", "in_flight")]
    assert facts.get("admitted", 0) == sum(left), f"groups were lost or counted twice: {facts}"
    return facts


def _command(
    run: Path,
    words: Sequence[str],
    longest_s: float,
    case: Case | None = None,
    agents: list[psutil.Process] | None = None,
) -> tuple[int, str]:
    """Run a command to its end, with the disturbance of the case. Return (exit code, output). Raises AssertionError if
    processes are left behind. If the driver was killed, Ray's agents are added to `agents` instead."""
    said, command = run.with_name("said"), words_of(*words)
    if case is not None and case.limits:
        command = ["unshare", "-m", "bash", "-c", f'{case.limits.replace("RUN", str(run))} && exec "$@"', "", *command]
    with said.open("w") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            preexec_fn=heed_signals,
        )  # fmt: skip
    descendants = Descendants(process)
    descendants.start()
    try:
        if case is not None and case.meddle is not None:
            case.meddle(Playing(run, process))
        code = process.wait(timeout=longest_s)
        end = time.monotonic() + LEFT_BEHIND_S
        if code < 0 and agents is not None:
            agents += [one for one in descendants.alive() if _name_of(one).startswith(RAYS_AGENTS)]
            descendants.found.difference_update(agents)
        while descendants.alive() and time.monotonic() < end:
            time.sleep(0.2)
        left = [_name_of(one) for one in descendants.alive()]
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"no end after {longest_s:g} s: {said.read_text()[-600:]}") from error
    finally:
        descendants.ended.set()
        process.kill()
        process.wait(timeout=60)
        for one in descendants.alive():
            one.kill()
    assert not left, f"processes were left behind: {', '.join(left)}"
    return code, said.read_text(errors="replace")


def _name_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())[:80]
    return "a process that has just ended"


def run_all(cases: Sequence[Case], root: Path, results: Path, longest_s: float = LONGEST_S) -> Iterator[Result]:
    """Yield the result of every case: first the results that are already in the file `results`, then those of the
    others, which are appended to this file."""
    known, keys = read(results), {case.name: key_of(case, root) for case in cases}
    yield from (known[key] for key in keys.values() if key in known)
    references = results.with_name("faults-" + key_of(Case("", "world"), root))
    for case in cases:
        if keys[case.name] in known:
            continue
        with tempfile.TemporaryDirectory(prefix="fault-") as work:
            began = time.monotonic()
            outcome, told = play(case, partial(reference, references), Path(work), longest_s)
            seconds = round(time.monotonic() - began, 1)
            told = told.replace(str(Path(work, "run")), "RUN")
        result = Result(case.name, keys[case.name], outcome, seconds, told)
        results.parent.mkdir(parents=True, exist_ok=True)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        yield result


def read(results: Path) -> dict[str, Result]:
    """Return key -> result for all lines of a file of results. An incomplete last line is ignored."""
    whole = results.read_text(encoding="utf-8").rpartition("\n")[0].splitlines() if results.is_file() else []
    found = [json.loads(line) for line in whole]
    return {one["key"]: Result(**one | {"outcome": Outcome(one["outcome"])}) for one in found}


def main() -> int:
    from tests.fault_list import CASES

    words = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.partition("\n")[0])
    words.add_argument("part", nargs="?", default="", help="run only cases whose name contains this text")
    words.add_argument("--limit", type=float, default=LONGEST_S, help="seconds that a command of a case may take")
    words.add_argument("--list", action="store_true", help="only show the cases")
    asked = words.parse_args()
    chosen, terminal = [case for case in CASES if asked.part in case.name], Terminal()
    if asked.list:
        for case in chosen:
            terminal.print(case.name, markup=False)
        return 0
    failed = 0
    for result in run_all(chosen, ROOT, RESULTS, asked.limit):
        failed += result.outcome is Outcome.FAILS
        terminal.print(f"{result.outcome:6} {result.seconds:6.1f} s  {result.name}  {result.told}", markup=False)
    terminal.print(f"{len(chosen)} cases: {len(chosen) - failed} hold, {failed} fail")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
