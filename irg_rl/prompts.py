"""Prompt files: JSON lines with a `prompt` and, if known, its `id` and `metadata`."""

import json
from collections.abc import Iterable
from pathlib import Path

from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt


def write_prompts(path: Path | str, prompts: Iterable[Prompt]) -> None:
    lines = [json.dumps({"id": p.id, "prompt": p.text, "metadata": p.metadata}) + "\n" for p in prompts]
    Path(path).write_text("".join(lines), encoding="utf-8")


def read_prompts(path: Path | str) -> list[Prompt]:
    """Prompts of a jsonl with `prompt` and, if known, `id` (default: the line number) and `metadata`. InputError names
    file and line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}") from error
    prompts: dict[str, Prompt] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not a JSON object ({error})") from error
        prompt = _prompt(entry, f"{path}, line {number}", str(number))
        if prompt.id in prompts:
            raise InputError(f"{path}, line {number}: the id {prompt.id!r} was used before; ids must differ")
        prompts[prompt.id] = prompt
    if not prompts:
        raise InputError(f"{path} has no prompts: write one JSON object with a `prompt` per line")
    return list(prompts.values())


def _prompt(entry: object, where: str, default_id: str) -> Prompt:
    if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str) or not entry["prompt"].strip():
        raise InputError(f"{where}: needs a `prompt` that is a non-empty string")
    if not isinstance(metadata := entry.get("metadata", {}), dict):
        raise InputError(f"{where}: `metadata` is {metadata!r}, it must be an object")
    return Prompt(str(entry.get("id", default_id)), entry["prompt"], metadata)
