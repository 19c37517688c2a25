"""Lets a run of RL go wrong every few minutes for hours, and counts what is lost.

    python -m benchmarks.soak FOLDER [--hours 2] [--every 180] [--seed 0]

The run is the smallest one that has all stages (tests/faults.py), with as many RL updates as the time allows. Every
`--every` seconds one random thing goes wrong: a process is killed or stopped, the driver gets a signal, or a checkpoint
is damaged. When the run has ended, it is resumed. After every end the ledger of groups and the processes are checked.

The command may be interrupted: what has happened stands in FOLDER/soak.jsonl, and the same command goes on. The exit
status is 1 if something was lost.
"""

import argparse
import fcntl
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from irg_rl import faults
from tests.faults import (
    AGENTS_S,
    ROOT,
    Case,
    Descendants,
    Playing,
    begun,
    environment,
    heed_signals,
    reference,
    words_of,
)

RUN = Case("soak", "rl", changes={
    "rl.updates": 1_000_000, "rl.checkpoint_every": 2, "rl.look_every": 0, "engine.deadline_s": 90.0,
})  # fmt: skip
ACTORS = {"rollout actor": "ray::RolloutWorker", "critic": "ray::Critic", "learner": "ray::Learner",
          "Ray's server": "gcs_server", "Ray's node process": "raylet/raylet"}  # fmt: skip
"""What is killed -> a word of its command line."""
SIGNALS = ("SIGTERM", "SIGHUP", "SIGINT", "SIGKILL")
KINDS = (
    *(f"{name} killed" for name in ACTORS), "rollout actor stopped", "critic stopped", *SIGNALS, "checkpoint damaged",
)  # fmt: skip
END_S = 240.0
"""How long a run may take to end after a fault that ends it. It must have ended or made an update by then."""
LEFT_BEHIND_S = AGENTS_S  # Ray's agents live on for a minute after a killed driver
STUCK = 5
"""After so many parts in a row without an update, the soak ends."""


def strike(kind: str, playing: Playing) -> None:
    """Let one thing go wrong in a run. Raises AssertionError if the run has no such process at this moment."""
    if kind in SIGNALS:
        playing.process.send_signal(signal.Signals[kind])
    elif kind == "checkpoint damaged":
        folder = playing.run / "rl" / "checkpoints"
        assert len(list(folder.glob("step_*"))) > 1, "there is no other checkpoint"
        playing.process.kill()
        playing.process.wait(timeout=60)
        faults.WHAT["corrupt"]({}, max(folder.glob("step_*")))
    else:
        name, _, what = kind.rpartition(" ")
        playing.child(ACTORS[name]).send_signal(signal.SIGKILL if what == "killed" else signal.SIGSTOP)


def ledger(run: Path) -> dict[str, Any]:
    return json.loads((run / "stages.json").read_text()).get("rl", {})


def lost(facts: dict[str, Any]) -> int:
    """Return how many groups the ledger has lost (above 0) or counts twice (below 0)."""
    left = sum(facts.get(name, 0) for name in ("trained", "dropped", "cancelled", "in_flight"))
    return facts.get("admitted", 0) - left


def updates_of(run: Path) -> int:
    return int(ledger(run).get("updates", 0))


def wait(process: subprocess.Popen, seconds: float) -> bool:
    """Return whether a process has ended, after at most so many seconds."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=max(seconds, 0.0))
    return process.poll() is not None


def part(run: Path, said: Path, every: float, until: float, draw: random.Random) -> list[dict[str, Any]]:
    """Resume the run, and let things go wrong until it ends or the time is up (`until`, of time.monotonic()). In the
    second case it gets SIGTERM. Return one entry for each thing that went wrong, and one for the end."""
    with said.open("w") as out:
        process = subprocess.Popen(
            words_of("resume", str(run)), cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, preexec_fn=heed_signals,
        )  # fmt: skip
    descendants, found, began = Descendants(process), [], time.monotonic()
    descendants.start()
    try:
        while not wait(process, min(every, until - time.monotonic())):
            before = updates_of(run)
            kind = draw.choice(KINDS) if time.monotonic() < until else "SIGTERM"
            try:
                strike(kind, Playing(run, process))
            except (AssertionError, ValueError, psutil.Error) as error:  # Ray is starting; there is no checkpoint
                kind = f"nothing ({error})"
            found.append({"kind": kind, "updates": before, "at": round(time.monotonic() - began)})
            end = time.monotonic() + END_S
            while not wait(process, 1.0) and updates_of(run) <= before + 1 and time.monotonic() < end:
                pass
            if process.poll() is None and updates_of(run) <= before + 1:
                found[-1]["wrong"] = f"neither an end nor two updates in {END_S:g} s"
                process.kill()
        time.sleep(min(LEFT_BEHIND_S, 5.0) if descendants.alive() else 0)
        end = time.monotonic() + LEFT_BEHIND_S
        while (left := descendants.alive()) and time.monotonic() < end:
            time.sleep(0.5)
    finally:
        descendants.ended.set()
        process.kill()
        for one in descendants.alive():
            with suppress(psutil.Error):
                one.kill()
    text, facts = said.read_text(errors="replace"), ledger(run)
    entry = {"kind": "end", "code": process.wait(timeout=60), "said": (text.strip().splitlines() or [""])[-1][:300],
             "updates": facts.get("updates", 0), "lost": lost(facts), "left": len(left), "ledger": facts,
             "seconds": round(time.monotonic() - began), "traceback": "Traceback" in text}  # fmt: skip
    return [*found, entry]


def summary(entries: list[dict[str, Any]]) -> tuple[str, bool]:
    """Return what has happened, in words, and whether anything was lost."""
    ends = [entry for entry in entries if entry["kind"] == "end"]
    kinds = Counter(entry["kind"].split(" (")[0] for entry in entries if entry["kind"] != "end")
    wrong = [entry for entry in entries if entry.get("wrong") or entry.get("lost") or entry.get("left")
             or entry.get("traceback")]  # fmt: skip
    facts = ends[-1]["ledger"] if ends else {}
    counts = ", ".join(f"{name} {facts.get(name, 0)}" for name in
                       ("updates", "admitted", "trained", "dropped", "cancelled", "in_flight"))  # fmt: skip
    hours = sum(entry["seconds"] for entry in ends) / 3600
    lines = [
        f"{hours:.2f} hours in {len(ends)} parts; {sum(kinds.values())} faults",
        *(f"  {count} x {kind}" for kind, count in kinds.most_common()), f"ledger: {counts}",
        f"lost or counted twice: {sum(abs(entry['lost']) for entry in ends)} groups; "
        f"left behind: {sum(entry['left'] for entry in ends)} processes; "
        f"tracebacks: {sum(entry['traceback'] for entry in ends)}",
        *(f"wrong: {json.dumps({**entry, 'ledger': None})}" for entry in wrong),
    ]  # fmt: skip
    return "\n".join(lines), bool(wrong)


def main() -> int:
    words = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").partition("\n")[0])
    words.add_argument("folder", type=Path)
    words.add_argument("--hours", type=float, default=2.0, help="hours of all calls together")
    words.add_argument("--every", type=float, default=180.0, help="seconds between two faults")
    words.add_argument("--seed", type=int, default=0)
    asked = words.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    with (asked.folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            words.error(f"another soak works in {asked.folder}: wait for it, or choose another folder")
        return soak(asked)


def soak(asked: argparse.Namespace) -> int:
    log, run = asked.folder.absolute() / "soak.jsonl", asked.folder.absolute() / "run"
    if not run.exists():
        begun(reference(asked.folder.absolute() / "reference"), run, RUN)
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    while True:
        gone = sum(entry.get("seconds", 0) for entry in entries)
        ends = [entry["updates"] for entry in entries if entry["kind"] == "end"][-STUCK:]
        if gone >= asked.hours * 3600 or len(ends) == STUCK and len(set(ends)) == 1:
            break
        draw = random.Random(f"{asked.seed}:{len(entries)}")
        until = time.monotonic() + asked.hours * 3600 - gone
        new = part(run, asked.folder / "said", asked.every, until, draw)
        with log.open("a") as out:
            out.writelines(json.dumps(entry) + "\n" for entry in new)
        entries += new
        sys.stdout.write("".join(f"{entry['kind']}: {entry.get('said', entry['updates'])}\n" for entry in new))
        sys.stdout.flush()
    told, is_wrong = summary(entries)
    sys.stdout.write(told + "\n")
    return int(is_wrong)


if __name__ == "__main__":
    sys.exit(main())
