"""Failures a user can do something about, as one line: what, where, what to do."""

import errno

from irg_rl.commands.run import RunError
from irg_rl.config import RecipeError

EXPECTED = (RunError, RecipeError, ValueError, OSError, RuntimeError, TimeoutError, KeyboardInterrupt)


def explain(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "stopped by hand; `irg-rl resume RUN` goes on from the last checkpoint"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"disk full while writing {error.filename or 'a file'}: free some space, then `irg-rl resume RUN`"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port in use ({error}): stop the other program or let the system choose a port"
    text = str(error).strip()
    return text or type(error).__name__
