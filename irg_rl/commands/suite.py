"""`irg-rl suite`: computes the results of a benchmark. The results come from files of the benchmark's official program,
or from a judge that answers questions about the images."""

import json
from pathlib import Path
from typing import Any

from irg_rl.driver.progress import bar, console
from irg_rl.driver.run_folder import write_json
from irg_rl.errors import InputError
from irg_rl.suites.catalog import SUITES, suite_of
from irg_rl.suites.judging import (
    BUILT_IN,
    Ask,
    Log,
    Protocol,
    judge_tree,
    judged_suite,
    log_name,
    open_log,
    template_digest,
)
from irg_rl.suites.reading import read_folders, to_markdown
from irg_rl.suites.trees import FINAL, open_drawn, write_whole
from irg_rl.text_in import read_text
from rewards.judge import to_png
from rewards.judge_client import JudgeFailure, Question
from rewards.judge_connection import connect
from sft.rows import BrokenRow, decode_file

TIMEOUT_S, RETRIES, BACKOFF_S = 120.0, 2, 0.5


def list_suites() -> None:
    for name, suite in SUITES.items():
        console.print(f"{name:16} {suite.title}: {suite.facts.prompts}", markup=False, soft_wrap=True)


def read_suite(name: str, folders: list[Path], prompts: Path | None, out: Path | None) -> None:
    """Run `irg-rl suite read`: read the result files in `folders`, print the table of results, and write it as Markdown
    and JSON to the folder `out`. If `out` is None, the first of `folders` is used."""
    report = read_folders(suite_of(name), folders, prompts)
    text = to_markdown(report)
    console.print(text, markup=False, soft_wrap=True)
    folder = out or folders[0]
    stem = f"{report.suite.name}-results"
    write_whole(folder / f"{stem}.md", text.encode())
    write_json(folder / f"{stem}.json", report.to_dict())
    console.print(f"written: {folder / stem}.md and .json", markup=False, soft_wrap=True)


def judge_suite(
    name: str,
    folder: Path,
    url: str,
    model: str,
    api_key_env: str,
    template: Path | None,
    prompts: Path | None,
    concurrency: int,
    extra_body: str,
) -> None:
    """Run `irg-rl suite judge`: ask a judge the questions of the benchmark about the images in `folder`, and record the
    answers there. Questions that were answered before are not asked again. The images of each turn are in a subfolder
    of their own.

    `url` and `model` name the judge: the address of its server, and its model. `template` is the file with the official
    question; it is None if the benchmark needs none. `prompts` is the prompts file of the benchmark; None means the
    prompts that are stored in `folder`. `extra_body` is JSON with further fields of every request.
    """
    suite = suite_of(name)
    judged = judged_suite(suite)
    if judged.needs_template and template is None:
        raise InputError(f"{suite.title} needs the official question: --template FILE (docs/suites.md says from where)")
    words = read_text(template) if template is not None else ""
    drawn, fields = open_drawn(suite, folder, prompts), _fields(extra_body)
    client = connect(
        base_url=url, model=model, api_key_env=api_key_env, concurrency=concurrency, timeout=TIMEOUT_S,
        retries=RETRIES, backoff=BACKOFF_S, breaker_after=0, cache_size=0, max_tokens=judged.max_tokens,
        extra_body=fields,
    )  # fmt: skip
    digest = template_digest(words) if words else BUILT_IN
    protocol = Protocol(suite.name, model, digest, judged.max_tokens, extra_body=json.dumps(fields, sort_keys=True))
    done: list[tuple[Path, Log]] = []
    for tree in [t for t in drawn.trees if t.turn != FINAL or len(drawn.trees) == 1]:
        log = open_log(tree.path / log_name(model), protocol)
        asked = sum(len(judged.ask_names(picture.prompt)) for picture in drawn.pictures)
        with bar(f"judging {tree.label}", asked) as progress:
            tally = judge_tree(
                suite, tree.path, drawn.pictures, words, log, lambda ask, png: client.chat(_question(ask, png)),
                png_of, (JudgeFailure, BrokenRow), concurrency, progress.advance, done,
            )  # fmt: skip
        done.append((tree.path, log))
        failure = f"; last failure: {tally.last_failure}" if tally.failed else ""
        console.print(
            f"{tree.label}: {tally.answered} answered, {tally.kept} before, {tally.failed} failed, "
            f"{tally.missing_images} images missing{failure}",
            markup=False, soft_wrap=True,
        )  # fmt: skip


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--extra-body is no JSON ({error}): {text!r:.80}") from error
    if not isinstance(fields, dict):
        raise InputError(f"--extra-body must be a JSON object, got {text!r:.80}")
    return fields


def _question(ask: Ask, png: bytes) -> Question:
    return Question(ask.text, (png,))


def png_of(path: Path) -> bytes:
    """Return an image file as PNG bytes. A PNG file is returned unchanged. Other formats are converted. Raises
    BrokenRow if the file cannot be read, or if its pixels cannot be decoded."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BrokenRow(f"{path.name} cannot be read: {error.strerror or error}") from error
    pixels = decode_file(content, path.name)
    return content if content.startswith(b"\x89PNG") else to_png(pixels)
