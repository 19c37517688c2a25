"""WISE (PKU-YuanGroup/WISE): prompts that need world knowledge. There are two versions. In the legacy version, the
judge gives each image three grades from 0 to 2. In the newer version, called Verified, it answers only yes or no.

Layout: `1.png` to `1000.png`. Results: `Results/*.jsonl` (legacy) and `Results-qwen35/*_scores_results.jsonl`
(Verified).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from irg_rl.errors import InputError
from irg_rl.suites.base import Facts, Suite
from irg_rl.suites.files import distinct, json_list, number, prompts_folder, whole_lines
from irg_rl.suites.groups import by_metadata, mean_of_groups, weighted_mean
from irg_rl.suites.judging import Ask, BadAnswer, Judged, fill, said, verdict
from irg_rl.suites.scores import Figure, ItemScore, Key, Results
from irg_rl.trajectory import Prompt

TENTHS = {"consistency": 7, "realism": 2, "aesthetic_quality": 1}
HIGHEST = 2.0
CATEGORIES: tuple[str, ...] = ("cultural", "time", "space", "biology", "physics", "chemistry")
LEGACY_LAST: dict[str, int] = dict(zip(CATEGORIES, (400, 567, 700, 800, 900, 1000), strict=True))
VERIFIED_LAST: dict[str, int] = dict(zip(CATEGORIES, (400, 520, 640, 760, 880, 1000), strict=True))
LEGACY_WEIGHTS: dict[str, float] = dict(zip(CATEGORIES, (0.4, 0.167, 0.133, 0.1, 0.1, 0.1), strict=True))
VERIFIED_WEIGHTS: dict[str, float] = dict(zip(CATEGORIES, (0.4, 0.12, 0.12, 0.12, 0.12, 0.12), strict=True))
_GRADE = re.compile(
    r"\*{0,2}(consistency|realism|aesthetic quality)\*{0,2}\s*[::]?\s*\*{0,2}\s*([012])\b", re.IGNORECASE
)
VERIFIED_FIELDS = ("score", "consistency", "correct", "result")


def wiscore(grades: dict[str, float]) -> float:
    """Return the WiScore of an image, (0.7 consistency + 0.2 realism + 0.1 aesthetic quality) / 2, which lies in [0, 1]
    (arXiv 2503.07265). `grades` has the three grades from 0 to 2."""
    return sum(tenths * grades[name] for name, tenths in TENTHS.items()) / (10 * HIGHEST)


class Wise(Suite, Judged):
    name: ClassVar = "wise"
    title: ClassVar = "WISE (legacy)"
    looked_for: ClassVar = "Results/*.jsonl of gpt_eval.py, or *_scores.jsonl of BAGEL's script"
    needs_template: ClassVar = True
    max_tokens: ClassVar = 2000
    patterns: ClassVar = ("Results/*.jsonl", "**/*_scores.jsonl")
    last: ClassVar[dict[str, int]] = LEGACY_LAST
    weights: ClassVar[dict[str, float]] = LEGACY_WEIGHTS
    facts: ClassVar = Facts(
        judge="gpt-4o-2024-05-13, temperature 0 (BAGEL's script: gpt-4o-2024-11-20)",
        template="three grades 0 to 2; WiScore = (0.7 consistency + 0.2 realism + 0.1 aesthetics) / 2",
        weights="overall weighted .4 culture, .167 time, .133 space, .1 biology, physics, chemistry; the plain mean of "
        "the six categories stands beside it",
        prompts="1,000 prompts, ids 1 to 1000; also published on rewritten prompts",
        published="BAGEL's and IRG's cal_score takes the plain mean (fixed 4 May 2026); by their columns BAGEL's .52 "
        "and .70 are plain means and IRG's .77 is the weighted one",
    )

    def read_prompts(self, path: Path) -> list[Prompt]:
        lines = [line for file in prompts_folder(path, "*.json") for line in json_list(file)]
        found = []
        for line in lines:
            ident = line.whole_number("prompt_id")
            explanation = line.content.get("Explanation", "")
            if not isinstance(explanation, str):
                raise InputError(f"{line.where}: `Explanation` must be a string, got {explanation!r:.60}")
            about = {"explanation": explanation, "subcategory": str(line.content.get("Subcategory", ""))}
            if not 1 <= ident <= max(self.last.values()):
                line.out_of_range("prompt_id", 1, max(self.last.values()))
            found.append((Prompt(str(ident), line.text("Prompt"), about), line.where))
        return sorted(distinct(found), key=lambda prompt: int(prompt.id))

    def place(self, prompt: Prompt, sample: int, model: str) -> str:
        return f"{prompt.id}.png"

    def read_results(self, tree: Path, prompts: Sequence[Prompt]) -> Results:
        results, known = Results(), {p.id for p in prompts}
        files = list(dict.fromkeys(path for pattern in self.patterns for path in sorted(tree.glob(pattern))))
        for path in files:
            for line, entry in whole_lines(path, results.problems):
                where, ident = f"{path}, line {line}", str(entry.get("prompt_id"))
                value = self.graded(entry)
                if ident not in known:
                    results.problems.append(f"{where}: prompt_id {ident} is not among the prompts")
                elif value is None:  # the official scripts write 9.9 or 999 for a failure
                    results.problems.append(f"{where}: no grades for prompt {ident}: {entry!r:.120}")
                else:  # the official scripts append lines, so the last line of an id counts
                    results.put(Key(ident, 0, "score"), value)
        if files:
            results.source = f"official ({', '.join(path.name for path in files)})"
        return results

    def graded(self, entry: dict[str, Any]) -> float | None:
        """Return the score of one image, computed from the grades in a result file. `entry` is the line about this
        image, as a dict. Return None if a grade is missing or invalid, for example because the judge failed."""
        grades = {name: number(entry.get(name)) for name in TENTHS}
        if any(grade is None or not 0 <= grade <= HIGHEST for grade in grades.values()):
            return None
        return wiscore({name: grade for name, grade in grades.items() if grade is not None})

    def stratum(self, prompt: Prompt) -> str:
        return next(name for name, last in self.last.items() if int(prompt.id) <= last)

    def figures(self, prompts: Sequence[Prompt]) -> list[Figure]:
        groups = by_metadata(prompts, self.stratum, CATEGORIES)
        figures = mean_of_groups(groups, "unweighted mean of the categories")
        return [*figures, weighted_mean(groups, self.weights, "overall (official weights)")]

    def ask_names(self, prompt: Prompt) -> Sequence[str]:
        return ("grades",)

    def asks(self, prompt: Prompt, template: str) -> list[Ask]:
        about = {"prompt": prompt.text, "explanation": prompt.metadata["explanation"]}
        return [Ask("grades", fill(template, about))]

    def answer(self, ask: Ask, completion: object) -> dict[str, float]:
        found = {name.lower().replace(" ", "_"): float(grade) for name, grade in _GRADE.findall(said(completion))}
        if missing := [name for name in TENTHS if name not in found]:
            raise BadAnswer(f"no grade 0, 1 or 2 for {missing[0]} in {said(completion)[:120]!r}")
        return found

    def judged(self, prompt: Prompt, answers: dict[str, Any]) -> dict[str, ItemScore]:
        return {"score": ItemScore(wiscore(answers["grades"]))}


class WiseVerified(Wise):
    name: ClassVar = "wise-verified"
    title: ClassVar = "WISE_Verified"
    looked_for: ClassVar = "Results-qwen35/*_scores_results.jsonl of eval_qwen.sh"
    max_tokens: ClassVar = 16
    patterns: ClassVar = ("Results-qwen35/*_scores_results.jsonl",)
    last: ClassVar = VERIFIED_LAST
    weights: ClassVar = VERIFIED_WEIGHTS
    facts: ClassVar = Facts(
        judge="Qwen3.5-35B-A3B on vLLM, thinking off",
        template="one binary verdict",
        weights="overall weighted .4 culture and .12 for each of the other five; the plain mean stands beside it",
        prompts="1,000 prompts of data_verified/, about 200 differ from legacy; ids 1-400, then 120 per category",
        published="the default since 19 Apr 2026 (BAGEL with thinking .628); not comparable with legacy WISE",
    )

    def graded(self, entry: dict[str, Any]) -> float | None:
        value = next((number(entry[name]) for name in VERIFIED_FIELDS if name in entry), None)
        return value if value in (0.0, 1.0) else None

    def answer(self, ask: Ask, completion: object) -> Any:
        return verdict(completion)

    def judged(self, prompt: Prompt, answers: dict[str, Any]) -> dict[str, ItemScore]:
        return {"score": ItemScore(answers["grades"])}
