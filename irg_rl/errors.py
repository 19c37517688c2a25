"""Failures that a person can do something about. They end a command with one line; all others are mistakes of the
program and show their traceback."""

import errno


class UserError(Exception):
    """Base class of these failures. The message says what, where and what to do."""


class InputError(UserError, ValueError):
    """A file, a folder or a setting that cannot be used."""


def is_expected(error: BaseException) -> bool:
    """Whether a command ends with one line instead of a traceback.

    Ray's own errors are recognised by name: importing Ray to ask would cost every command seconds.
    """
    if isinstance(error, UserError | OSError | KeyboardInterrupt):
        return True
    return any((kind.__module__, kind.__name__) == ("ray.exceptions", "RayError") for kind in type(error).__mro__)


def explain(error: BaseException) -> str:
    """The line. A failure in a remote actor names the actor and the call."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped by hand; `irg-rl resume RUN` goes on from the last checkpoint"
    notes = "".join(f" ({note})" for note in vars(error).get("__notes__", []))
    return _words(error) + notes


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"disk full while writing {error.filename or 'a file'}: free some space, then `irg-rl resume RUN`"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port in use ({error}): stop the other program or let the system choose a port"
    text = str(error).strip()
    return text or type(error).__name__
