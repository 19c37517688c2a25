"""What goes wrong in tests/faults.py, one case after the other."""

import signal
import subprocess
import time
from typing import Any

import psutil

from tests.faults import ROOT, STAGES, Case, Playing, environment, words_of

FIRST_UPDATE = "rl/checkpoints/step_000001"
JUDGED = {"rewards.scorers": [
    {"name": "verifier", "kind": "verifier", "weight": 1.0},
    {"name": "judge", "kind": "judge", "weight": 0.2, "timeout_s": 2.0},
]}  # fmt: skip
"""A judge that is given up after two seconds."""
MIDDLE: dict[str, dict[str, Any]] = {
    "vae": {"where": "progress", "of": "autoencoder", "step": 10}, "pretrain": {"where": "progress", "step": 3},
    "sft1": {"where": "progress", "step": 3}, "sft2": {"where": "progress", "step": 3},
    "rl": {"where": "update", "step": 2},
}  # fmt: skip
"""Stage -> a place in its middle. In the other stages, the fault happens at their end, before they count as done."""
TRAINING = ("pretrain", "sft1", "sft2", "rl")


def in_stage(stage: str, what: str, **more: Any) -> tuple[dict[str, Any], ...]:
    return ({"what": what, **(MIDDLE.get(stage) or {"where": "stage_done", "of": stage}), **more},)


def killed(stage: str) -> Case:
    return Case(f"driver killed in {stage}", stage, in_stage(stage, "kill"), codes=(-9,))


def stopped(stage: str, name: str) -> Case:
    """A training step that has begun is finished and saved. Other stages begin anew."""
    saved = {"rl": " after update 2 of rl, which is saved"}.get(stage, f" after step 3 of {stage}, which is saved")
    said = f"stopped by {name}{saved if stage in TRAINING else ''}; `irg-rl resume"
    return Case(f"{name} in {stage}", stage, in_stage(stage, "signal", signal=name), codes=(75,), says=said)


def in_rl(name: str, *faults: dict[str, Any], **more: Any) -> Case:
    return Case(name, "rl", faults, **more)


def in_sft(name: str, *faults: dict[str, Any], **more: Any) -> Case:
    return Case(name, "sft1", faults, **more)


def kill_wandb(playing: Playing) -> None:
    playing.wait_for("sft1/checkpoints/step_000002")
    playing.child("wandb-core").kill()


def kill_gcs(playing: Playing) -> None:
    playing.wait_for(FIRST_UPDATE)
    playing.child("gcs_server").kill()


def kill_raylet(playing: Playing) -> None:
    playing.wait_for(FIRST_UPDATE)
    playing.child("raylet/raylet").kill()


def interrupt_twice(playing: Playing) -> None:
    playing.wait_for(FIRST_UPDATE)
    playing.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    playing.process.send_signal(signal.SIGINT)


def terminate_all(playing: Playing) -> None:
    """Slurm sends the signal to all processes of a job step."""
    playing.wait_for(FIRST_UPDATE)
    for process in [*psutil.Process(playing.process.pid).children(recursive=True), psutil.Process(playing.process.pid)]:
        process.terminate()


def start_a_second_run(playing: Playing) -> None:
    """The first run is halted meanwhile. Otherwise it may be finished before the second one has begun."""
    playing.wait_for("sft1/checkpoints/step_000002")
    playing.process.send_signal(signal.SIGSTOP)
    try:
        second = subprocess.run(
            words_of("resume", str(playing.run)), cwd=ROOT, env=environment(), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
        )  # fmt: skip
    finally:
        playing.process.send_signal(signal.SIGCONT)
    assert second.returncode == 1 and "another process works on this run" in second.stdout, second.stdout


SILENT = {"engine.silence_s": 15.0, "engine.deadline_s": 900.0}
"""A command of a case ends long before this deadline, so that the heartbeats must find what hangs."""
DEAD_NODE = ("-m", "pytest", "-q", "tests/driver/test_room.py", "-k")
RL_CASES = (
    in_rl("learner rank killed", {"what": "kill", "where": "learner", "step": 2}, codes=(1,),
          says="learner 0 died in train .*resume"),
    in_rl("learner rank of two killed", {"what": "kill", "where": "learner", "of": "1", "step": 2}, codes=(1,),
          says="learner 1 died in train .*resume", changes={"engine.learner_ranks": 2}),
    in_rl("learner rank hangs", {"what": "hang", "where": "learner", "step": 2}, codes=(1,),
          says=r"gave up after 40 s waiting for train of learner \[0\]", changes={"engine.deadline_s": 40.0}),
    in_rl("learner rank out of memory", {"what": "oom", "where": "learner", "step": 2}, codes=(1,),
          says="out of memory .*irg-rl plan"),
    in_rl("rollout actor killed", {"what": "kill", "where": "rollout", "step": 1}),
    in_rl("rollout actor hangs", {"what": "hang", "where": "rollout", "step": 1}, changes=SILENT),
    in_rl("rollout actor ends while it gets weights", {"what": "exit", "where": "weights", "step": 1}),
    in_rl("rollout actor killed three times by the same groups",
          {"what": "kill", "where": "rollout", "step": 1, "times": 3}, same_weights=False),
    in_rl("critic killed", {"what": "kill", "where": "critic", "step": 1}),
    in_rl("critic hangs", {"what": "hang", "where": "critic", "step": 1}, changes=SILENT),
    in_rl("judge killed", {"what": "kill", "where": "judge"}, codes=(1,), says="scorer 'judge' failed on .*resume",
          changes=JUDGED, same_weights=False),
    in_rl("judge stopped", {"what": "signal", "where": "judge", "signal": "SIGSTOP"}, codes=(1,),
          says="scorer 'judge' failed on .*resume", changes=JUDGED, same_weights=False),
    in_rl("judge slow", {"what": "slow", "where": "judge", "seconds": 3.0}),
    in_rl("disk full in a checkpoint of RL", {"what": "disk_full", "where": "checkpoint", "of": "rl", "step": 2},
          codes=(1,), says="cannot write the checkpoint .*step_000002.*resume"),
    in_rl("little disk for checkpoints of RL", codes=(1,), says="cannot write the checkpoint .*MiB free.*resume",
          limits="mkdir -p RUN/rl && mount -t tmpfs -o size=8m tmpfs RUN/rl"),
    in_rl("newest checkpoint of RL damaged", {"what": "corrupt", "where": "checkpoint_written", "of": "rl", "step": 2},
          {"what": "kill", "where": "progress", "of": "RL", "step": 2}, codes=(-9,),
          again_says="damaged checkpoint: .*step_000002.*sha256"),
    in_rl("little shared memory", limits="mount -t tmpfs -o size=48m tmpfs /dev/shm"),
    in_rl("small object store", changes={"engine.object_store_mb": 80}),
    in_rl("256 open files", limits="ulimit -n 256"),
    in_rl("Ctrl-C twice", codes=(75,), says="stopped by SIGINT", meddle=interrupt_twice),
    in_rl("SIGTERM to all processes", codes=(75,), says="stopped by SIGTERM", meddle=terminate_all),
    in_rl("Ray's server killed", codes=(1,), says="Ray's server has died", meddle=kill_gcs),
    in_rl("Ray's node process killed", codes=(1,), says="Ray's node process has died", meddle=kill_raylet),
    Case("node with a rollout actor lost", "rl", command=(*DEAD_NODE, "loses_no_group")),
    Case("node with a learner rank lost", "rl", command=(*DEAD_NODE, "a_rank_with_it")),
)  # fmt: skip
SFT_CASES = (
    in_sft("killed while a checkpoint of SFT is written",
           {"what": "kill", "where": "checkpoint", "of": "sft1", "step": 4}, codes=(-9,)),
    in_sft("disk full in a checkpoint of SFT", {"what": "disk_full", "where": "checkpoint", "of": "sft1", "step": 4},
           codes=(1,), says="cannot write the checkpoint .*step_000004.*resume"),
    in_sft("SFT out of memory", {"what": "oom", "where": "sft_rank", "step": 3}, codes=(1,), says="out of memory"),
    in_sft("newest checkpoint of SFT damaged",
           {"what": "corrupt", "where": "checkpoint_written", "of": "sft1", "step": 4},
           {"what": "kill", "where": "progress", "step": 5}, codes=(-9,),
           again_says="damaged checkpoint: .*step_000004.*sha256(.|\n)*goes on from step_000002"),
    in_sft("all checkpoints of SFT damaged",
           {"what": "corrupt", "where": "checkpoint_written", "of": "sft1", "step": 2},
           {"what": "kill", "where": "progress", "step": 3}, codes=(-9,), changes={"engine.keep_checkpoints": 1},
           refused="all 1 checkpoints are damaged .*--restart-stage", again=("--restart-stage",),
           again_says="goes on from its beginning"),
    Case("rank of two killed in SFT", "sft2",
         ({"what": "kill", "where": "sft_rank", "of": "1", "step": 3},), codes=(1,), says="learner 1 died .*resume",
         changes={"sft.learner_ranks": 2, "sft.stage2.packs_per_step": 2}),
    in_sft("two runs in one folder", meddle=start_a_second_run),
    in_sft("wandb killed", changes={"tracking.wandb": True}, meddle=kill_wandb, says="wandb has failed"),
)  # fmt: skip
SIGNALS = (
    stopped("sft1", "SIGTERM"), stopped("sft2", "SIGHUP"), stopped("pretrain", "SIGINT"), stopped("rl", "SIGTERM"),
    stopped("rl", "SIGHUP"), stopped("rl", "SIGINT"), stopped("own_images", "SIGTERM"), stopped("world", "SIGHUP"),
    stopped("vae", "SIGINT"), stopped("scorers", "SIGTERM"), stopped("evaluate_sft", "SIGHUP"),
    stopped("evaluate_rl", "SIGINT"), stopped("report", "SIGTERM"),
)  # fmt: skip

CASES = (*map(killed, STAGES), *RL_CASES, *SFT_CASES, *SIGNALS)
IN_CI = (
    "driver killed in sft2", "driver killed in rl", "SIGTERM in sft1", "SIGHUP in sft2", "rollout actor killed",
    "all checkpoints of SFT damaged",
)  # fmt: skip
"""Names of the cases that tests/test_end_to_end.py runs."""
