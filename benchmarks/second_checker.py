"""How often a second, independent checker says the same of a run's saved pictures as the verifier did.

    python -m benchmarks.second_checker RUN [RUN ...]

From the root of the repository. RL is rewarded by the verifier, so a figure by the verifier alone could come from
fooling it. The second checker (tests/shapes_world/second_checker.py) reads pixels in another way and has its own
verdict. Pictures are those of samples/ in each run: the first prompts of every evaluation, all turns.
`evaluation.strips` says how many prompts.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from irg_rl.driver.progress import console
from irg_rl.evaluate import intervals
from irg_rl.evaluate.comparison_text import cases, figure, interval, table
from irg_rl.evaluate.intervals import Terms
from irg_rl.evaluate.outcomes import set_of
from irg_rl.prompts import read_prompts
from irg_rl.report.samples import INDEX, load_samples
from tests.shapes_world.second_checker import verdict

Case = tuple[bool, bool, str]
"""First verdict, second verdict, set of constraints."""


def judged(run: Path) -> dict[str, list[Case]]:
    """Every saved picture of each evaluation of a run, by the name of the evaluation."""
    prompts = {prompt.id: prompt for prompt in read_prompts(run / "world" / "test.jsonl")}
    found = defaultdict(list)
    for index in sorted(run.glob(f"samples/*/{INDEX}")):
        for sample in load_samples(index.parent):
            prompt = prompts[sample.prompt_id]
            for turn in sample.turns:
                if turn.image is not None and turn.correct is not None:
                    second = verdict(turn.image, prompt.metadata)
                    found[index.parent.name].append((turn.correct, second, set_of(prompt)))
    return found


def row(run: Path, name: str, found: list[Case]) -> list[str]:
    one, other = (np.array(verdicts) for verdicts in list(zip(*found))[:2])
    agree = intervals.proportion(Terms((one == other).astype(float), np.ones(len(found)), [case[2] for case in found]))
    counts = str(int((one & ~other).sum())), str(int((~one & other).sum()))
    return [run.name, name, interval(agree), cases(agree), figure(one.mean()), figure(other.mean()), *counts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    rows = [row(run, name, found) for run in parser.parse_args().runs for name, found in judged(run).items()]
    headings = ["run", "model", "agree", "n (sets)", "right, first", "second", "first alone", "second alone"]
    console.print(table(headings, rows), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
