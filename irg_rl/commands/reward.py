"""`irg-rl reward`: scores images with the scorers of a recipe, compares the scorers, finds weights for them, and serves
one of them over HTTP."""

import csv
import json
import math
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from irg_rl.config import ScorerRecipe
from irg_rl.driver.prepare import as_world
from irg_rl.driver.progress import bar, console
from irg_rl.driver.run_folder import environment, write_json
from irg_rl.driver.scorer_source import ScorerSource
from irg_rl.driver.scorers import scorer_specs
from irg_rl.errors import InputError
from irg_rl.imports import child_path
from irg_rl.reward_bench.asking import ScorerAnswers, ask_everything
from irg_rl.reward_bench.calibration import calibrate, with_weights
from irg_rl.reward_bench.comparison import compare
from irg_rl.reward_bench.images import BenchImage, read_images
from irg_rl.reward_bench.material import CompareSettings, gather, spread_out
from irg_rl.reward_bench.page import write_bench_page
from irg_rl.reward_bench.preferences import PreferenceSet, read_preferences, write_preferences
from irg_rl.reward_bench.recommend import recommend
from irg_rl.reward_bench.scoring import (
    ScoreAnswer,
    ScoreLog,
    ask_scorer,
    images_per_second,
    items_of,
    reasons,
    table_rows,
    unanswered,
)
from irg_rl.suites.trees import write_whole
from irg_rl.task import task_of
from irg_rl.text_in import read_json
from rewards.build import ScorerSpec, build_scorer
from rewards.score_server import ScoreServer, ServedAt, to_line

COMPARISON = "comparison.json"
SCORES = "scores.jsonl"
ENDINGS = (".parquet", ".csv", ".jsonl")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a text that begins with one of these for a formula."""
PAIR_SEED = 1_000_003
"""Added to the recipe's seed for the pairs that a world makes, so that they differ from those that trained its small
scorers."""


def score_images(target: str, images: Path, overrides: Sequence[str], out: Path) -> None:
    """Run `irg-rl reward score`: score all images with every scorer of images, and write one table. What the scorers
    have answered is kept beside the table, so a second call asks only for what is missing or has failed."""
    if out.suffix not in ENDINGS:
        raise InputError(f"--out {out}: the name of the table ends in {', '.join(ENDINGS)}")
    source = ScorerSource.of(target, overrides)
    cases, log = source.cases(), ScoreLog(out.with_name(f"{out.name}.log"))
    items = items_of(read_images(images))
    answers: dict[str, list[ScoreAnswer]] = {}
    for case in cases:
        missing = len(unanswered(case, items, log))
        with bar(case.name, len(items), len(items) - missing) as progress:
            answers[case.name] = ask_scorer(case, items, log, source.open_hub, progress.advance)
        say_answers(case.name, answers[case.name])
    write_table(out, table_rows(items, answers))
    console.print(f"written: {out} ({len(items)} images, {len(cases)} scorers)")


def say_answers(name: str, answers: Sequence[ScoreAnswer]) -> None:
    scored = [answer.score for answer in answers if answer.score is not None]
    mean = f", mean {sum(scored) / len(scored):.4g}" if scored else ""
    speed = images_per_second(answers)
    rate = f", {speed:.3g} images per second" if math.isfinite(speed) else ""
    console.print(f"{name}: {len(scored)} scored, {sum(answer.failed for answer in answers)} failed{mean}{rate}")
    for reason, count in reasons(answers).items():
        console.print(f"  {count} x {reason}")


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as parquet, CSV or JSON lines, by the ending of the name. The file appears complete or not at all."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        columns = {name: [row[name] for row in rows] for name in rows[0]}
        types = {name: arrow.float64() if name + ".error" in columns else None for name in columns}
        types |= {name: arrow.string() for name in columns if name.endswith(".error")}
        parquet.write_table(
            arrow.table({name: arrow.array(column, types[name]) for name, column in columns.items()}), aside
        )
    elif path.suffix == ".csv":
        with aside.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows({name: _as_text(cell) for name, cell in row.items()} for row in rows)
    else:
        aside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(aside, path)


def _as_text(cell: Any) -> Any:
    """Return a cell of a CSV table. Spreadsheets run a text that begins like a formula, and prompts and answers come
    from outside, so such a text gets an apostrophe before it."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def compare_scorers(
    target: str, images: Path, overrides: Sequence[str], out: Path, pairs: Path | None, most: int,
    settings: CompareSettings,
) -> None:  # fmt: skip
    """Run `irg-rl reward compare`: ask all scorers of images, and write a page, its figures and JSON into `out`. At
    most `most` images and pairs are used, evenly spread."""
    source = ScorerSource.of(target, overrides)
    cases, log = source.cases(), ScoreLog(out / SCORES)
    every = read_images(images)
    preferences = PreferenceSet() if pairs is None else read_preferences(pairs)
    chosen = [preferences.pairs[i] for i in spread_out(len(preferences.pairs), most)]
    material, verdicts = gather(most_groups(every, most), chosen, source.verdicts(), settings)
    answers: list[ScorerAnswers] = []
    for case in cases:
        todo, total = len(unanswered(case, material.questions, log)), len(material.questions)
        with bar(case.name, total, total - todo) as progress:
            answers.append(ask_everything(case, material, settings, log, source.open_hub, progress.advance))
        say_answers(case.name, answers[-1].every)
    found = compare(answers, material, verdicts, settings.seed)
    advice = recommend(found)
    given = "none" if pairs is None else (
        f"{pairs} ({preferences.layout}, {len(preferences.pairs)} pairs, {preferences.skipped} skipped)"
    )
    facts = {
        "recipe": f"{source.recipe.name} (digest {source.digest})", "images": f"{images} ({len(every)})",
        "preferences": given, "settings": ", ".join(f"{name} {value}" for name, value in asdict(settings).items()),
        "commit": str(environment(source.recipe)["commit"]),
    }  # fmt: skip
    page = write_bench_page(out, found, advice, facts)
    scorers = [_as_given(scorer) for scorer in source.recipe.rewards.scorers]
    write_json(out / COMPARISON, {
        **found.to_dict(), "advice": advice, "facts": facts, "combine": source.recipe.rewards.combine,
        "recipe_scorers": scorers,
    })  # fmt: skip
    for line in advice:
        console.print(f"* {line}")
    console.print(f"written: {page} and {out / COMPARISON}")


def most_groups(images: Sequence[BenchImage], most: int) -> list[BenchImage]:
    """Return at most `most` images, but whole groups: siblings are only worth something together. At least one group is
    returned."""
    if len(images) <= most:
        return list(images)
    groups: dict[str, list[BenchImage]] = {}
    for image in images:
        groups.setdefault(image.group, []).append(image)
    names = list(groups)
    mean_size = len(images) / len(names)
    kept = [names[i] for i in spread_out(len(names), max(int(most / mean_size), 1))]
    return [image for name in kept for image in groups[name]]


def _as_given(scorer: ScorerRecipe) -> dict[str, Any]:
    """Return a scorer as a recipe would write it: without the settings that have their default values."""
    return {"name": scorer.name, "kind": scorer.kind} | scorer.model_dump(mode="json", exclude_defaults=True)


def calibrate_weights(path: Path) -> None:
    """Run `irg-rl reward calibrate`: print weights and the tie of DPO as overrides. `path` is the folder of
    `irg-rl reward compare`, or its JSON."""
    file = path / COMPARISON if path.is_dir() else path
    comparison = read_json(file)
    if not isinstance(comparison, dict) or comparison.get("kind") != "reward comparison":
        raise InputError(f"{file}: not a comparison of scorers; `irg-rl reward compare` writes one")
    try:
        found = calibrate(comparison, comparison["combine"])
        scorers = with_weights(comparison["recipe_scorers"], found.weights)
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: written by another version of irg-rl ({error!r}); compare again") from error
    for name, weight in found.weights.items():
        console.print(f"{name}: weight {weight:g} (known of its correlation: {found.voices[name]:.2f})")
    for note in found.notes:
        console.print(f"note: {note}")
    console.print("overrides:")
    flow = yaml.safe_dump(scorers, default_flow_style=True, width=math.inf, sort_keys=False).strip()
    console.print(shlex.quote(f"rewards.scorers={flow}"))
    if comparison["combine"] == "sum":
        console.print(f"rl.options.tie={found.tie:g}  # with rl.algorithm=dpo only")


def make_pairs(target: str, overrides: Sequence[str], out: Path, rankings: int) -> None:
    """Run `irg-rl reward pairs`: let the recipe's world make a set of preferences, with a simulated person."""
    recipe = ScorerSource.of(target, overrides).recipe
    world = as_world(task_of(recipe))
    count = write_preferences(out, world.scorer_examples(recipe.seed + PAIR_SEED).rankings(rankings))
    write_whole(out / "about.json", json.dumps({"recipe": recipe.name, "task": recipe.task, "pairs": count}).encode())
    console.print(f"written: {count} pairs of {rankings} prompts in {out}")


def serve_scorer(target: str, name: str, overrides: Sequence[str], at: ServedAt, python: str | None) -> None:
    """Run `irg-rl reward serve`: serve one scorer of a recipe until Ctrl-C. `python` is another Python interpreter in
    which the scorer runs; None means that it runs in this process."""
    source = ScorerSource.of(target, overrides)
    known = {scorer.name: scorer for scorer in source.recipe.rewards.scorers}
    if name not in known:
        raise InputError(f"the recipe has no scorer {name!r}; it has: {', '.join(known) or 'none'}")
    alone = source.recipe.rewards.model_copy(update={"scorers": [known[name]]})
    with scorer_specs(source.recipe.model_copy(update={"rewards": alone}), source.trained) as [spec]:
        try:
            if python is None:
                _serve_here(spec, at)
            else:
                _serve_with(python, spec, at)
        except KeyboardInterrupt:
            console.print(f"{name}: stopped")


def _serve_here(spec: dict[str, Any], at: ServedAt) -> None:
    scorer = build_scorer(ScorerSpec.from_dict(spec))
    scorer.check()
    with ScoreServer(scorer, at) as server:
        console.print(json.dumps({"base_url": server.base_url}))
        server.thread.join()


def _serve_with(python: str, spec: dict[str, Any], at: ServedAt) -> None:
    """Serve with another interpreter. It prints its address itself. It ends when this process ends, because then its
    stdin closes."""
    # safe path: do not import a rewards.py from the working folder
    variables = os.environ | {"PYTHONPATH": child_path(), "PYTHONSAFEPATH": "1"}
    try:
        process = subprocess.Popen(
            [python, "-m", "rewards.score_server"], stdin=subprocess.PIPE, text=True, env=variables
        )
    except OSError as error:
        raise InputError(f"--python {python}: cannot be started: {error.strerror or error}") from error
    assert process.stdin is not None
    with process:
        process.stdin.write(to_line(spec, at))
        process.stdin.flush()
        code = process.wait()
    if code:
        raise InputError(f"--python {python}: the server ended with exit code {code}; its message stands above")
