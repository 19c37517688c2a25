"""End a run in an orderly way when a signal arrives: SIGINT (Ctrl-C), SIGTERM or SIGHUP. Schedulers send such signals.

A training loop calls `asked` after each step. After the first signal, the loop finishes its step, writes a checkpoint
and ends (`end`). If this takes longer than the grace time, or if a second signal arrives, `KeyboardInterrupt` is raised
at once. Outside a training loop, the first signal already raises `KeyboardInterrupt`. A third signal ends the process
at once.

In all cases `irg-rl resume` continues from the last checkpoint, with the same result to the bit.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RESUMABLE = 75
"""Exit code of a run that a signal has ended and that can be resumed. It is EX_TEMPFAIL of sysexits.h."""


@dataclass
class _Run:
    """What is known about the run that this process works on."""

    folder: Path
    grace_s: float
    signal: str = ""  # name of the first signal that arrived
    count: int = 0  # how many signals have arrived
    in_loop: bool = False  # whether a loop runs that will ask
    saved: str = ""  # the step whose checkpoint a loop wrote after the signal
    timer: threading.Timer | None = None


_run: _Run | None = None  # the run that this process works on now
_ended: _Run | None = None  # the last run that it has worked on


@contextmanager
def on_signals(folder: Path, grace_s: float) -> Iterator[None]:
    """Give a context (for `with`) in which signals end the run in `folder` as this module describes. A loop that trains
    has `grace_s` seconds to finish its step.

    Signals that the process ignores when the context begins stay ignored, for example SIGHUP under `nohup`. Outside the
    main thread, this function changes nothing, because only the main thread can receive signals.
    """
    global _run, _ended
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _run = run = _Run(folder, grace_s)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    listen()
    try:
        yield
    finally:
        if run.timer is not None:
            run.timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        _run, _ended = None, run


def listen() -> None:
    """Let this process handle SIGINT, SIGTERM and SIGHUP from now on, as this module describes. Call this again after
    the start of Ray, which replaces the handler of SIGTERM. Outside of `on_signals`, nothing is done."""
    if _run is None or threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _arrived)


@contextmanager
def loop() -> Iterator[None]:
    """Give a context (for `with`) for a training loop that calls `asked` after each step. Inside it, the first signal
    does not interrupt the loop at once: the loop can finish its step first."""
    run = _run
    if run is None:
        yield
        return
    run.in_loop = True
    try:
        yield
    finally:
        run.in_loop = False
        if run.timer is not None:
            run.timer.cancel()  # the step has ended in time


def asked() -> bool:
    """Return whether a signal, such as Ctrl-C, has asked the run to end. A training loop then writes its checkpoint and
    calls `end`."""
    return _run is not None and _run.count > 0


def end(saved: str) -> NoReturn:
    """End a training loop after a signal. `saved` names the step whose checkpoint was written, for example "step 3 of
    sft1"; the last line of the run says it. Raises KeyboardInterrupt."""
    if _run is not None:
        _run.saved = f" after {saved}, which is saved"
    raise KeyboardInterrupt


def message() -> str | None:
    """Return the last line of the output of a run that a signal has ended. Return None if no signal arrived during a
    run."""
    run = _run or _ended
    if run is None or not run.count:
        return None
    return f"stopped by {run.signal}{run.saved}; `irg-rl resume {run.folder}` goes on from the last checkpoint"


def _arrived(number: int, frame: FrameType | None) -> None:
    run = _run
    if run is None:  # the run has ended in this moment
        raise KeyboardInterrupt
    run.count += 1
    if run.count == 1:
        run.signal = signal.Signals(number).name
        if run.in_loop:
            _say(f"{run.signal}: finishing the step, then saving; at most {run.grace_s:g} s. Once more: stop now")
            run.timer = threading.Timer(run.grace_s, _give_up, [number])
            run.timer.daemon = True
            run.timer.start()
            return
    if run.count > 2:
        _say(str(message()))
        os._exit(RESUMABLE)
    raise KeyboardInterrupt


def _give_up(number: int) -> None:
    """Interrupt the main thread by the same signal again: the grace time is over."""
    with suppress(ProcessLookupError):
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def _say(line: str) -> None:
    """Write a line without a buffer: a signal may arrive while the usual stream is being written to."""
    with suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, f"{line}\n".encode(errors="replace"))
