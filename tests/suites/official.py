"""Small prompt files in the official formats, written by hand."""

import json
from pathlib import Path

GENEVAL = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {"tag": "two_object", "include": [{"class": "cow", "count": 1}, {"class": "car", "count": 1}],
     "prompt": "a photo of a cow and a car"},
    {"tag": "counting", "include": [{"class": "cow", "count": 3}], "exclude": [{"class": "cow", "count": 4}],
     "prompt": "a photo of three cows"},
]  # fmt: skip
WISE = [
    {"Prompt": f"wise {n}", "Explanation": f"why {n}", "Category": "c", "Subcategory": "s", "prompt_id": n, "Hint": ""}
    for n in (1, 2, 401, 568, 701, 801, 901)
]  # fmt: skip
TIIF = {
    "color+2d": [
        {"type": "color+2d", "short_description": f"short {n}", "long_description": f"long {n}",
         "yn_question_list": ["Is it red?", "Is it left?"], "yn_answer_list": ["yes", "no"]} for n in range(2)
    ],
    "negation": [
        {"type": "negation", "short_description": "no cat", "long_description": "no cat at all",
         "yn_question_list": ["Is there a cat?"], "yn_answer_list": ["no"]}
    ],
}  # fmt: skip
GENAI = {f"{n:05d}": {"prompt": f"genai {n}", "models": {}} for n in range(3)}
GENAI_SKILLS = {"counting": [1], "basic": [0, 2], "advanced": [1]}
ONEIG = [
    ("Anime_Stylization", "000", "a fox, lego", "T, P", "short", "LEGO"),
    ("Portrait", "000", "a woman", "NP", "short", "None"),
    ("General_Object", "000", "a cup", "NP", "short", "None"),
    ("Text_Rendering", "000", 'a sign, "OPEN, now"', "NP", "short", "None"),
    ("Knowledge_Reasoning", "000", "an atom", "NP", "short", "None"),
]
IMGEDIT = {
    "101": {"id": "animal/a.jpg", "prompt": "remove the dog", "edit_type": "remove"},
    "102": {"id": "animal/b.jpg", "prompt": "add a hat", "edit_type": "add"},
}

GENEVAL2 = [
    {"prompt": "two white cows", "atom_count": 3,
     "vqa_list": [["How many cows are in the image?", "two"], ["Are the cows white?", "Yes"], ["Any cows?", "Yes"]],
     "skills": ["count", "attribute", "object"]},
    {"prompt": "a cat left of a dog", "atom_count": 3,
     "vqa_list": [["Any cats?", "Yes"], ["Any dogs?", "Yes"], ["Is the cat left of the dog?", "Yes"]],
     "skills": ["object", "object", "position"]},
]  # fmt: skip
GENEVALPP = [
    {"tag": tag, "include": [{"class": "dog", "count": n}], "prompt": f"{n} dogs"}
    for n, tag in enumerate(("counting", "counting", "color_attr"), 1)
]  # fmt: skip
COMPBENCH = {"color": ["a green bench and a blue bowl"], "numeracy": ["two cups", "three cups"]}
DPG = {"midjourney0": "A long prompt\nof two lines.", "42": "Another."}
R3BENCH = [
    {"idx": 5, "original_prompt": "three cats", "bad_image": "images/c_5.png", "answer": False, "explanation": "two",
     "category": "count", "generated_qa": {}},
    {"idx": 6, "original_prompt": "a red cup", "bad_image": "images/c_6.png", "answer": True, "explanation": "",
     "category": "color", "generated_qa": {}},
]  # fmt: skip


def json_lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_official(suite: str, folder: Path) -> Path:
    """The prompts of a suite as its users have them; the path that --prompts takes."""
    folder.mkdir(parents=True, exist_ok=True)
    if suite == "geneval":
        return json_lines(folder / "evaluation_metadata.jsonl", GENEVAL)
    if suite in ("wise", "wise-verified"):
        (folder / "final_data.json").write_text(json.dumps(WISE))
        return folder / "final_data.json"
    if suite == "tiif":
        for kind, rows in TIIF.items():
            json_lines(folder / "testmini_eval_prompts" / f"{kind}_eval_prompts.jsonl", rows)
        return folder / "testmini_eval_prompts"
    if suite == "genai-bench":
        (folder / "genai_image.json").write_text(json.dumps(GENAI))
        (folder / "genai_skills.json").write_text(json.dumps(GENAI_SKILLS))
        return folder / "genai_image.json"
    if suite == "oneig-en":
        rows = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in ONEIG]
        text = "\n".join(["category,id,prompt_en,type,prompt_length,class", *rows]) + "\n"
        (folder / "OneIG-Bench.csv").write_text(text, encoding="utf-8-sig")
        return folder / "OneIG-Bench.csv"
    if suite == "imgedit":
        (folder / "basic_edit.json").write_text(json.dumps(IMGEDIT))
        return folder / "basic_edit.json"
    if suite == "geneval2":
        return json_lines(folder / "geneval2_data.jsonl", GENEVAL2)
    if suite == "geneval++":
        return json_lines(folder / "Geneval++.jsonl", GENEVALPP)
    if suite == "t2i-compbench++":
        for category, lines in COMPBENCH.items():
            path = folder / "dataset" / f"{category}_val.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines))
        return folder / "dataset"
    if suite == "dpg":
        for stem, text in DPG.items():
            (folder / "prompts").mkdir(exist_ok=True)
            (folder / "prompts" / f"{stem}.txt").write_text(text)
        return folder / "prompts"
    if suite == "r3-bench":
        return json_lines(folder / "r3bench.jsonl", R3BENCH)
    raise ValueError(suite)
