"""Errors that a user can correct, such as a wrong setting. Such an error ends a command, and the command shows a
message of one line. All other errors are mistakes in the program. For them, a command shows the traceback."""

import errno


class UserError(Exception):
    """Base class of errors that a user can correct. The message says what happened, where, and what to do."""


class InputError(UserError, ValueError):
    """Raised if a file, a folder or a setting that the user has given cannot be used."""


def is_expected(error: BaseException) -> bool:
    """Return whether a user can correct this kind of error. For such an error, a command shows one line instead of a
    traceback.

    Errors of Ray are recognised by the names of their classes, without importing Ray. The import takes seconds, and
    every command would start later.
    """
    if isinstance(error, UserError | OSError | KeyboardInterrupt):
        return True
    return any((kind.__module__, kind.__name__) == ("ray.exceptions", "RayError") for kind in type(error).__mro__)


def explain(error: BaseException) -> str:
    """Return the message that is shown for an error. If a remote actor has failed, the message also names the actor and
    the call."""
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
