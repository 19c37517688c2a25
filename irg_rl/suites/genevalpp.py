"""GenEval++ (yejy53/Echo-4o): prompts with seven kinds of compositions. A multimodal language model judges each image
as right or wrong.

Layout: `image/1.jpg` to `image/280.jpg`. Results: `Output.json`.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from irg_rl.suites.base import Facts, Suite
from irg_rl.suites.files import json_lines, number, whole_json
from irg_rl.suites.groups import by_metadata, everyone, mean_of_groups
from irg_rl.suites.judging import Ask, Judged, fill, verdict
from irg_rl.suites.scores import Figure, ItemScore, Key, Results, mean_of
from irg_rl.trajectory import Prompt

RESULTS = "Output.json"
NAMES = ("image_path", "image", "filename", "file", "image_id", "id", "index", "idx")
VALUES = ("score", "correct", "result", "accuracy")
_NUMBER = re.compile(r"(\d+)(?:\.\w+)?$")


class GenEvalPlusPlus(Suite, Judged):
    name: ClassVar = "geneval++"
    title: ClassVar = "GenEval++"
    looked_for: ClassVar = f"{RESULTS} of Eval-gpt-4.1-geneval++.py"
    needs_template: ClassVar = True
    max_tokens: ClassVar = 200
    facts: ClassVar = Facts(
        judge="gpt-4.1, temperature 0, at most 200 tokens",
        template="Echo-4o's; judged here: the template file, answered by yes or no",
        weights="overall is the mean of the seven tags; the share of all images stands beside it",
        prompts="Geneval++.jsonl, 280 prompts, 40 of each tag",
        published="BAGEL .371, Echo-4o .679, R3 .689; there a missing image and a failed judge count as wrong",
    )

    def read_prompts(self, path: Path) -> list[Prompt]:
        prompts = []
        for index, line in enumerate(json_lines(path), 1):
            about = {"number": index, "tag": line.text("tag"), "row": dict(line.content)}
            prompts.append(Prompt(str(index), line.text("prompt"), about))
        return prompts

    def place(self, prompt: Prompt, sample: int, model: str) -> str:
        return f"image/{prompt.metadata['number']}.jpg"

    def read_results(self, tree: Path, prompts: Sequence[Prompt]) -> Results:
        results, known = Results(), {p.id for p in prompts}
        if not (path := tree / RESULTS).is_file():
            return results
        results.source = f"official ({RESULTS})"
        content = whole_json(path, results.problems, dict)
        entries = None if content is None else content.get("overall_results")
        if isinstance(entries, dict):
            entries = [{"id": name} | (e if isinstance(e, dict) else {"score": e}) for name, e in entries.items()]
        if content is not None and not isinstance(entries, list):
            results.problems.append(f"{path}: no list `overall_results`")
        for place, entry in enumerate(entries if isinstance(entries, list) else [], 1):
            ident, value = _identity(entry), _value(entry)
            if ident not in known:
                results.problems.append(f"{path}, entry {place}: no image number among {', '.join(NAMES)}")
            elif value not in (0.0, 1.0):  # -1: the judge failed
                results.problems.append(f"{path}, entry {place}: no verdict for image {ident}: {entry!r:.80}")
            else:
                results.put(Key(ident, 0, "score"), value)
        return results

    def stratum(self, prompt: Prompt) -> str:
        return prompt.metadata["tag"]

    def figures(self, prompts: Sequence[Prompt]) -> list[Figure]:
        by_tag = mean_of_groups(by_metadata(prompts, self.stratum), "overall (mean of the tags)")
        return [*by_tag[:-1], mean_of("share of all images", "score", everyone(prompts)), by_tag[-1]]

    def ask_names(self, prompt: Prompt) -> Sequence[str]:
        return ("verdict",)

    def asks(self, prompt: Prompt, template: str) -> list[Ask]:
        values = {"prompt": prompt.text}
        if "{metadata}" in template:
            values["metadata"] = json.dumps(prompt.metadata["row"])
        return [Ask("verdict", fill(template, values))]

    def answer(self, ask: Ask, completion: object) -> float:
        return verdict(completion)

    def judged(self, prompt: Prompt, answers: dict[str, Any]) -> dict[str, ItemScore]:
        return {"score": ItemScore(answers["verdict"])}


def _identity(entry: Any) -> str:
    """Return the prompt id that belongs to an entry of the result file. It is the number at the end of the entry's
    image name, without leading zeros. Return an empty string if the image name has no such number."""
    found = (entry.get(name) for name in NAMES) if isinstance(entry, dict) else ()
    numbers = (_NUMBER.search(str(value)) for value in found if value is not None)
    return next((match[1].lstrip("0") for match in numbers if match), "")


def _value(entry: Any) -> float | None:
    return next((number(entry[name]) for name in VALUES if name in entry), None)
