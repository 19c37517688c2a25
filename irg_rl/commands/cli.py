"""`irg-rl`: one command per thing a researcher does."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from irg_rl.commands.progress import console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="SFT and RL for models that think, draw, look at what they drew, and draw again. "
    "Begin with: irg-rl train configs/shapes-smoke.yaml",
)

STOPPED_BY_HAND = 130
"""Exit code of a command that Ctrl-C ended."""

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="settings on top of the recipe, written key=value: output_dir=/data turns is sampling.turns=4"),
]
RunFolder = Annotated[Path, typer.Argument(help="a run folder, as `train` printed it")]


def main() -> None:
    """Run a command; expected failures become one line on stderr and exit code 1, Ctrl-C exit code 130."""
    from irg_rl.commands.errors import EXPECTED, explain

    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded at run time
    try:
        app()
    except SystemExit as end:
        if end.code == STOPPED_BY_HAND:
            _complain(explain(KeyboardInterrupt()))
        raise
    except EXPECTED as error:
        _complain(explain(error))
        raise SystemExit(1) from error


def _complain(text: str) -> None:
    """As it is: neither wrapped nor read as markup, so that it can be searched for."""
    Console(stderr=True).print(Text.assemble(("error: ", "red"), text), soft_wrap=True, highlight=False)


@app.command()
def ls() -> None:
    """List the recipes at hand and the runs in ./runs."""
    from irg_rl.commands.listing import recipes, runs

    table = Table("recipe", "what it is", "stages", title="recipes")
    for row in recipes():
        table.add_row(*row)
    console.print(table)
    rows = runs(Path("runs"))
    if rows:
        table = Table("run", "digest", "done", "last", title="runs")
        for row in rows:
            table.add_row(*row)
        console.print(table)


@app.command()
def check(recipe: Annotated[Path, typer.Argument(help="a recipe file")], overrides: Overrides = None) -> None:
    """Validate a recipe: every problem at once, with the nearest known names. Nothing is started."""
    from irg_rl.commands.checking import check_recipe

    for line in check_recipe(recipe, overrides or []):
        console.print(line, soft_wrap=True, markup=False)


@app.command()
def train(recipe: Annotated[Path, typer.Argument(help="a recipe file")], overrides: Overrides = None) -> None:
    """Run a recipe from nothing to the report: base, SFT, gate, RL, evaluation, report."""
    from irg_rl.commands.stages import start

    start(recipe, overrides or [])


@app.command()
def resume(run: RunFolder) -> None:
    """Go on with a run where it stopped, bit for bit."""
    from irg_rl.commands.stages import go_on

    go_on(run)


@app.command("eval")
def evaluate(
    target: Annotated[Path, typer.Argument(help="a run folder or a checkpoint folder inside one")],
    prompts: Annotated[int | None, typer.Option(help="how many held-out prompts")] = None,
    turns: Annotated[int | None, typer.Option(min=2, help="images per trajectory at most")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of the evaluation")] = None,
    out: Annotated[Path | None, typer.Option(help="json to write; default: evaluation/ of the run")] = None,
) -> None:
    """Evaluate on held-out prompts with both controls beside the real thing."""
    from irg_rl.commands.measure import evaluate_target

    evaluate_target(target, prompts, turns, seed, out)


@app.command()
def generate(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint folder in the released layout, or a run")],
    prompt: Annotated[list[str], typer.Option(help="what to draw; may be given several times")],
    out: Annotated[Path, typer.Option(help="folder for images, texts and settings")],
    turns: Annotated[int, typer.Option(help="images per prompt at most")] = 2,
    seed: Annotated[int, typer.Option(help="seed of the noise")] = 0,
) -> None:
    """Think, draw, look, redraw: write every turn's text and image."""
    from irg_rl.commands.generating import generate_to

    generate_to(checkpoint, prompt, turns, seed, out)


@app.command()
def report(run: RunFolder) -> None:
    """Build report.html of a run again from its files."""
    from irg_rl.commands.reporting import build

    console.print(f"report: {build(run)}")
