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
    if isinstance(error, UserError | OSError | KeyboardInterrupt) or is_out_of_memory(error):
        return True
    return any((kind.__module__, kind.__name__) == ("ray.exceptions", "RayError") for kind in type(error).__mro__)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the memory of the machine or of a GPU was too small. For a GPU, torch raises an error class of its
    own. For the memory of the machine, it raises a RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


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
    if is_out_of_memory(error):
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return (
            f"out of memory ({first:.200}): `irg-rl plan RECIPE --gpu-gib N` names settings that fit; smaller "
            "rl.group_size, rl.groups_per_batch or tokens_per_pack and engine.activation_checkpointing=true need less"
        )
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port in use ({error}): stop the other program or let the system choose a port"
    text = str(error).strip()
    return text or type(error).__name__
