"""Compares the measured memory and time with what `irg-rl plan` computes for the same recipe."""

from collections.abc import Callable

from irg_rl.plan.costs import LEARNER as LEARNER_PROCESS
from irg_rl.plan.costs import ROLLOUT, Plan, Rates
from irg_rl.plan.costs import SFT as SFT_PROCESS
from irg_rl.verify.bench import Workbench
from irg_rl.verify.finding import GIB, Finding, NotPossibleError
from irg_rl.verify.sampling_checks import LEARNING, SAMPLING, SFT
from irg_rl.verify.settings import STAGE

MOST_MEMORY, SLACK_GIB = 1.15, 1.0
"""Largest allowed memory: this multiple of the plan's, plus SLACK_GIB. The plan counts tensors alone, without the
workspace of kernels and what the allocator rounds up."""
MOST_TIME = 10.0
"""Largest allowed time, as a multiple of the plan's. The plan's speeds are assumed for an H100, and a first call also
compiles kernels. A multiple above this means that something else uses the card, or that a fast kernel is missing."""
_WORK: dict[str, tuple[str, Callable[[str], bool]]] = {
    SAMPLING: (ROLLOUT, lambda name: name == "rl sampling"),
    LEARNING: (LEARNER_PROCESS, lambda name: name == "rl learning"),
    SFT: (SFT_PROCESS.format(STAGE), lambda name: name.startswith("sft")),
}
"""Kind of measured work -> name of the process in the plan, and which stretch of its time it is."""


def budget(bench: Workbench, finding: Finding) -> None:
    """Compare memory and time of sampling, learning and SFT with the plan."""
    recipe = bench.recipe
    if not bench.measured:
        raise NotPossibleError("nothing was measured: see the checks before")
    plan, rates = Plan(recipe), Rates.assumed(recipe.engine.device)
    on_gpu = recipe.engine.device == "cuda"
    for work, measured in bench.measured.items():
        process, is_its = _WORK[work]
        planned = plan.place(process).peak / GIB
        seconds = sum(part.seconds(rates) for part in plan.stretches if is_its(part.name))
        if on_gpu and measured.gpu_gib is not None:
            most, gib = MOST_MEMORY * planned + SLACK_GIB, measured.gpu_gib
            expected = f"at most {most:.1f} GiB; the plan says {planned:.1f}"
            finding.require(f"memory of {work}", f"{gib:.1f} GiB", expected, gib <= most)
            longest = MOST_TIME * seconds
            expected = f"at most {longest:.0f} s; the plan says {seconds:.1f}"
            finding.require(f"time of {work}", f"{measured.seconds:.1f} s", expected, measured.seconds <= longest)
        else:
            expected = f"the plan says {planned:.3f} GiB and {seconds:.1f} s; compared on a GPU alone"
            finding.require(f"memory and time of {work}", f"{measured.seconds:.1f} s", expected, None)
