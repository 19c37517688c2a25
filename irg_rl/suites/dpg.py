"""DPG-Bench (TencentQQGYLab/ELLA): long prompts. The model mPLUG answers yes/no questions about the images. A question
can depend on another question. For example, question 2 may depend on question 1. Then question 2 counts as answered
with no if the answer to question 1 is no.

Layout: one PNG per prompt, which shows four samples as a 2 x 2 grid. The PNG has the name of the prompt's text file.
Results: `dpg-bench_TIME_results.txt` in the same folder.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from irg_rl.errors import InputError
from irg_rl.suites.base import Facts, Suite
from irg_rl.suites.files import file_name, number, read_text, result_lines
from irg_rl.suites.groups import everyone
from irg_rl.suites.scores import Figure, Key, Results, mean_of
from irg_rl.trajectory import Prompt

_LINE = re.compile(r"(.+\.png), ([-+.\de, ]+)$")


class DPG(Suite):
    name: ClassVar = "dpg"
    title: ClassVar = "DPG-Bench"
    samples: ClassVar = 4
    is_grid: ClassVar = True
    looked_for: ClassVar = "dpg-bench_*_results.txt of dist_eval.sh"
    facts: ClassVar = Facts(
        judge="mPLUG-large VQA (COCO) through modelscope",
        template="none: the questions of dpg_bench.csv; a question whose parent is answered no counts as no",
        weights="mean over questions of a crop, mean of the crops, mean over prompts; in per cent there, 0 to 1 here",
        prompts="dpg_bench/prompts/*.txt, 1,065 prompts x 4 images",
        published="category scores use the last crop and answers before the dependency rule: not read here",
    )

    def read_prompts(self, path: Path) -> list[Prompt]:
        if not path.is_dir():
            raise InputError(f"{path}: give the folder of prompts, dpg_bench/prompts")
        prompts = []
        for file in sorted(path.glob("*.txt")):
            text = " ".join(read_text(file).split())
            if not text:
                raise InputError(f"{file} is empty: a prompt is needed")
            prompts.append(Prompt(file_name(file.stem, str(file)), text))
        if not prompts:
            raise InputError(f"{path} has no *.txt")
        return prompts

    def place(self, prompt: Prompt, sample: int, model: str) -> str:
        return f"{prompt.id}.png"

    def read_results(self, tree: Path, prompts: Sequence[Prompt]) -> Results:
        results, known = Results(), {p.id for p in prompts}
        files = sorted(tree.glob("dpg-bench_*_results.txt"))
        if not files:
            return results
        path = files[-1]  # the newest file, because the name contains the time
        results.source = f"official ({path.name})"
        for place, line in result_lines(path, results.problems, only_ended=True):
            if (found := _LINE.match(line.strip())) is None:
                continue  # a line of the summary
            ident = Path(found[1]).stem
            values = [number(part) for part in found[2].split(", ")]
            crops, mean = [v for v in values[:-1] if v is not None], values[-1]
            if ident not in known:
                results.problems.append(f"{path}, line {place}: {ident} is not among the prompts")
            elif mean is None or len(crops) != len(values) - 1 or abs(mean - sum(crops) / max(len(crops), 1)) > 1e-3:
                results.problems.append(f"{path}, line {place}: not the scores of crops and their mean (cut off?)")
            else:
                if len(crops) != self.samples:
                    results.problems.append(f"{path}, line {place}: {len(crops)} of {self.samples} crops (PIC_NUM)")
                results.put(Key(ident, 0, "score"), mean)
        return results

    def figures(self, prompts: Sequence[Prompt]) -> list[Figure]:
        return [mean_of("DPG-Bench score", "score", everyone(prompts), True)]
