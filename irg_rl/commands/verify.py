"""`irg-rl verify`: checks a model folder on this machine, and everything that is done with it."""

from collections.abc import Sequence
from pathlib import Path

from irg_rl.driver.progress import console
from irg_rl.errors import UserError
from irg_rl.verify.check import Result
from irg_rl.verify.page import DATA, write_page
from irg_rl.verify.run import verify


class VerifyError(UserError):
    """Raised if a check failed."""


def verify_folder(folder: Path, out: Path, overrides: Sequence[str], against: Path | None) -> None:
    """Run all checks of the model folder, print one line for each, and write verify.html and verify.json into `out`.
    Raises VerifyError, which names the checks, if one failed."""
    for found in verify(folder, out, overrides, against):
        if isinstance(found, Result):
            console.print(f"{found.check.name}: {found.status} ({found.seconds:.1f} s){_why(found)}", markup=False)
            continue
        page = write_page(found, out)
        console.print(f"written: {page} and {DATA} beside it", soft_wrap=True, markup=False)
        if found.failed:
            raise VerifyError(f"{len(found.failed)} of {len(found.results)} checks failed: {', '.join(found.failed)}")


def _why(result: Result) -> str:
    """Return what did not hold, for the line of a check."""
    wrong = [f"{r.what}: {r.found}; expected {r.expected}" for r in result.finding.requirements if r.holds is False]
    lines = [result.reason, *wrong] if result.reason else wrong
    return "".join(f"\n    {line}" for line in lines)
