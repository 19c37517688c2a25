"""`irg-rl view` as a command: what it prints, and how it ends."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx

from tests.view.material import make_run

COMMAND = Path(sys.executable).parent / "irg-rl"


def test_it_prints_an_address_that_shows_the_runs_and_ends_with_ctrl_c(tmp_path):
    make_run(tmp_path / "runs" / "first", updates=2)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    serving = subprocess.Popen([COMMAND, "view"], cwd=tmp_path, **pipes)
    try:
        line = serving.stdout.readline()
        address = re.fullmatch(r"open (http://127\.0\.0\.1:\d+/[\w-]{30,}/)\n", line)[1]
        assert serving.stdout.readline().startswith("runs: 1, folders of groups: 0;")
        answer = httpx.get(address, trust_env=False, timeout=20)
        assert answer.status_code == 200 and "first" in answer.text
        token = address.split("/")[3]
        assert httpx.get(address.replace(token, token[::-1]), trust_env=False, timeout=20).status_code == 403
    finally:
        serving.send_signal(signal.SIGINT)
        _, complaint = serving.communicate(timeout=30)
    assert (serving.returncode, complaint) == (0, "")


def test_what_cannot_be_shown_is_one_line(irg_rl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nothing = irg_rl("view")
    assert nothing.code == 1 and nothing.err.startswith("error: no folder ./runs is here")
    missing = irg_rl("view", tmp_path / "nothing")
    assert missing.code == 1 and "no such folder" in missing.err and "Traceback" not in missing.err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = irg_rl("view", tmp_path, "--port", port)
    assert busy.code == 1 and busy.err.startswith("error: port in use")
