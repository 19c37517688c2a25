"""OneIG-Bench, English prompts (OneIG-Bench/OneIG-Benchmark): there are five classes of prompts and five scores.

Layout: `images/CLASS/MODEL/000.webp`, which shows four samples as a 2 x 2 grid. CLASS is the class of the prompt, and
MODEL the name of the model that drew the images. Results: `results/*_prompt_score_EN_TIME.csv`.
"""

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from irg_rl.errors import InputError
from irg_rl.suites.base import Facts, Suite
from irg_rl.suites.files import Line, csv_rows, distinct, file_name, number, whole_rows
from irg_rl.suites.scores import Figure, Key, Leaf, Results, mean_of
from irg_rl.trajectory import Prompt

CLASSES = {
    "Anime_Stylization": "anime", "Portrait": "human", "General_Object": "object", "Text_Rendering": "text",
    "Knowledge_Reasoning": "reasoning",
}  # fmt: skip
ALIGNED = ("anime", "human", "object")
LONGEST_EDIT = 100.0
"""English text counts as completely wrong if its edit distance is at least this number. For Chinese text it is 50."""
TEXT = ("ED", "CR", "WAC")
_NUMPY = re.compile(r"np\.float\d+\(([^)]*)\)")  # a number in a list as numpy 2 prints it: np.float64(0.5)


def text_score(values: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "..."]:
    """Return the text score, 1 - min(100, ED) (1 - CR) (1 - WAC) / 100. ED is the edit distance, CR the share of texts
    that are exactly right, and WAC the share of right words. The last axis of `values` has these three numbers in this
    order."""
    distance, exact, words = values[..., 0], values[..., 1], values[..., 2]
    return 1 - np.minimum(distance, LONGEST_EDIT) * (1 - exact) * (1 - words) / LONGEST_EDIT


class OneIG(Suite):
    name: ClassVar = "oneig-en"
    title: ClassVar = "OneIG-Bench EN"
    samples: ClassVar = 4
    is_grid: ClassVar = True
    worst: ClassVar = {"ED": LONGEST_EDIT}
    looked_for: ClassVar = "results/*_prompt_score_EN_TIME.csv of run_overall.sh"
    facts: ClassVar = Facts(
        judge="Qwen2.5-VL-7B (alignment, text), LLM2CLIP (reasoning), CSD and OneIG's encoder (style), DreamSim",
        template="the repository's",
        weights="five scores, no mean in the code; text = 1 - min(100, ED)(1 - CR)(1 - WAC)/100, where WAC here is "
        "the mean over prompts and there over words",
        prompts="OneIG-Bench.csv, 1,120 prompts x 4 images",
        published="IRG .415, BAGEL .361, BAGEL with thinking .324: presumably the mean of the five",
    )

    def read_prompts(self, path: Path) -> list[Prompt]:
        found = []
        for line in csv_rows(path, ("category", "id", "prompt_en")):
            kind = CLASSES.get(line.text("category").replace(" ", "_"))
            if kind is None:
                raise InputError(f"{line.where}: category {line.content['category']!r} is none of {', '.join(CLASSES)}")
            ident = file_name(line.text("id"), line.where)
            about = {"class": kind, "number": ident, "style": self._style(line)}
            found.append((Prompt(f"{kind}/{ident}", line.text("prompt_en"), about), line.where))
        if not found:
            raise InputError(f"{path} has no rows")
        return distinct(found)

    def _style(self, line: Line) -> str:
        style = line.content.get("class") or ""
        return "" if style in ("None", "nan") else style

    def place(self, prompt: Prompt, sample: int, model: str) -> str:
        return f"images/{prompt.metadata['class']}/{model}/{prompt.metadata['number']}.webp"

    def metrics(self, prompt: Prompt) -> Sequence[str]:
        kind = prompt.metadata["class"]
        mine = {"text": TEXT, "reasoning": ("reasoning",)}.get(kind, ("alignment",))
        styled = ("style",) if kind == "anime" and prompt.metadata["style"] else ()
        return (*mine, *styled, "diversity")

    def stratum(self, prompt: Prompt) -> str:
        return prompt.metadata["class"]

    def read_results(self, tree: Path, prompts: Sequence[Prompt]) -> Results:
        results, known = Results(), {p.id for p in prompts}
        read = []
        for metric, kind in (
            ("alignment", ""), ("text", "text"), ("reasoning", "reasoning"), ("style", "anime"), ("diversity", ""),
        ):  # fmt: skip
            files = sorted(tree.glob(f"results/{metric}_prompt_score_EN_*.csv"))
            if not files:
                continue
            path = files[-1]  # the newest file, because names end with the time
            read.append(path.name)
            for line in whole_rows(path, results.problems):
                ident, cell = self._row(line, tree, kind, results.problems)
                if ident is not None and ident not in known:
                    results.problems.append(f"{line.where}: {ident} is not among the prompts")
                elif ident is not None:
                    self._put(results, line, metric, ident, cell)
        if read:
            results.source = f"official ({', '.join(read)})"
        return results

    def _row(self, line: Line, tree: Path, kind: str, problems: list[str]) -> tuple[str | None, str]:
        """Return two texts from a row of a result file: the prompt id, and the content of the column of the model whose
        images are in the folder `tree`. The id in the row is a text such as `anime_000`. It may also be only `000` if
        the class of prompts (such as anime) is known and given in `kind`. If the column cannot be found, add a message
        to `problems` and return (None, "")."""
        columns = list(line.content)
        here = {path.name for path in tree.glob("images/*/*")}
        mine = columns[1:] if len(columns) == 2 else [c for c in columns[1:] if c in here]
        if len(mine) != 1:
            problems.append(f"{line.where}: {len(columns) - 1} models, and not one of them has its images here")
            return None, ""
        name = line.content[columns[0]] or ""
        ident = f"{kind}/{name.zfill(3)}" if kind else name.replace("_", "/", 1)
        return ident, line.content[mine[0]] or ""

    def _put(self, results: Results, line: Line, metric: str, ident: str, cell: str) -> None:
        names = TEXT if metric == "text" else (metric,)
        try:
            cells = list(ast.literal_eval(_NUMPY.sub(r"\1", cell))) if metric == "text" else [cell]
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # the last two: nested too deeply
            cells = []
        values = [number(value) for value in cells]
        if len(values) != len(names) or any(value is None for value in values):
            results.problems.append(f"{line.where}: no {metric} score for {ident}: {cell!r:.60}")
            return
        for name, value in zip(names, values, strict=True):
            results.put(Key(ident, 0, name), value or 0.0)

    def figures(self, prompts: Sequence[Prompt]) -> list[Figure]:
        asked = {m: frozenset(p.id for p in prompts if m in self.metrics(p)) for p in prompts for m in self.metrics(p)}
        figures = [mean_of(m, m, asked[m], True) for m in ("alignment",) if m in asked]
        if "ED" in asked:
            figures.append(Figure("text", tuple(Leaf(m, asked[m]) for m in TEXT), text_score, True))
        figures += [mean_of(m, m, asked[m], True) for m in ("reasoning", "style", "diversity") if m in asked]
        parts = tuple(leaf for figure in figures for leaf in figure.leaves)
        return [
            *figures,
            Figure(f"mean of the {len(figures)} (not in the official code)", parts, _mean_of(figures), True),
        ]


def _mean_of(figures: Sequence[Figure]):
    """Return a function that computes the mean of several figures (reported numbers). Each figure is computed from its
    leaves (ratios over several prompts). The input of the function is one array with the values of all leaves: first
    those of the first figure, then those of the second figure, and so on."""

    def combine(values: Float[np.ndarray, "... L"]) -> Float[np.ndarray, "..."]:
        ends = np.cumsum([len(figure.leaves) for figure in figures])
        starts = ends - [len(figure.leaves) for figure in figures]
        return np.mean([f.of(values[..., a:b]) for f, a, b in zip(figures, starts, ends, strict=True)], axis=0)

    return combine
