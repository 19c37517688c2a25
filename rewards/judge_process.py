"""The embedded judge in a process of its own, ended with whoever started it."""

import os
import select
import subprocess
import sys
import time
from types import TracebackType

from irg_rl.imports import child_path
from irg_rl.text_in import parse_json
from rewards.base import ScorerUnavailable


class JudgeProcess:
    """`with JudgeProcess(mind) as judge: ... judge.base_url`; `mind` is an import path (rewards.judge_server).

    Raises ScorerUnavailable when the server does not come up within `start_timeout` seconds (a taken port, say). The
    child lives as long as its stdin, a pipe from this process: killing this process with -9 ends it as well."""

    def __init__(self, mind: str, port: int = 0, seed: int = 0, start_timeout: float = 120.0) -> None:
        options = ["--mind", mind, "--port", str(port), "--seed", str(seed)]
        # -P: a rewards.py in the working folder is not ours
        command = [sys.executable, "-P", "-m", "rewards.judge_server", *options]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": child_path()},
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr, "all three were asked for as pipes"
        self._stdin, self._stdout, self._stderr = self.process.stdin, self.process.stdout, self.process.stderr
        try:
            self.base_url = self._address(time.monotonic() + start_timeout, start_timeout)
        except ScorerUnavailable:
            self.close()
            raise

    def _address(self, deadline: float, start_timeout: float) -> str:
        readable, _, _ = select.select([self._stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise ScorerUnavailable(f"the embedded judge did not start within {start_timeout:g} s: try again")
        line = self._stdout.readline()
        if not line:
            self.process.wait(timeout=10)
            reason = self._stderr.read().strip().splitlines() or [f"exit code {self.process.returncode}"]
            raise ScorerUnavailable(reason[-1])
        return parse_json(line, "the embedded judge's first line")["base_url"]

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        """Close the pipe, which ends the server; kill it if it lingers."""
        self._stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=60)  # killed already: only the kernel is waited for
        self._stdout.close()
        self._stderr.close()

    def __enter__(self) -> "JudgeProcess":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
