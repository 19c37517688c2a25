"""TIIF-Bench (A113N-W3I/TIIF-Bench): every image description has a short and a long wording, and each wording is a
prompt. A judge answers yes/no questions about the images.

Layout: `output/TYPE/MODEL/short_description/0.png` and `output/TYPE/MODEL/long_description/0.png`. The images are
numbered within each type of prompts. Results: `eval_results/MODEL/TYPE/short/0.json`, one file per image.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from irg_rl.errors import InputError
from irg_rl.suites.base import Facts, Suite
from irg_rl.suites.files import Line, distinct, file_name, json_lines, prompts_folder, whole_json
from irg_rl.suites.groups import by_metadata
from irg_rl.suites.judging import Ask, BadAnswer, Judged, said
from irg_rl.suites.scores import Figure, ItemScore, Key, Leaf, Results
from irg_rl.trajectory import Prompt

_REASONS = ("numeracy", "comparison", "differentiation", "negation")
GROUPS: dict[str, tuple[str, ...]] = {
    "basic: attribute": ("shape+color", "color+texture", "texture+color", "shape+texture"),
    "basic: relation": ("2d_spatial_relation", "3d_spatial_relation", "action+2d", "action+3d"),
    "basic: reasoning": _REASONS,
    "advanced: attribute + relation": (
        "action+color", "action+texture", "color+2d", "color+3d", "shape+2d", "shape+3d", "texture+2d", "texture+3d",
    ),
    "advanced: attribute + reasoning": tuple(f"{r}+{kind}" for r in _REASONS for kind in ("color", "texture")),
    "advanced: relation + reasoning": tuple(f"{r}+{kind}" for r in _REASONS for kind in ("2d", "3d")),
    "advanced: style": ("style",),
    "advanced: text": ("text",),
    "designer: real world": ("real_world",),
}  # fmt: skip
WORDINGS = ("short", "long")
QUESTIONS = "##YNQuestions##"
_ANSWER = re.compile(r"(yes|no)\b", re.IGNORECASE)


class Tiif(Suite, Judged):
    name: ClassVar = "tiif"
    title: ClassVar = "TIIF-Bench"
    looked_for: ClassVar = "eval_results/MODEL/TYPE/short|long/N.json of eval_with_vlm.py"
    needs_template: ClassVar = True
    max_tokens: ClassVar = 2000
    facts: ClassVar = Facts(
        judge="gpt-4o or Qwen2.5-VL-72B at temperature 1.0",
        template="one of three wordings at random, all questions of an image in one request; judged here: the one "
        "wording of the template file, at temperature 0",
        weights="share of right answers per type, mean of the types of a group, mean of the groups",
        prompts="testmini or the full set; short and long wordings are two measurements",
        published="IRG 76.00 / 73.77, BAGEL 70.97 / 71.79 (short / long, testmini, Qwen2.5-VL-72B)",
    )

    def read_prompts(self, path: Path) -> list[Prompt]:
        found = []
        for file in prompts_folder(path, "*.jsonl"):
            lines = json_lines(file)
            kind = lines[0].text("type")
            for index, line in enumerate(lines):
                if line.text("type") != kind:
                    raise InputError(f"{line.where}: type {line.content['type']!r} in a file of {kind!r}")
                found += [(self._prompt(line, kind, index, wording), line.where) for wording in WORDINGS]
        return distinct(found)

    def _prompt(self, line: Line, kind: str, index: int, wording: str) -> Prompt:
        about: dict[str, Any] = {"type": file_name(kind, line.where), "index": index, "wording": wording}
        if "yn_question_list" in line.content:
            about |= {"questions": line.listing("yn_question_list"), "answers": line.listing("yn_answer_list")}
            if len(about["questions"]) != len(about["answers"]):
                raise InputError(f"{line.where}: yn_question_list and yn_answer_list differ in length")
        return Prompt(f"{kind}/{wording}/{index}", line.text(f"{wording}_description"), about)

    def place(self, prompt: Prompt, sample: int, model: str) -> str:
        about = prompt.metadata
        return f"output/{about['type']}/{model}/{about['wording']}_description/{about['index']}.png"

    def read_results(self, tree: Path, prompts: Sequence[Prompt]) -> Results:
        results, known = Results(), {p.id for p in prompts}
        models = sorted({path.parents[2].name for path in tree.glob("eval_results/*/*/*/*.json")})
        if len(models) > 1:
            results.problems.append(f"{tree}/eval_results has {len(models)} models, {models[0]} was read")
        for path in sorted(tree.glob(f"eval_results/{models[0]}/*/*/*.json")) if models else ():
            ident = f"{path.parents[1].name}/{path.parent.name}/{path.stem}"
            content = whole_json(path, results.problems, dict)
            if content is None:
                continue
            wanted, given = (_words(content, name) for name in ("gt_answers", "model_pred"))
            if ident not in known:
                results.problems.append(f"{path}: {ident} is not among the prompts")
            elif not wanted or len(wanted) != len(given):
                results.problems.append(f"{path}: gt_answers and model_pred must be lists of one length")
            else:
                right = sum(a == b for a, b in zip(wanted, given, strict=True))
                results.put(Key(ident, 0, "score"), right, len(wanted))
        if models:
            results.source = f"official (eval_results/{models[0]})"
        return results

    def weight(self, prompt: Prompt, metric: str) -> float | None:
        return float(len(prompt.metadata["questions"])) if "questions" in prompt.metadata else None

    def stratum(self, prompt: Prompt) -> str:
        return f"{prompt.metadata['wording']}/{prompt.metadata['type']}"

    def figures(self, prompts: Sequence[Prompt]) -> list[Figure]:
        types = by_metadata(prompts, self.stratum)
        figures, headlines = [], []
        for wording in WORDINGS:
            groups = {name: [k for k in kinds if f"{wording}/{k}" in types] for name, kinds in GROUPS.items()}
            groups = {name: kinds for name, kinds in groups.items() if kinds}
            leaves = {
                name: tuple(Leaf("score", types[f"{wording}/{k}"], 1 / len(kinds)) for k in kinds)
                for name, kinds in groups.items()
            }
            figures += [Figure(f"{wording}, {name}", parts) for name, parts in leaves.items()]
            grouped = {k for kinds in GROUPS.values() for k in kinds}
            odd = {name: ids for name, ids in types.items() if name.startswith(f"{wording}/")}
            figures += [
                Figure(f"{wording}, {name.split('/')[1]} (in no group)", (Leaf("score", ids),))
                for name, ids in odd.items()
                if name.split("/")[1] not in grouped
            ]
            if leaves:
                every = tuple(leaf for parts in leaves.values() for leaf in parts)
                headlines.append(Figure(f"overall, {wording} (mean of {len(leaves)} groups)", every, is_headline=True))
        return figures + headlines

    def ask_names(self, prompt: Prompt) -> Sequence[str]:
        return ("questions",)

    def asks(self, prompt: Prompt, template: str) -> list[Ask]:
        if QUESTIONS not in template:
            raise InputError(f"the template lacks {QUESTIONS}: the questions would not be asked")
        questions = "\n".join(question.strip() for question in self._known(prompt)["questions"])
        return [Ask("questions", template.replace(QUESTIONS, questions), parts=len(prompt.metadata["questions"]))]

    def answer(self, ask: Ask, completion: object) -> list[str]:
        lines = [line.strip() for line in said(completion).splitlines()]
        answers = [found[1].lower() for line in lines if (found := _ANSWER.match(line))]
        if len(answers) != ask.parts:
            raise BadAnswer(f"{len(answers)} answers to {ask.parts} questions in {said(completion)[:120]!r}")
        return answers

    def judged(self, prompt: Prompt, answers: dict[str, Any]) -> dict[str, ItemScore]:
        wanted, given = [str(a).strip().lower() for a in self._known(prompt)["answers"]], answers["questions"]
        return {"score": ItemScore(sum(a == b for a, b in zip(wanted, given, strict=True)), len(wanted))}

    def _known(self, prompt: Prompt) -> dict[str, Any]:
        if "questions" not in prompt.metadata:
            raise InputError(
                f"prompt {prompt.id} has no yn_question_list: give the evaluation prompts, "
                "--prompts data/testmini_eval_prompts"
            )
        return prompt.metadata


def _words(content: dict[str, Any], name: str) -> list[str]:
    words = content.get(name)
    return [str(word).strip().lower() for word in words] if isinstance(words, list) else []
