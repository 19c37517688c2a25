"""`irg-rl data`: builds SFT data in the IRG schema, and looks at folders of such data."""

from pathlib import Path

from irg_rl.commands.ls import show_rows
from irg_rl.config.data import load_data_recipe
from irg_rl.data.build import build
from irg_rl.data.card import CARD
from irg_rl.data.drawing import Painter
from irg_rl.data.parts import PartRecord
from irg_rl.data.survey import LISTED, ModeSurvey, mode_folders, origins, survey
from irg_rl.driver.progress import bar, console
from irg_rl.errors import InputError
from irg_rl.prompts import read_prompts
from sft.dataset import count_stored_rows


def build_data(name: str, overrides: list[str]) -> None:
    """Run `irg-rl data build`: build the data set of a recipe, or continue it, and print what is in it."""
    recipe = load_data_recipe(name, overrides)

    def painter(target: str) -> Painter:
        from irg_rl.commands.data_painter import ModelPainter  # needs torch and a model

        return ModelPainter(target, recipe.images.settings, recipe.seed)

    with bar("data", len(read_prompts(recipe.prompts.file))) as progress:
        built = build(recipe, painter, progress.advance)
    show_rows(("mode", "rows"), [(mode, str(number)) for mode, number in _rows(built.total, recipe.rows.modes)])
    waiting = len({left.prompt for left in built.total.waiting})
    left_out = len(built.total.left_out)
    console.print(f"{built.calls} questions asked in all; {left_out} things left out; {waiting} prompts wait")
    if built.spent:
        console.print(built.spent)
    elif waiting:
        last = built.total.waiting[-1]
        console.print(f"run the command again to try them again; the last: {last.what}, {last.reason}: {last.detail}")
    console.print(f"data card: {Path(recipe.out) / CARD}")


def _rows(total: PartRecord, modes: tuple[str, ...]) -> list[tuple[str, int]]:
    return [(mode, total.rows.get(mode, 0)) for mode in modes]


def check_data(folder: Path) -> None:
    """Run `irg-rl data check`: read every row as SFT does, and name those that cannot be trained on. Raises InputError
    if there are any."""
    found = [_surveyed(path) for path in mode_folders(folder)]
    rows = [(one.mode, str(one.files), str(one.rows), str(one.usable), str(len(one.odd))) for one in found]
    show_rows(("mode", "files", "rows", "usable", "of another form"), rows)
    for one in found:
        if not one.is_known:
            console.print(f"{one.mode}: not the name of a mode, so the form of its rows is not checked")
        _list(one, "broken", one.broken)
        _list(one, "of another form", one.odd)
    broken = sum(len(one.broken) for one in found)
    if broken:
        raise InputError(
            f"{folder}: {broken} of {sum(one.rows for one in found)} rows cannot be trained on; SFT would skip them"
        )
    console.print(f"{folder}: every row can be trained on")


def _surveyed(folder: Path) -> ModeSurvey:
    with bar(f"reading {folder.name}", count_stored_rows(folder)) as progress:
        return survey(folder, progress.advance)


def _list(one: ModeSurvey, kind: str, problems: list[str]) -> None:
    for problem in problems[:LISTED]:
        console.print(f"{one.mode}, {kind}: {problem}")
    if len(problems) > LISTED:
        console.print(f"{one.mode}, {kind}: {len(problems) - LISTED} more")


def show_stats(folder: Path) -> None:
    """Run `irg-rl data stats`: print numbers, lengths and sizes of the rows of every mode, and what is known about
    their origin."""
    paths = mode_folders(folder)
    titles = (
        "mode", "rows", "broken", "MB", "prompts", "rows that draw", "nothing to change", "words: median", "95 %",
        "most", "images", "image sizes",
    )  # fmt: skip
    show_rows(titles, [_stats(_surveyed(path)) for path in paths])
    told = [(path.name, found) for path in paths if (found := origins(path)) is not None]
    if told:
        console.print()
        show_rows(("mode", "teacher", "repaired", "mean scores"), [
            (name, ", ".join(found.teachers), f"{100 * found.repaired / found.rows:.1f} %",
             ", ".join(f"{question} {score:.2f}" for question, score in found.scores.items()))
            for name, found in told
        ])  # fmt: skip


def _stats(one: ModeSurvey) -> tuple[str, ...]:
    usable = max(one.usable, 1)
    words = ["-" if (n := one.words_at(percent)) is None else str(n) for percent in (50, 95, 100)]
    sizes = ", ".join(f"{size} ({number})" for size, number in one.sizes.most_common(3))
    shares = [f"{100 * number / usable:.1f} %" for number in (one.with_target, one.stops)]
    return (
        one.mode, str(one.rows), str(len(one.broken)), f"{one.size / 1e6:.1f}", str(len(one.prompts)), *shares, *words,
        str(sum(one.sizes.values())), sizes or "-",
    )  # fmt: skip
