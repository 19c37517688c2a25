"""Turns a comparison of RL with its baselines (evaluate/compare.py) into rows of text for the report. A baseline is
another model or method, such as the SFT checkpoint."""

from irg_rl.report.tables import GroupedTable, TableCell, TableRow, headed_once, points, share, times


def against_baselines(comparison: dict) -> list[TableRow]:
    """Return table rows about the accuracy at the last turn. They compare the RL model with each baseline (another
    model or method, such as the SFT checkpoint). Each baseline has one row per seed of RL. If there are several seeds,
    it also has one row pooled over all seeds. `comparison` is the result of evaluate/compare.py."""
    several = any(entry["seed"] is None for entry in comparison["rows"])
    rows = []
    for entry in comparison["rows"]:
        pooled = entry["seed"] is None
        another = points(entry["gained_across_seeds"]) if pooled else TableCell("" if several else "one seed")
        cells = [
            share(entry["rl_accuracy"]),
            share(entry["baseline_accuracy"]),
            points(entry["gained"]),
            another,
            TableCell(f"{entry['rl_renders']:.2f} / {entry['baseline_renders']:.2f}"),
        ]
        rows.append(TableRow(entry["baseline"], _seed_words(entry["seed"]), cells, pooled))
    return headed_once(rows)


def repairs(comparison: dict) -> list[TableRow]:
    """Return table rows about repair: the share of wrong first images that are right at the last turn. The rows compare
    the RL model with each baseline (another model, such as the SFT checkpoint) and with each control. A control has the
    same first images as the RL model, but replaces the later images. Their replacement is a plain new draw, or a
    refinement that follows the reflection of another prompt."""
    rows = []
    for entry in comparison["repairs"]:
        cells = [share(entry["rl"]), share(entry["other"]), points(entry["gained"]), times(entry["ratio"])]
        rows.append(TableRow(entry["against"], _seed_words(entry["seed"]), cells, entry["seed"] is None))
    return headed_once(rows)


def standings(comparison: dict) -> GroupedTable:
    """Return a table with one row for each model and seed. A row has the share of right images at each turn, repair and
    damage. Repair is the share of wrong first images that are right at the last turn. Damage is the share of right
    first images that are wrong at the last turn."""
    found = comparison["standings"]
    turns = max(len(entry["accuracy"]) for entry in found)
    rows = []
    for entry in found:
        accuracy = [share(measure) for measure in entry["accuracy"]]
        accuracy += [TableCell("")] * (turns - len(accuracy))
        cells = [*accuracy, share(entry["repair"]), share(entry["damage"])]
        alone = sum(other["model"] == entry["model"] for other in found) == 1
        rows.append(TableRow(entry["model"], "" if alone else _seed_words(entry["seed"]), cells))
    headings = [f"turn {k + 1}" for k in range(turns)]
    return GroupedTable([("right", headings), ("last turn", ["repair", "damage"])], headed_once(rows))


def _seed_words(seed: int | None) -> str:
    return "pooled over seeds" if seed is None else f"seed {seed}"
