"""Run the embedded judge (a small judge server that comes with the program) in a child process. The child ends when the
process that started it ends."""

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
    """The embedded judge in a child process: `with JudgeProcess(mind) as judge: ... judge.base_url`.

    mind: the import path of the function that computes the answers of the judge.
    port: the port of the judge's server. With 0, any free port is taken.
    seed: determines all random errors in the answers.
    errs: the share of answers that are replaced by their opposite (see rewards/judge_server.py).

    Raises ScorerUnavailable if the server cannot start, for example because the port is taken, or because
    `start_timeout` seconds are not enough. The child process runs until its stdin closes. This stdin is a pipe from the
    parent process. So the child ends even if the parent is killed with kill -9.
    """

    def __init__(
        self, mind: str, port: int = 0, seed: int = 0, start_timeout: float = 120.0, errs: float = 0.0
    ) -> None:
        options = ["--mind", mind, "--port", str(port), "--seed", str(seed), "--errs", str(errs)]
        # -P: do not import a rewards.py from the working folder
        command = [sys.executable, "-P", "-m", "rewards.judge_server", *options]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": child_path()},
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr, "all three are pipes"
        self._in, self._out, self._problems = self.process.stdin, self.process.stdout, self.process.stderr
        try:
            self.base_url = self._address(time.monotonic() + start_timeout, start_timeout)
        except ScorerUnavailable:
            self.close()
            raise

    def _address(self, deadline: float, start_timeout: float) -> str:
        readable, _, _ = select.select([self._out], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise ScorerUnavailable(f"the embedded judge did not start within {start_timeout:g} s: try again")
        line = self._out.readline()
        if not line:
            self.process.wait(timeout=10)
            reason = self._problems.read().strip().splitlines() or [f"exit code {self.process.returncode}"]
            raise ScorerUnavailable(reason[-1])
        return parse_json(line, "the embedded judge's first line")["base_url"]

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        """Close the pipe, which ends the server. Kill the server if it does not end within 5 seconds."""
        self._in.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=60)  # it is killed already, so this waits only for the kernel
        self._out.close()
        self._problems.close()

    def __enter__(self) -> "JudgeProcess":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
