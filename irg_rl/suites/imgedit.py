"""ImgEdit Basic (PKU-YuanGroup/ImgEdit): each prompt is an instruction to edit one image. A judge gives three grades
from 1 to 5.

Layout: `KEY.png`, where KEY is the key of the prompt in basic_edit.json. Results: `result.json`, which maps KEY to the
answer of the judge.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

from irg_rl.errors import InputError
from irg_rl.suites.base import Facts, Suite
from irg_rl.suites.files import distinct, file_name, json_mapping, whole_json
from irg_rl.suites.groups import by_metadata, everyone, mean_of_groups
from irg_rl.suites.scores import Figure, Key, Results, mean_of
from irg_rl.trajectory import Prompt

RESULTS = "result.json"
GRADES = ("1", "2", "3", "4", "5")


class ImgEdit(Suite):
    name: ClassVar = "imgedit"
    title: ClassVar = "ImgEdit Basic"
    edits: ClassVar = True
    worst: ClassVar = {"score": 1.0}
    looked_for: ClassVar = f"{RESULTS} of basic_bench.py"
    facts: ClassVar = Facts(
        judge="gpt-4o at its default temperature (1.0), so two runs differ",
        template="prompts_json of the repository, one per edit type",
        weights="mean of the grades of an image; mean per edit type. No overall mean in the code: both are shown",
        prompts="basic_edit.json, 737 instructions",
        published="SenseNova-U1 4.37 (its own test)",
    )

    def read_prompts(self, path: Path) -> list[Prompt]:
        found = []
        for key, line in json_mapping(path).items():
            source = PurePosixPath(line.text("id"))
            if source.is_absolute() or ".." in source.parts:
                raise InputError(f"{line.where}: `id` is {str(source)!r}, not a path inside the folder of sources")
            about = {"source": str(source), "type": line.text("edit_type")}
            found.append((Prompt(file_name(key, line.where), line.text("prompt"), about), line.where))
        return distinct(found)

    def place(self, prompt: Prompt, sample: int, model: str) -> str:
        return f"{prompt.id}.png"

    def source(self, prompt: Prompt) -> str:
        return prompt.metadata["source"]

    def read_results(self, tree: Path, prompts: Sequence[Prompt]) -> Results:
        results, known = Results(), {p.id for p in prompts}
        if not (path := tree / RESULTS).is_file():
            return results
        results.source = f"official ({RESULTS})"
        for key, said in (whole_json(path, results.problems, dict) or {}).items():
            grades = _grades(said)
            if key not in known:
                results.problems.append(f"{path}: {key!r} is not among the prompts")
            elif not grades:
                results.problems.append(f"{path}: no grades for {key!r}: {said!r:.80}")
            else:
                results.put(Key(key, 0, "score"), sum(grades) / len(grades))
        return results

    def stratum(self, prompt: Prompt) -> str:
        return prompt.metadata["type"]

    def figures(self, prompts: Sequence[Prompt]) -> list[Figure]:
        by_type = mean_of_groups(by_metadata(prompts, self.stratum), "mean of the edit types")
        return [*by_type, mean_of("mean of all images", "score", everyone(prompts), True)]


def _grades(said: object) -> list[int]:
    """Return the grades in an answer of the judge. As in step 1 of the official code, a grade is a line that ends with
    `: N`, where N is from 1 to 5. The list is empty if the answer has no grades."""
    if not isinstance(said, str):  # {"error": ...} means that the judge failed
        return []
    parts = [line.strip().split(": ") for line in said.splitlines()]
    return [int(p[1]) for p in parts if len(p) == 2 and p[1] in GRADES]
