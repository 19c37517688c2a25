"""T2I-CompBench++ (Karine-Huang/T2I-CompBench): prompts of eight categories. The images of a category are scored by the
model that the benchmark uses for this category.

Layout: `CATEGORY/samples/PROMPT_000000.png`, where PROMPT is the text of the prompt. Each prompt has ten images. The
images of a category are numbered consecutively. Results: one `vqa_result.json` per category, a list of {question_id,
answer}.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from irg_rl.errors import InputError
from irg_rl.suites.base import Facts, Suite
from irg_rl.suites.files import distinct, file_name, number, prompts_folder, text_lines, whole_json
from irg_rl.suites.groups import by_metadata, mean_of_groups
from irg_rl.suites.scores import Figure, Key, Results
from irg_rl.trajectory import Prompt

SCORED_BY = {
    "color": "annotation_blip", "shape": "annotation_blip", "texture": "annotation_blip",
    "spatial": "annotation_obj_detection*", "3d_spatial": "annotation_obj_detection*", "numeracy": "annotation_num",
    "non_spatial": "annotation_clip", "complex": "annotation_3_in_1",
}  # fmt: skip
"""Category -> name of the folder that contains the result file of this category. `*` is a wildcard."""
BY_RANK = ("annotation_blip", "annotation_clip", "annotation_3_in_1")
"""Names of folders in whose result files `question_id` is the rank of an image among the files of `samples/`. In the
other result files, it is the number in the name of the image. The two differ if an image is missing."""
_NUMBER = re.compile(r"_(\d{1,9})\.png$")


class CompBench(Suite):
    name: ClassVar = "t2i-compbench++"
    title: ClassVar = "T2I-CompBench++"
    samples: ClassVar = 10
    looked_for: ClassVar = "CATEGORY/annotation_*/vqa_result.json"
    facts: ClassVar = Facts(
        judge="BLIP-VQA (colour, shape, texture), UniDet (2D, 3D, numeracy), CLIPScore (non-spatial), 3-in-1 (complex)",
        template="none",
        weights="mean over images per category; no mean of the categories in the code",
        prompts="examples/dataset/*_val.txt, 300 prompts per category x 10 images",
        published="UMM-Reflection .55, BAGEL .49 (a mean of the categories)",
    )

    def read_prompts(self, path: Path) -> list[Prompt]:
        found = []
        for file in prompts_folder(path, "*_val.txt"):
            category = file.stem.removesuffix("_val")
            if category not in SCORED_BY:
                raise InputError(f"{file}: no category {category!r}; known are {', '.join(SCORED_BY)} (with _val.txt)")
            for index, (line, text) in enumerate(text_lines(file)):
                where, words = f"{file}, line {line}", text.split("\t")[0].strip()
                prompt = Prompt(f"{category}/{index}", file_name(words, where), {"category": category, "index": index})
                found.append((prompt, where))
        return distinct(found)

    def place(self, prompt: Prompt, sample: int, model: str) -> str:
        about = prompt.metadata
        return f"{about['category']}/samples/{prompt.text}_{about['index'] * self.samples + sample:06d}.png"

    def read_results(self, tree: Path, prompts: Sequence[Prompt]) -> Results:
        results, read = Results(), []
        for category in dict.fromkeys(p.metadata["category"] for p in prompts):
            files = sorted((tree / category).glob(f"**/{SCORED_BY[category]}/vqa_result.json"))
            if not files:
                continue
            read.append(str(files[0].relative_to(tree)))
            results.problems += [f"{other}: not read, {files[0]} was" for other in files[1:]]
            entries = whole_json(files[0], results.problems, list)
            if entries is not None:
                mine = [p for p in prompts if p.metadata["category"] == category]
                self._put(results, files[0], entries, tree / category, mine)
        if read:
            results.source = f"official ({', '.join(read)})"
        return results

    def _put(self, results: Results, path: Path, entries: list[Any], folder: Path, prompts: list[Prompt]) -> None:
        """Add the scores in the result file `path` of one category to `results`. `folder` is the folder of this
        category, and `prompts` are its prompts. If the scores are numbered by rank, and there are more or fewer images
        than scores, no score is used."""
        known, numbers = {p.id for p in prompts}, None
        if SCORED_BY[folder.name] in BY_RANK:
            numbers = _numbers(folder / "samples", self.samples * len(prompts))
            if len(entries) != len(numbers):
                results.problems.append(
                    f"{path}: {len(entries)} scores, but {len(numbers)} images in samples/, so it is not known which "
                    "image a score is of: draw what is missing, and score this category again"
                )
                return
        for place, entry in enumerate(entries):
            value, image = _scored(entry, numbers)
            ident = f"{folder.name}/{image // self.samples}"
            if value is None or ident not in known:
                results.problems.append(f"{path}, entry {place}: {entry!r:.60} is no score of a known image")
            else:
                results.put(Key(ident, image % self.samples, "score"), value)

    def stratum(self, prompt: Prompt) -> str:
        return prompt.metadata["category"]

    def figures(self, prompts: Sequence[Prompt]) -> list[Figure]:
        groups = by_metadata(prompts, self.stratum, tuple(SCORED_BY))
        return mean_of_groups(groups, f"mean of the {len(groups)} categories (not in the official code)")


def _numbers(samples: Path, whole: int) -> Sequence[int]:
    """Return the numbers in the names of the images in `samples`, in ascending order. `whole` is how many images a
    complete folder has. If there is no such folder, because only the result files were kept, it counts as complete."""
    if not samples.is_dir():
        return range(whole)
    found = (_NUMBER.search(path.name) for path in samples.iterdir())
    return sorted(int(match[1]) for match in found if match)


def _scored(entry: Any, numbers: Sequence[int] | None) -> tuple[float | None, int]:
    """Return two values from an entry of a result file: the score (None if it is no number), and the number in the name
    of the image. If `question_id` is a rank, `numbers` has the numbers of all images in ascending order. An invalid
    entry gives (None, -1)."""
    question = entry.get("question_id") if isinstance(entry, dict) else None
    if type(question) is not int or question < 0 or "answer" not in entry:
        return None, -1
    if numbers is None:
        return number(entry["answer"]), question
    return (number(entry["answer"]), numbers[question]) if question < len(numbers) else (None, -1)
