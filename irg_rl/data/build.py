"""Builds a data set, part by part. The folder of a data set contains:

    recipe.yaml, build.json  the recipe, and a digest of what the data depend on
    answers.jsonl            every answer of teacher, judge and editor
    first/, first.jsonl      first images and think texts, if a model drew them
    improved/                improved images, if a model or an editor drew them
    parts/                   a record of every part
    MODE/part-*.parquet      the rows
    left_out.jsonl           what is not in the data, and why
    counts.json, README.md, samples/   the data card

Only answers.jsonl and first.jsonl grow. All other files are replaced as a whole. An interrupted build continues with
the same command, and the result is that of an uninterrupted build.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from irg_rl.config.data import DataRecipe, ServiceRecipe
from irg_rl.data.answers import AnswerLog, Budget, Service
from irg_rl.data.candidates import Candidate, Steps, propose, take_first
from irg_rl.data.card import write_card
from irg_rl.data.drawing import Drawings, Painter
from irg_rl.data.judging import DataJudge
from irg_rl.data.parts import PartRecord, has_all_files, read_part, summed, write_part
from irg_rl.data.sources import LeftOut, NumberedPrompt, chosen_prompts
from irg_rl.data.threads import in_threads
from irg_rl.errors import InputError
from irg_rl.suites.trees import write_whole
from irg_rl.text_in import read_json
from rewards.judge_process import JudgeProcess

BUILD, RECIPE, ANSWERS, LEFT_OUT_FILE = "build.json", "recipe.yaml", "answers.jsonl", "left_out.jsonl"


@dataclass(frozen=True)
class Built:
    """What a call of `build` has done. `open_parts` counts the parts that are not finished. `spent` says which budget
    was reached; it is empty if none was."""

    total: PartRecord
    open_parts: int
    calls: int
    spent: str


def build(recipe: DataRecipe, painter: Callable[[str], Painter], progress: Callable[[int], None]) -> Built:
    """Build a data set, or continue it. Finished parts are kept.

    painter: loads a model that draws. It is called with the model's folder, and only if something must be drawn.
    progress: is called with a number of prompts whenever they are finished or left out.

    Raises InputError if an input file is wrong, or if the folder was begun with other settings.
    """
    out = Path(recipe.out)
    prompts, dropped = chosen_prompts(recipe.prompts)
    drawings = Drawings(out, recipe, painter)
    _require_images(recipe, drawings, prompts)
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out), ExitStack() as servers:
        _begin(out, recipe, prompts)
        log = AnswerLog(out / ANSWERS)
        budget = Budget(recipe.budget, log)

        def service(who: str, settings: ServiceRecipe) -> Service:
            return Service(who, settings, _address(settings, servers), log, budget)

        steps = Steps(recipe, service("teacher", recipe.teacher), DataJudge(service("judge", recipe.keep.judge)))
        if recipe.improve.editor is not None:
            drawings.editor = service("editor", recipe.improve.editor)
        progress(len(dropped))
        records = _build_parts(out, steps, drawings, prompts, budget, progress)
        total = summed(records)
        total.left_out[:0] = dropped
        total.counts["prompts in the file"] = len(prompts) + len(dropped)
        finished = sum(record.is_finished for record in records)
        parts = -(-len(prompts) // recipe.rows.prompts_per_part)
        write_whole(out / LEFT_OUT_FILE, _lines([*total.left_out, *total.waiting]))
        write_card(out, recipe, total, log, parts - finished)
    return Built(total, parts - finished, log.total("calls"), budget.spent)


def _build_parts(
    out: Path,
    steps: Steps,
    drawings: Drawings,
    prompts: Sequence[NumberedPrompt],
    budget: Budget,
    progress: Callable[[int], None],
) -> list[PartRecord]:
    """Build all parts that are not finished, until the budget is spent. Return the records of all parts that exist."""
    records, owners, size = [], dict[str, str](), steps.recipe.rows.prompts_per_part
    for number, start in enumerate(range(0, len(prompts), size)):
        record, mine = read_part(out, number), prompts[start : start + size]
        is_done = record is not None and record.is_finished and has_all_files(out, record)
        if not is_done and not budget.spent:
            record = write_part(out, number, _candidates(steps, drawings, mine, owners), steps)
        if record is not None:
            owners |= record.images
            records.append(record)
        progress(len(mine))
    return records


def _candidates(
    steps: Steps, drawings: Drawings, prompts: Sequence[NumberedPrompt], owners: dict[str, str]
) -> list[Candidate]:
    """Take the prompts of one part from their first images to the point where only rows are left to write."""
    candidates = [Candidate(asked) for asked in prompts]
    drawings.draw_first(candidates)
    for one in candidates:
        take_first(one, drawings.first_images.read, owners)
    if drawings.improved_images is not None:
        for one in candidates:
            if one.first is not None:
                propose(one, drawings.improved_images.path(one.asked))
    in_threads(steps.reflect, candidates, steps.recipe.concurrency)
    drawings.draw_improved([one for one in candidates if steps.asks_for_change(one)])
    in_threads(steps.compare, candidates, steps.recipe.concurrency)
    return candidates


def _require_images(recipe: DataRecipe, drawings: Drawings, prompts: Sequence[NumberedPrompt]) -> None:
    if recipe.images.folder is not None:
        drawings.first_images.require_images(prompts)
    if drawings.improved_images is not None:
        drawings.improved_images.require_images(prompts)


def _begin(out: Path, recipe: DataRecipe, prompts: Sequence[NumberedPrompt]) -> None:
    """Write the recipe into a new folder. Raises InputError if the folder was begun with other settings or prompts. The
    message names the first setting that differs."""
    words = json.dumps([[one.number, one.prompt.id, one.prompt.text] for one in prompts])
    facts = {"recipe": recipe.content(), "prompts_sha256": hashlib.sha256(words.encode()).hexdigest()}
    facts = json.loads(json.dumps(facts))
    path = out / BUILD
    if path.is_file():
        differ = _differing(read_json(path), facts)
        if differ:
            raise InputError(f"{out} was begun with another {differ}: use another folder, out=FOLDER")
    else:
        write_whole(path, json.dumps(facts, indent=1).encode())
    write_whole(out / RECIPE, recipe.to_yaml().encode())


def _differing(there: Any, here: Any, name: str = "") -> str:
    """Return the name of the first setting that differs between two nested dicts, or an empty text."""
    if not (isinstance(there, dict) and isinstance(here, dict)):
        return "" if there == here else f"{name} ({there!r:.60}, now {here!r:.60})"
    inside = (_differing(there.get(key), here[key], f"{name}.{key}".lstrip(".")) for key in here)
    return next((found for found in inside if found), "")


def _address(settings: ServiceRecipe, servers: ExitStack) -> str:
    """Return the address of a service. If the recipe names a Python function instead, start a server for it, which ends
    with `servers`."""
    if settings.mind is None:
        assert settings.base_url is not None, "a service has one of the two"
        return settings.base_url
    return servers.enter_context(JudgeProcess(settings.mind)).base_url


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Lock the folder for the time of a `with` block. The lock of a killed process is released by the system. Raises
    InputError if another process holds it."""
    with (out / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{out}: another process builds it, or its disk has no file locks") from error
        yield


def _lines(left_out: Sequence[LeftOut]) -> bytes:
    return "".join(json.dumps(asdict(left)) + "\n" for left in left_out).encode()
