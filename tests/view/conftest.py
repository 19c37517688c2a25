"""The real server in a thread, and a run folder for it."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from irg_rl.view.app import Pages
from irg_rl.view.server import HOST, start
from irg_rl.view.sources import Library
from tests.view.material import make_run

TOKEN = "a-token-of-the-tests"


@dataclass(frozen=True)
class Served:
    port: int
    token: str = TOKEN

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}/{self.token}/"

    def get(self, path: str = "", **headers: str) -> httpx.Response:
        """`path` is that of a page, below the token."""
        return httpx.get(self.address + path, headers=headers, trust_env=False, timeout=20)

    def page(self, path: str = "") -> str:
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text


@contextmanager
def serving(*folders: Path) -> Iterator[Served]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def done(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(20)

    runner, port = done(start(Pages(Library(folders)), TOKEN, 0))
    try:
        yield Served(port)
    finally:
        done(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "runs" / "first")


@pytest.fixture
def served(run) -> Iterator[Served]:
    with serving(run.parent) as server:
        yield server
