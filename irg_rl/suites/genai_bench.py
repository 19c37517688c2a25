"""GenAI-Bench (linzhiqiu/t2v_metrics): compositional prompts. Images are scored by VQAScore.

Layout: `MODEL/00000.jpeg`. MODEL is the name of the model that drew the images, and the number is the key of the prompt
in genai_image.json. Results: `genai_bench_results/MODEL/*_prompts.pt`.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import ClassVar

import torch

from irg_rl.errors import InputError
from irg_rl.suites.base import Facts, Suite
from irg_rl.suites.files import distinct, file_name, json_mapping, number
from irg_rl.suites.groups import everyone
from irg_rl.suites.scores import Figure, Key, Results, mean_of
from irg_rl.text_in import read_json
from irg_rl.trajectory import Prompt

SKILLS = "genai_skills.json"
OFFICIAL = "clip-flant5-xxl"
UNLOADABLE = (
    RuntimeError, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, AssertionError,
    UnpicklingError, struct.error,
)  # fmt: skip
"""The exceptions that torch.load can raise for a broken file. Which of them is raised depends on where it is broken."""


class GenAIBench(Suite):
    name: ClassVar = "genai-bench"
    title: ClassVar = "GenAI-Bench"
    looked_for: ClassVar = "genai_bench_results/MODEL/SCORER_N_prompts.pt of genai_bench/evaluate.py"
    facts: ClassVar = Facts(
        judge="VQAScore with clip-flant5-xxl (t2v_metrics)",
        template='the scorer\'s own: how likely "Yes" is to \'Does this figure show "PROMPT"?\'',
        weights="plain mean over prompts: per skill, basic, advanced, all",
        prompts="genai_image.json, 527 or 1,600 prompts; groups from genai_skills.json beside it",
        published="IRG .84, BAGEL with thinking .81, BAGEL .79",
    )

    def read_prompts(self, path: Path) -> list[Prompt]:
        file = path / "genai_image.json" if path.is_dir() else path
        skills = _skills(file.parent / SKILLS)
        found = []
        for place, (key, line) in enumerate(json_mapping(file).items()):
            if not file_name(key, line.where).isdecimal():
                raise InputError(f"{line.where}: the key must be a number such as 00000")
            mine = [skill for skill, numbers in skills.items() if int(key) in numbers]
            found.append((Prompt(key, line.text("prompt"), {"row": place, "skills": mine}), line.where))
        return distinct(found)

    def place(self, prompt: Prompt, sample: int, model: str) -> str:
        return f"{model}/{prompt.id}.jpeg"

    def read_results(self, tree: Path, prompts: Sequence[Prompt]) -> Results:
        results = Results()
        files = sorted(tree.glob("genai_bench_results/**/*_prompts.pt"))
        if not files:
            return results
        path = next((file for file in files if file.name.startswith(OFFICIAL)), files[0])
        results.problems += [f"{file}: not read, {path.name} was" for file in files if file != path]
        results.source = f"official ({path.name})"
        try:  # weights_only: no pickle that could run code is loaded
            scores = torch.load(path, map_location="cpu", weights_only=True)
        except UNLOADABLE as error:
            results.problems.append(f"{path}: cannot be read (cut off?): {error!s:.120}")
            return results
        if not isinstance(scores, torch.Tensor) or scores.ndim != 2 or len(scores) != len(prompts):
            shape = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
            results.problems.append(f"{path}: {shape}, but {len(prompts)} rows are needed; none can be told apart")
            return results
        for prompt in prompts:
            value = number(scores[prompt.metadata["row"]].float().mean())
            if value is None:
                results.problems.append(f"{path}: the score of {prompt.id} is no finite number")
            else:
                results.put(Key(prompt.id, 0, "score"), value)
        return results

    def figures(self, prompts: Sequence[Prompt]) -> list[Figure]:
        named = dict.fromkeys(skill for prompt in prompts for skill in prompt.metadata["skills"])
        members = {s: frozenset(p.id for p in prompts if s in p.metadata["skills"]) for s in named}
        ordered = [s for s in named if s not in ("basic", "advanced")] + [
            s for s in ("basic", "advanced") if s in named
        ]
        every = frozenset().union(*members.values()) if members else everyone(prompts)
        return [*(mean_of(s, "score", members[s]) for s in ordered), mean_of("all", "score", every, is_headline=True)]

    def prompt_set(self, prompts: Sequence[Prompt]) -> str:
        there = "" if any(p.metadata["skills"] for p in prompts) else f", no figure per skill: no {SKILLS} beside them"
        return super().prompt_set(prompts) + there


def _skills(path: Path) -> dict[str, set[int]]:
    """Read which prompts need which skill. Return skill -> numbers of the prompts. The dict is empty if there is no
    such file. Raises InputError if the file has another form, for example because it was cut off."""
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: needs a JSON object that maps a skill to numbers of prompts")
    for skill, numbers in content.items():
        if not isinstance(numbers, list) or any(type(one) is not int for one in numbers):
            raise InputError(f"{path}, {skill!r}: needs a list of numbers of prompts, got {numbers!r:.60}")
    return {skill: set(numbers) for skill, numbers in content.items()}
