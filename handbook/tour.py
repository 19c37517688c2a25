"""Makes the pictures of docs/tour.md: a terminal in tmux, and pages in Chromium while a run writes.

    python -m handbook.tour WORK            # all pictures, into docs/figures/tour; about six minutes on two cores
    python -m handbook.tour WORK plan check # only these

WORK is a folder for the runs that the pictures show. tmux and Chromium must be installed.
"""

import asyncio
import io
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

from handbook.browser import CHROMIUM, BrowserPage, browser
from irg_rl.commands.view import serve
from irg_rl.view.server import new_token
from irg_rl.view.sources import Library

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "figures" / "tour"
COLUMNS, LINES = 100, 40
"""Size of the terminal."""
DESKTOP, PHONE = (1280, 800), (390, 844)
PALETTE = 64
"""Number of colours of a picture. With so few, a picture of a page takes less than 60 KB."""
COMMANDS = {
    "demo": "irg-rl demo",
    "train": "irg-rl demo --rl",
    "check": "irg-rl check shapes",
    "plan": "irg-rl plan bagel-lora-grpo --gpus 8 --gpu-gib 80",
}
"""Picture of a terminal -> the command that it shows. RL of the demo stands for every run that trains."""
LIMIT_S = 900
"""Longest time of a command."""


class Terminal:
    """A tmux session with one command. `screen` is what it shows, with colours."""

    def __init__(self, command: str, folder: Path) -> None:
        self.name, self.command = f"tour-{time.monotonic_ns()}", command
        self.done = folder / f"{self.name}.done"
        shown = f"cd {shlex.quote(str(folder))}; {command}; touch {shlex.quote(str(self.done))}; sleep 600"
        size = ("-x", str(COLUMNS), "-y", str(LINES))
        subprocess.run(["tmux", "new-session", "-d", "-s", self.name, *size, shown], check=True)

    def screen(self) -> str:
        words = ["tmux", "capture-pane", "-p", "-e", "-t", self.name]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.rstrip()

    def wait(self, until: Callable[[str], bool] = lambda screen: False) -> None:
        """Wait until the command has ended or `until` is true of the screen. Raises TimeoutError after LIMIT_S."""
        end = time.monotonic() + LIMIT_S
        while not self.done.exists() and not until(self.screen()):
            if time.monotonic() > end:
                raise TimeoutError(f"{self.command} takes longer than {LIMIT_S} s")
            time.sleep(0.5)

    def close(self) -> None:
        subprocess.run(["tmux", "kill-session", "-t", self.name], check=False, capture_output=True)


async def save_terminal(page: BrowserPage, name: str, terminal: Terminal, folder: Path) -> None:
    """Draw the screen of a terminal as a picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(f"\x1b[1m$ {terminal.command}\x1b[0m\n{terminal.screen()}"), soft_wrap=True)
    form = (
        "<html><meta charset=utf-8><body style='margin:0;padding:14px;background:#fff'>"
        "<pre style='font:13px/1.35 DejaVu Sans Mono,monospace;margin:0;width:max-content'>{code}</pre></body></html>"
    )
    shown = folder / f"{name}.html"
    shown.write_text(console.export_html(code_format=form, inline_styles=True), encoding="utf-8")
    await page.open(shown.as_uri(), width=850, height=400)
    height = await page.evaluate("document.querySelector('pre').offsetHeight + 28")
    await page.open(shown.as_uri(), width=850, height=int(height))
    save(name, await page.picture())


def save(name: str, png: bytes) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    small = Image.open(io.BytesIO(png)).convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE)
    small.save(PICTURES / f"{name}.png", optimize=True)
    print(f"{name}.png: {(PICTURES / f'{name}.png').stat().st_size / 1000:.0f} KB")  # noqa: T201


async def tour(work: Path, wanted: list[str]) -> None:
    assert CHROMIUM is not None, "no Chromium is on the PATH (.ci/browser brings one)"
    work.mkdir(parents=True, exist_ok=True)
    async with browser(CHROMIUM) as page:
        for name in ("check", "plan", "demo"):
            if name in wanted:
                terminal = Terminal(COMMANDS[name] + (" --out drawn" if name == "demo" else ""), work)
                await asyncio.to_thread(terminal.wait)
                terminal.command = COMMANDS[name]
                await save_terminal(page, name, terminal, work)
                terminal.close()
        if "report" in wanted:
            report = (work / "drawn" / "demo" / "report.html").as_uri()
            await page.open(report, *DESKTOP)
            save("report", await page.picture())
            await page.evaluate("document.querySelector('#samples').scrollIntoView()")
            save("samples", await page.picture())
            await page.open(report, *PHONE, dark=True)
            save("report-phone", await page.picture())
        if "train" in wanted:
            await live(page, work)


async def live(page: BrowserPage, work: Path) -> None:
    """Take pictures of a run while it does RL: its terminal, and its pages."""
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    terminal = Terminal(COMMANDS["train"] + " --out live", work)
    try:
        await asyncio.to_thread(terminal.wait, lambda screen: re.search(r"RL .*1[1-9]/20", screen) is not None)
        terminal.command = COMMANDS["train"]
        await save_terminal(page, "train", terminal, work)
        server = asyncio.create_task(serve(Library([work / "live"]), new_token(), 0, address.set_result))
        run = f"{await address}run/demo/"
        await page.open(run, *DESKTOP)
        save("view", await page.picture())
        await page.open(run, *PHONE, dark=True)
        save("view-phone", await page.picture())
        await page.open(f"{run}groups", *DESKTOP, dark=True)
        save("groups", await page.picture())
        server.cancel()
        await asyncio.to_thread(terminal.wait)
    finally:
        terminal.close()


if __name__ == "__main__":
    asyncio.run(tour(Path(sys.argv[1]).resolve(), sys.argv[2:] or [*COMMANDS, "report"]))
