"""Shows the progress of long work. On a terminal this is a bar with the remaining time. In other outputs, such as a log
file, a plain line is printed every 20 seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from irg_rl import faults
from irg_rl.text_out import Terminal, shown

console = Terminal()
PLAIN_EVERY_S = 20.0


class Bar:
    """A progress bar. `advance(n, note)` adds n finished steps and shows the text `note` (for example a loss) to the
    right of the bar."""

    def __init__(self, title: str, total: int, start: int, progress: Progress | None):
        self.title, self.total, self.done, self.first = title, total, start, start
        self.progress = progress
        self.begin = self.last = time.monotonic()
        if progress is not None:
            said = shown(title, progress.console.encoding)
            self.task = progress.add_task(said, total=total, completed=start, note="")

    def advance(self, n: int = 1, note: str = "") -> None:
        self.done += n
        faults.at("progress", self.done, self.title)
        if self.progress is not None:
            self.progress.update(self.task, completed=self.done, note=note)
            return
        now = time.monotonic()
        if now - self.last >= PLAIN_EVERY_S or self.done == self.total:
            self.last = now
            spent = now - self.begin
            left = spent / max(self.done - self.first, 1) * (self.total - self.done)
            console.print(f"{self.title}: {self.done}/{self.total}, {spent:.0f} s, {left:.0f} s left  {note}")


@contextmanager
def bar(title: str, total: int, start: int = 0) -> Iterator[Bar]:
    if not console.is_terminal:
        yield Bar(title, total, start, None)
        return
    columns = [
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=30), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
    ]  # fmt: skip
    with Progress(*columns, console=console) as progress:
        yield Bar(title, total, start, progress)
