"""`irg-rl view`: serves the trajectory browser on this machine until Ctrl-C."""

import asyncio
import webbrowser
from collections.abc import Callable
from pathlib import Path

from irg_rl.errors import InputError
from irg_rl.text_out import Terminal
from irg_rl.view.app import Pages
from irg_rl.view.server import HOST, new_token, start
from irg_rl.view.sources import Library

RUNS = Path("runs")
"""Folder that is shown if none is given."""


def view(given: list[Path], port: int, opens: bool) -> None:
    """Serve the pages until Ctrl-C. `given` are runs, folders of runs, or folders of groups. `port` 0 lets the system
    choose a free port. `opens` says whether the page is opened in the browser of this machine.

    Raises InputError if a folder is missing. Raises OSError if the port is in use.
    """
    if not given and not RUNS.is_dir():
        raise InputError("no folder ./runs is here: give a run or a folder of runs, as in `irg-rl view /data/runs`")
    library = Library(given or [RUNS])
    terminal = Terminal()

    def ready(address: str) -> None:
        terminal.print(f"open {address}")
        runs = [source.is_run for source in library.sources().values()]
        terminal.print(f"runs: {sum(runs)}, folders of groups: {len(runs) - sum(runs)}; Ctrl-C ends the page")
        if opens:
            webbrowser.open(address)

    try:
        asyncio.run(serve(library, new_token(), port, ready))
    except KeyboardInterrupt:
        return


async def serve(library: Library, token: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until the task is cancelled. `ready` is called with the address of the page, as soon as it answers."""
    runner, port = await start(Pages(library), token, port)
    try:
        ready(f"http://{HOST}:{port}/{token}/")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
