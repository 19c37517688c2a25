"""The data card: a README.md with what is in a data set, what was left out and why, how often the teacher made
mistakes, what it cost, and samples. The same numbers are in counts.json."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from irg_rl.config.data import DataRecipe
from irg_rl.data.answers import AnswerLog
from irg_rl.data.candidates import PLAN, REFLECTION, THINKING
from irg_rl.data.parts import AGAIN, AT_ONCE, LEFT_OUT, MENDED, PartRecord
from irg_rl.data.rows import COLUMNS, template_digest
from irg_rl.data.texts import Flaw
from irg_rl.redact import redact_text
from irg_rl.suites.trees import write_whole

CARD, COUNTS = "README.md", "counts.json"
MOST_SAMPLES = 8


def write_card(out: Path, recipe: DataRecipe, total: PartRecord, log: AnswerLog, open_parts: int) -> None:
    """Write README.md and counts.json. `total` has the sums over all parts."""
    counts = counts_of(recipe, total, log, open_parts)
    write_whole(out / COUNTS, json.dumps(counts, indent=1).encode())
    sections = [
        _front(recipe, total), _title(out, recipe, counts), _rows(recipe, total), _images(total), _texts(counts),
        _reasons("Left out", counts["left_out"]), _reasons("Waiting for the next build", counts["waiting"]),
        _cost(counts), _origin(recipe), _samples(total),
    ]  # fmt: skip
    write_whole(out / CARD, redact_text("\n\n".join(section for section in sections if section) + "\n").encode())


def counts_of(recipe: DataRecipe, total: PartRecord, log: AnswerLog, open_parts: int) -> dict[str, Any]:
    """Return all counts and rates as JSON data."""
    return {
        "digest": recipe.digest(),
        "rows": {mode: total.rows.get(mode, 0) for mode in recipe.rows.modes},
        "prompts": total.counts.get("prompts", 0),
        "prompts_in_file": total.counts.get("prompts in the file", 0),
        "first_images": total.counts.get("first images", 0),
        "improved_proposed": total.counts.get("improved images proposed", 0),
        "improved_kept": total.counts.get("improved images kept", 0),
        "texts": {about: text_rates(total.counts, about) for about in (PLAN, REFLECTION, THINKING)},
        "left_out": _by_reason(total.left_out),
        "waiting": _by_reason(total.waiting),
        "asked": log.counted,
        "open_parts": open_parts,
    }


def text_rates(counts: dict[str, int], about: str) -> dict[str, Any]:
    """Return counts and rates for one kind of text. `texts` is the number of texts that were asked for, and `answers`
    that of all tries.

    mistake_rate: share of the answers with a mistake. repair_rate: share of the texts that were used after mending, or
    after asking again. rejection_rate: share of the texts that are left out, because every try had a mistake. A rate is
    None if there was nothing to count.
    """
    found = {name: counts.get(f"text/{about}/{name}", 0) for name in (AT_ONCE, MENDED, AGAIN, LEFT_OUT, "answers")}
    flaws = {str(flaw): counts.get(f"flaw/{about}/{flaw}", 0) for flaw in Flaw}
    start = f"repair/{about}/"
    texts = found[AT_ONCE] + found[MENDED] + found[AGAIN] + found[LEFT_OUT]
    return {
        "texts": texts,
        **found,
        "mistakes": {flaw: number for flaw, number in flaws.items() if number},
        "mended_forms": {name.removeprefix(start): n for name, n in counts.items() if name.startswith(start)},
        "mistake_rate": _share(sum(flaws.values()), found["answers"]),
        "repair_rate": _share(found[MENDED] + found[AGAIN], texts),
        "rejection_rate": _share(found[LEFT_OUT], texts),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _by_reason(left_out: list[Any]) -> dict[str, int]:
    return dict(Counter(f"{left.what}: {left.reason}" for left in left_out).most_common())


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _table(titles: list[str], rows: list[list[Any]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _front(recipe: DataRecipe, total: PartRecord) -> str:
    """Return the header that the Hugging Face library `datasets` reads: one configuration per mode."""
    modes = [mode for mode in recipe.rows.modes if total.rows.get(mode)]
    if not modes:
        return ""
    configs = [f"- config_name: {mode}\n  data_files: {mode}/*.parquet" for mode in modes]
    return "\n".join(["---", "configs:", *configs, "---"])


def _title(out: Path, recipe: DataRecipe, counts: dict[str, Any]) -> str:
    lines = [f"# {out.resolve().name}", "", recipe.description or "SFT data in the IRG schema."]
    lines += ["", f"Built by `irg-rl data build`, recipe digest {counts['digest']} (recipe.yaml)."]
    if counts["open_parts"]:
        lines.append(f"**Not finished:** {counts['open_parts']} parts are open. The same command continues.")
    return "\n".join(lines)


def _rows(recipe: DataRecipe, total: PartRecord) -> str:
    rows = [[mode, total.rows.get(mode, 0)] for mode in recipe.rows.modes]
    return "## Rows\n\n" + _table(["mode", "rows"], rows)


def _images(total: PartRecord) -> str:
    names = (
        "prompts in the file", "prompts", "first images", "improved images proposed", "improved images kept",
    )  # fmt: skip
    table = _table(["what", "number"], [[name, total.counts.get(name, 0)] for name in names])
    return f"## Prompts and images\n\n{table}"


def _texts(counts: dict[str, Any]) -> str:
    titles = ["text", "asked for", AT_ONCE, MENDED, AGAIN, LEFT_OUT, "mistake rate", "repair rate", "rejection rate"]
    rates = ("mistake_rate", "repair_rate", "rejection_rate")
    rows = [
        [about, found["texts"], *(found[name] for name in (AT_ONCE, MENDED, AGAIN, LEFT_OUT)),
         *(_percent(found[rate]) for rate in rates)]
        for about, found in counts["texts"].items()
    ]  # fmt: skip
    lines = ["## The teacher's texts", "", _table(titles, rows), ""]
    lines.append(
        "Mistakes are counted per answer, repairs and rejections per text. A text is mended if only its form is wrong. "
        "Otherwise the teacher is asked again."
    )
    mistakes = [
        [about, flaw, number] for about, found in counts["texts"].items() for flaw, number in found["mistakes"].items()
    ]
    if mistakes:
        lines += ["", _table(["text", "mistake", "answers"], mistakes)]
    return "\n".join(lines)


def _reasons(title: str, reasons: dict[str, int]) -> str:
    if not reasons:
        return ""
    table = _table(["what and why", "number"], [[reason, number] for reason, number in reasons.items()])
    return f"## {title}\n\n{table}\n\nleft_out.jsonl names every one."


def _cost(counts: dict[str, Any]) -> str:
    rows = [[who, *found.values()] for who, found in counts["asked"].items()]
    titles = ["who", "calls", "failed", "tokens", "calls without a count of tokens"]
    return "## Cost\n\n" + _table(titles, rows)


def _origin(recipe: DataRecipe) -> str:
    improve = recipe.improve
    facts = {
        "prompts": recipe.prompts.file,
        "excluded prompts": ", ".join(recipe.prompts.exclude) or "none",
        "first images": recipe.images.model or recipe.images.folder,
        "improved images": {
            "none": "none", "folder": improve.folder, "model": recipe.redrawing_model,
            "editor": improve.editor.model if improve.editor else "",
        }[improve.by],
        "teacher": recipe.teacher.model,
        "judge": recipe.keep.judge.model,
        "questions": f"digest {template_digest(recipe)}",
        "kept if": ", ".join(
            f"{name} {value}" for name, value in recipe.keep.model_dump(exclude={"judge"}, exclude_none=True).items()
        ) + ", improved image preferred in both orders",
    }  # fmt: skip
    table = _table(["what", "from"], [[name, fact] for name, fact in facts.items()])
    columns = _table(["column", "content"], [[name, meaning] for name, meaning in COLUMNS.items()])
    return f"## Where it comes from\n\n{table}\n\nColumns beside `conversation`:\n\n{columns}"


def _samples(total: PartRecord) -> str:
    if not total.samples:
        return ""
    shown = ["## Samples", "", "First image, and the improved image if it was kept."]
    for sample in total.samples[:MOST_SAMPLES]:
        texts = "\n\n".join(f"*{name}*: {_plain(sample[name])}" for name in ("plan", "reflection"))
        shown += ["", f"**{_plain(sample['prompt'])}**", "", f"![]({sample['picture']})", "", texts]
    return "\n".join(shown)


def _plain(text: str) -> str:
    """Return a text in one line, without characters that Markdown would read as marks."""
    line = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_#[]<>|" else c for c in line)
