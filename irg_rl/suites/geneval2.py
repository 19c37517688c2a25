"""GenEval 2 (facebookresearch/GenEval2): compositional prompts. Each prompt consists of atoms (single facts). For each
atom, a judge answers one question about the image. The scoring method is called Soft-TIFA.

Layout: `images/00000.png`, and `image_paths.json`, which maps the text of each prompt to the path of its image.
Results: `score_lists.json`, which has one list of scores per prompt, in the order of the prompts.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from irg_rl.errors import InputError
from irg_rl.soft_tifa import NoProbabilities, accepted, aggregate, asked, first_token_probability
from irg_rl.suites.base import Facts, Picture, Suite
from irg_rl.suites.files import json_lines, number, whole_json
from irg_rl.suites.groups import everyone
from irg_rl.suites.judging import Ask, BadAnswer, Judged
from irg_rl.suites.scores import Figure, ItemScore, Key, Results, mean_of
from irg_rl.trajectory import Prompt

RESULTS, PATHS = "score_lists.json", "image_paths.json"
AM, GM, SKILL = "am", "gm", "skill "


class GenEval2(Suite, Judged):
    name: ClassVar = "geneval2"
    title: ClassVar = "GenEval 2"
    looked_for: ClassVar = f"{RESULTS} of evaluation.py"
    max_tokens: ClassVar = 1
    facts: ClassVar = Facts(
        judge="Qwen3-VL-8B, transformers 4.57",
        template="the question and 'Answer in one word.'; the score is the probability of the right first token",
        weights="means over prompts. AM: the arithmetic mean of a prompt's atoms; GM: the geometric, 0 if an atom is 0",
        prompts="geneval2_data.jsonl, 800 prompts of 3 to 10 atoms (CC BY-NC)",
        published="in per cent; skills are AM over atoms, atomicities GM over prompts",
    )

    def read_prompts(self, path: Path) -> list[Prompt]:
        prompts, places = [], {}
        for index, line in enumerate(json_lines(path)):
            text, pairs, skills = line.text("prompt"), line.listing("vqa_list"), line.listing("skills")
            if not pairs or any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs):
                raise InputError(f"{line.where}: `vqa_list` must hold pairs of question and answer")
            if len(pairs) != len(skills):
                raise InputError(f"{line.where}: {len(pairs)} questions in `vqa_list`, but {len(skills)} `skills`")
            if text in places:  # the evaluator finds images by the text of the prompt
                raise InputError(f"{line.where}: the prompt {text!r:.60} was used before ({places[text]})")
            places[text] = line.where
            about = {"index": index, "atoms": line.whole_number("atom_count"), "questions": pairs, "skills": skills}
            prompts.append(Prompt(str(index), text, about))
        return prompts

    def place(self, prompt: Prompt, sample: int, model: str) -> str:
        return f"images/{prompt.metadata['index']:05d}.png"

    def side_files(self, pictures: Sequence[Picture]) -> dict[str, str]:
        return {PATHS: json.dumps({p.prompt.text: p.path for p in pictures}, indent=1)}

    def metrics(self, prompt: Prompt) -> Sequence[str]:
        return (AM, GM, *(SKILL + skill for skill in dict.fromkeys(prompt.metadata["skills"])))

    def weight(self, prompt: Prompt, metric: str) -> float | None:
        return float(prompt.metadata["skills"].count(metric.removeprefix(SKILL))) if metric.startswith(SKILL) else 1.0

    def read_results(self, tree: Path, prompts: Sequence[Prompt]) -> Results:
        results = Results()
        if not (path := tree / RESULTS).is_file():
            return results
        results.source = f"official ({RESULTS})"
        lists = whole_json(path, results.problems, list)
        if lists is not None and len(lists) != len(prompts):
            results.problems.append(f"{path}: needs a list of {len(prompts)} lists; none can be told apart")
            return results
        for prompt, scores in zip(prompts, lists or [], strict=False):
            atoms = [number(score) for score in scores] if isinstance(scores, list) else []
            if len(atoms) != len(prompt.metadata["questions"]) or any(a is None or not 0 <= a <= 1.0001 for a in atoms):
                results.problems.append(f"{path}: prompt {prompt.id} needs {len(prompt.metadata['questions'])} scores")
                continue
            for metric, score in self._scores(prompt, [a for a in atoms if a is not None]).items():
                results.scores[Key(prompt.id, 0, metric)] = score
        return results

    def _scores(self, prompt: Prompt, atoms: Sequence[float]) -> dict[str, ItemScore]:
        """Return metric -> score for one prompt, computed from the scores of its atoms (the single facts of the
        prompt). The metrics are the arithmetic mean, the geometric mean and one metric per skill. For a skill, the
        score is a pair of numbers: the sum of the scores of its atoms, and how many atoms it has."""
        scores = {AM: ItemScore(aggregate(atoms, "mean")), GM: ItemScore(aggregate(atoms, "geometric"))}
        for skill in dict.fromkeys(prompt.metadata["skills"]):
            mine = [a for a, s in zip(atoms, prompt.metadata["skills"], strict=True) if s == skill]
            scores[SKILL + skill] = ItemScore(sum(mine), float(len(mine)))
        return scores

    def figures(self, prompts: Sequence[Prompt]) -> list[Figure]:
        skills = dict.fromkeys(skill for p in prompts for skill in p.metadata["skills"])
        members = {s: frozenset(p.id for p in prompts if s in p.metadata["skills"]) for s in skills}
        figures = [mean_of(f"{skill} (AM over atoms)", SKILL + skill, ids) for skill, ids in members.items()]
        for atoms in sorted({p.metadata["atoms"] for p in prompts}):
            ids = frozenset(p.id for p in prompts if p.metadata["atoms"] == atoms)
            figures.append(mean_of(f"{atoms} atoms (GM)", GM, ids))
        every = everyone(prompts)
        return [*figures, mean_of("Soft-TIFA AM", AM, every, True), mean_of("Soft-TIFA GM", GM, every, True)]

    def ask_names(self, prompt: Prompt) -> Sequence[str]:
        return [f"question {i}" for i in range(len(prompt.metadata["questions"]))]

    def asks(self, prompt: Prompt, template: str) -> list[Ask]:
        pairs = zip(self.ask_names(prompt), prompt.metadata["questions"], strict=True)
        return [Ask(name, asked(question), accepted(answer)) for name, (question, answer) in pairs]

    def answer(self, ask: Ask, completion: object) -> float:
        try:
            return first_token_probability(completion, ask.accepted)
        except NoProbabilities as error:
            raise BadAnswer(str(error)) from error

    def judged(self, prompt: Prompt, answers: dict[str, Any]) -> dict[str, ItemScore]:
        return self._scores(prompt, [answers[name] for name in self.ask_names(prompt)])
