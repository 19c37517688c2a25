"""The page in a real browser, while a run writes."""

import os
import shutil
import subprocess
import threading

import pytest

from tests.view.material import log

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def dom(address: str, folder, budget_ms: int = 9000) -> str:
    """The page as Chromium has it after `budget_ms` of its own time, which passes as fast as the page allows."""
    assert CHROMIUM is not None
    words = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        f"--user-data-dir={folder}", f"--virtual-time-budget={budget_ms}", "--dump-dom", address,
    ]  # fmt: skip
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=120, check=True, env=os.environ | {"HOME": str(folder)}
    )
    return done.stdout


def test_an_open_page_follows_a_run_that_writes(served, run, tmp_path):
    stop = threading.Event()

    def train() -> None:
        step = 12
        while not stop.wait(0.02):
            step += 1
            log(run, step)

    writer = threading.Thread(target=train)
    writer.start()
    try:
        page = dom(served.address + "run/first/", tmp_path / "profile")
    finally:
        stop.set()
        writer.join()
    shown = int(page.split('data-name="step-rl">')[1].split("<")[0])
    assert 'data-updates="' in page.split("<head>")[0], "the script has replaced the page at least once"
    assert shown > 13 and "Health of RL" in page


def test_a_reflection_that_is_a_script_does_not_run(served, tmp_path):
    page = dom(served.address + "run/first/sample?prompt=p1", tmp_path / "profile", budget_ms=500)
    assert "<title>first: p1" in page and "owned'&lt;/script&gt;" in page
    assert "--zoom: 8" in page, "the script of the page itself has run"
