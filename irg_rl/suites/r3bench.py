"""R3-Bench (xiaomoguhz/R3-Bench): does a model see the errors of a given image (score S_ref), and does it correct them
(score S_rect)?

The model is given an image in place of its own first image. The model writes a reflection on this image and draws a
refined image. Then the reflection and the refined image are judged.
Layout: `output/reflection/MODEL/reflection_res.jsonl` and `output/edit/MODEL/NAME_edited.png`. Results: JSON-lines
files that steps 3 and 4 of the benchmark write, anywhere under `output/`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from irg_rl.errors import InputError
from irg_rl.suites.base import Facts, Picture, Suite
from irg_rl.suites.files import distinct, file_name, json_lines, number, whole_lines
from irg_rl.suites.groups import by_metadata, everyone
from irg_rl.suites.scores import Figure, Key, Results, mean_of
from irg_rl.suites.trees import ENDINGS
from irg_rl.trajectory import Prompt

REFLECTIONS = "reflection_res.jsonl"
VERDICT, REF, RECT = "verdict", "ref", "rect"


class R3Bench(Suite):
    name: ClassVar = "r3-bench"
    title: ClassVar = "R3-Bench"
    edits: ClassVar = True
    looked_for: ClassVar = "JSON lines of step3_eval_reflection and step4_eval_edit under output/"
    facts: ClassVar = Facts(
        judge="Qwen3-Next-80B-A3B (reflections), Qwen3-VL-235B-A22B (edits)",
        template="the repository's",
        weights="means over samples: verdict, S_ref (verdict right and, for bad images, the explanation too), S_rect",
        prompts="r3bench.jsonl, 670 images (448 bad), 8 categories",
        published="there the reflection prompt asks for a JSON answer; here the model reflects as it was trained to",
    )

    def read_prompts(self, path: Path) -> list[Prompt]:
        found = []
        for line in json_lines(path):
            image = PurePosixPath(line.text("bad_image"))
            if image.is_absolute() or ".." in image.parts or image.suffix not in ENDINGS:
                raise InputError(f"{line.where}: `bad_image` {str(image)!r} is no path of an image inside the sources")
            if not isinstance(line.content.get("answer"), bool):
                raise InputError(f"{line.where}: needs `answer`, true or false")
            file_name(image.stem, line.where)
            about = {"source": str(image), "category": line.text("category"), "row": dict(line.content)}
            found.append((Prompt(str(line.whole_number("idx")), line.text("original_prompt"), about), line.where))
        return distinct(found)

    def place(self, prompt: Prompt, sample: int, model: str) -> str:
        image = PurePosixPath(prompt.metadata["source"])
        return f"output/edit/{model}/{image.stem}_edited{image.suffix}"

    def source(self, prompt: Prompt) -> str:
        return prompt.metadata["source"]

    def text_files(self, pictures: Sequence[Picture], said: Mapping[str, Any], turn: int) -> dict[str, str]:
        """Return a dict, path -> content, with one entry: the text file that the official evaluator needs. The file has
        one row per image, with the reflection that the model wrote before the image of turn `turn`. `said` maps the
        path of each image to the texts of its trajectories, as stored in texts.jsonl."""
        rows = []
        for picture in pictures:
            if picture.path in said:
                row, sample = picture.prompt.metadata["row"], said[picture.path]["samples"][0]
                texts = sample["texts"]
                last = min(turn + 1, len(texts) - 1)  # text 0 is the empty think text before the bad image
                content = sample["stopped"] and last == len(texts) - 1
                text = texts[last]["text"]
                reflection = {"answer": content, "explanation": text, "edit_prompt": "" if content else text}
                rows.append(row | {"index": row["idx"], "model_reflection": reflection})
        model = PurePosixPath(pictures[0].path).parent.name
        return {f"output/reflection/{model}/{REFLECTIONS}": "".join(json.dumps(row) + "\n" for row in rows)}

    def metrics(self, prompt: Prompt) -> Sequence[str]:
        return (VERDICT, REF) if prompt.metadata["row"]["answer"] else (VERDICT, REF, RECT)

    def read_results(self, tree: Path, prompts: Sequence[Prompt]) -> Results:
        results, known = Results(), {p.id: p for p in prompts}
        files = [path for path in sorted(tree.glob("output/**/*.jsonl")) if path.name != REFLECTIONS]
        for path in files:
            for place, entry in whole_lines(path, results.problems):
                ident = str(entry.get("idx", entry.get("index")))
                if ident not in known:
                    results.problems.append(f"{path}, line {place}: idx {ident} is not among the prompts")
                    continue
                answer = known[ident].metadata["row"]["answer"]
                scores, wanted = dict(_judged(entry, answer)), _asked(entry, answer)
                for metric, value in scores.items():
                    results.put(Key(ident, 0, metric), value)
                if lacking := [metric for metric in wanted if metric not in scores]:
                    results.problems.append(f"{path}, line {place}: no {lacking[0]} of idx {ident}: {entry!r:.80}")
        if files:
            results.source = f"official ({', '.join(path.name for path in files)})"
        return results

    def figures(self, prompts: Sequence[Prompt]) -> list[Figure]:
        bad = [p for p in prompts if not p.metadata["row"]["answer"]]
        figures = []
        for metric, title, members in ((REF, "S_ref", prompts), (RECT, "S_rect", bad)):
            groups = by_metadata(members, lambda p: p.metadata["category"])
            figures += [mean_of(f"{title}, {name}", metric, ids) for name, ids in groups.items()]
        every = everyone(prompts)
        headlines = [mean_of("verdict", VERDICT, every, True), mean_of("S_ref", REF, every, True)]
        return [*figures, *headlines, mean_of("S_rect", RECT, everyone(bad), True)]


def _asked(entry: Mapping[str, Any], answer: bool) -> tuple[str, ...]:
    """Return the metrics that a row of a result file should have. A row of step 4 has `image_eval`, and one of step 3
    has not."""
    return (VERDICT, REF) if "image_eval" not in entry else () if answer else (RECT,)


def _judged(entry: Mapping[str, Any], answer: bool) -> Iterator[tuple[str, float]]:
    """Yield pairs (metric, score) from a row of a result file of step 3 or step 4. `answer` is True if the given image
    (the one on which the model reflects) is good, and False if it has errors."""
    reflection = entry.get("model_reflection")
    said = reflection.get("answer") if isinstance(reflection, dict) else None
    if isinstance(said, bool) and "image_eval" not in entry:
        yield VERDICT, said == answer
        explained = next((entry[n] for n in ("reflection_eval", "reflection_eval_gpt") if n in entry), None)
        if said != answer or answer:
            yield REF, said == answer
        elif isinstance(explained, dict) and isinstance(explained.get("is_correct"), bool):
            yield REF, explained["is_correct"]
    mended = entry.get("image_eval")
    value = number(mended.get("s_rect")) if isinstance(mended, dict) else None
    if value is not None and not answer:
        yield RECT, value
