"""GenEval (djghosh13/geneval): prompts about objects. An object detector judges the images.

Layout: one folder per prompt. The first one has `00000/metadata.jsonl` and the images `00000/samples/0000.png` to
`00000/samples/0003.png`. Results: `results.jsonl`.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from irg_rl.suites.base import Facts, Picture, Suite
from irg_rl.suites.files import json_lines, whole_lines
from irg_rl.suites.groups import by_metadata, mean_of_groups
from irg_rl.suites.scores import Figure, Key, Results
from irg_rl.trajectory import Prompt

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RESULTS = "results.jsonl"
_IMAGE = re.compile(r"(\d{1,9})/samples/(\d{1,9})\.png$")


class GenEval(Suite):
    name: ClassVar = "geneval"
    title: ClassVar = "GenEval"
    samples: ClassVar = 4
    looked_for: ClassVar = f"{RESULTS} of evaluate_images.py"
    facts: ClassVar = Facts(
        judge="Mask2Former Swin-S (COCO) and CLIP ViT-L-14; confidence .3, counting .9; position threshold .1",
        template="none: boxes are counted and compared",
        weights="overall is the plain mean of the six tasks; a task is the share of right images",
        prompts="evaluation_metadata.jsonl, 553 prompts x 4 images",
        published="BAGEL's and IRG's scripts take evaluation_metadata_long.jsonl (rewritten prompts), 1024 x 1024, "
        "without thinking",
    )

    def read_prompts(self, path: Path) -> list[Prompt]:
        prompts = []
        for index, line in enumerate(json_lines(path)):
            text = line.text("prompt")
            line.text("tag")
            line.listing("include")
            prompts.append(Prompt(str(index), text, {"index": index, "row": dict(line.content)}))
        return prompts

    def place(self, prompt: Prompt, sample: int, model: str) -> str:
        return f"{prompt.metadata['index']:05d}/samples/{sample:04d}.png"

    def side_files(self, pictures: Sequence[Picture]) -> dict[str, str]:
        rows = {p.prompt.metadata["index"]: p.prompt.metadata["row"] for p in pictures}
        return {f"{index:05d}/metadata.jsonl": json.dumps(row) + "\n" for index, row in rows.items()}

    def read_results(self, tree: Path, prompts: Sequence[Prompt]) -> Results:
        results = Results()
        known = {p.metadata["index"]: p for p in prompts}
        if not (path := tree / RESULTS).is_file():
            return results
        results.source = f"official ({RESULTS})"
        for number, entry in whole_lines(path, results.problems):
            where = f"{path}, line {number}"
            found = _IMAGE.search(str(entry.get("filename", "")).replace("\\", "/"))
            if found is None or not isinstance(entry.get("correct"), bool):
                results.problems.append(f"{where}: needs `filename` (.../00000/samples/0000.png) and a `correct`")
                continue
            prompt = known.get(int(found[1]))
            if prompt is None or entry.get("prompt", prompt.text) != prompt.text or int(found[2]) >= self.samples:
                results.problems.append(f"{where}: {found[0]} belongs to another prompts file")
                continue
            results.put(Key(prompt.id, int(found[2]), "score"), entry["correct"])
        return results

    def stratum(self, prompt: Prompt) -> str:
        return prompt.metadata["row"]["tag"]

    def figures(self, prompts: Sequence[Prompt]) -> list[Figure]:
        return mean_of_groups(by_metadata(prompts, self.stratum, TASKS), "overall (mean of the tasks)")

    def prompt_set(self, prompts: Sequence[Prompt]) -> str:
        plain = sum(p.text.lower().startswith("a photo of") for p in prompts)
        kind = "original wording" if plain > len(prompts) / 2 else "REWRITTEN (few begin with 'a photo of')"
        return f"{len(prompts)} prompts, rewritten or not: {kind}"
