"""The result files that the official evaluator of every suite writes for the prompts of official.py, all images scored.

Texts have characters of several bytes, so that a file can be cut off inside of one.
"""

import io
import json
from collections.abc import Iterable

import torch

from tests.suites.official import COMPBENCH, GENEVAL, R3BENCH, TIIF, WISE


def lines(rows: Iterable[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def whole(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def saved(content: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def oneig() -> dict[str, bytes]:
    """As pandas writes them, with the name of the model over the column."""
    rows = {
        "alignment": ["anime_000,0.8375", "human_000,0.25", "object_000,1.0"],
        "text": ['000,"[10.0, 0.25, np.float64(0.515)]"'],
        "reasoning": ["000,0.2125"],
        "style": ["000,0.4375"],
        "diversity": [f"{kind}_000,0.125" for kind in ("anime", "human", "object", "reasoning", "text")],
    }
    files = {f"results/{metric}_prompt_score_EN_1.csv": [",modèle", *cells] for metric, cells in rows.items()}
    return {path: "".join(f"{row}\n" for row in table).encode() for path, table in files.items()}


def of_suite(name: str) -> dict[str, bytes]:
    """Path in the tree -> content of each result file of a suite."""
    if name == "geneval":
        images = ((n, k, row["prompt"]) for n, row in enumerate(GENEVAL) for k in range(4))
        return {"results.jsonl": lines(
            {"filename": f"/données/{n:05d}/samples/{k:04d}.png", "prompt": prompt, "correct": k > n, "reason": "犬"}
            for n, k, prompt in images
        )}  # fmt: skip
    if name == "wise":
        grades = {"consistency": 2, "realism": 1, "aesthetic_quality": 0}
        rows = ({"prompt_id": row["prompt_id"], "Subcategory": "fête", **grades} for row in WISE)
        return {"Results/cultural_scores_results.jsonl": lines(rows)}
    if name == "wise-verified":
        rows = ({"prompt_id": row["prompt_id"], "Subcategory": "fête", "score": row["prompt_id"] % 2} for row in WISE)
        return {"Results-qwen35/cultural_scores_results.jsonl": lines(rows)}
    if name == "tiif":
        return {
            f"eval_results/mymodel/{kind}/{wording}/{index}.json": whole(
                {"questions": ["Un café ?"], "gt_answers": row["yn_answer_list"], "model_pred": row["yn_answer_list"]}
            )
            for kind, rows in TIIF.items() for index, row in enumerate(rows) for wording in ("short", "long")
        }  # fmt: skip
    if name == "genai-bench":
        scores = torch.tensor([[0.25], [0.5], [0.75]])
        return {"genai_bench_results/mymodel/clip-flant5-xxl_3_prompts.pt": saved(scores)}
    if name == "oneig-en":
        return oneig()
    if name == "imgedit":
        return {"result.json": whole({key: "Très bien.\nA: 4\nB: 5\nC: 3" for key in ("101", "102")})}
    if name == "geneval2":
        return {"score_lists.json": whole([[0.25, 1.0, 1.0], [0.125, 0.5, 1.0]])}
    if name == "geneval++":
        entries = [{"image_path": f"image/{n}.jpg", "score": n % 2, "explanation": "犬が三匹"} for n in (1, 2, 3)]
        return {"Output.json": whole({"overall_results": entries, "tag_accuracy": {}})}
    if name == "t2i-compbench++":
        folders = {"color": "annotation_blip", "numeracy": "annotation_num"}
        return {
            f"{category}/{folders[category]}/vqa_result.json": whole(
                [{"question_id": n, "answer": f"{n / 128:.4f}"} for n in range(10 * len(COMPBENCH[category]))]
            )
            for category in COMPBENCH
        }
    if name == "dpg":
        images = ["/données/42.png, 1.0, 0.5, 0.5, 0.125, 0.53125", "/données/midjourney0.png, 1.0, 1.0, 1.0, 1.0, 1.0"]
        rows = [*images, "Model: m", "L1 category scores:", "\tentity: 87.5", "DPG-Bench score: 76.5625"]
        return {"dpg-bench_20261129-100000_results.txt": "".join(f"{row}\n" for row in rows).encode()}
    if name == "r3-bench":
        said = {"model_reflection": {"answer": False, "explanation": "déjà vu"}}
        reflections = [{"idx": row["idx"], **said, "reflection_eval": {"is_correct": True}} for row in R3BENCH]
        edits = [{"idx": 5, "image_eval": {"s_rect": 0.8125, "why": "très net"}}]
        return {"output/reflection/m/reflection_eval.jsonl": lines(reflections),
                "output/edit/m/edit_eval.jsonl": lines(edits)}  # fmt: skip
    raise ValueError(name)
