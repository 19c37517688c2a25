"""The options of `irg-rl reward`. Everything that takes time to import is imported by the commands themselves."""

from pathlib import Path
from typing import Annotated

import typer

reward_app = typer.Typer(
    no_args_is_help=True, help="Scorers: score images, compare scorers, weigh them, serve one over HTTP."
)

Source = Annotated[
    str,
    typer.Argument(metavar="RECIPE|RUN", help="whose scorers are used: a run, also by its name in ./runs, or a recipe"),
]
Changes = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="settings that replace the recipe's")
]
Images = Annotated[
    Path,
    typer.Argument(
        help="folder of groups (`irg-rl rollout`, rl.dump_every), folder of images with prompts.jsonl "
        "(file_name, prompt) or one .txt per image, or parquet (image, prompt)"
    ),
]


@reward_app.command("score")
def reward_score(
    recipe: Source,
    images: Images,
    out: Annotated[Path, typer.Option(help="table to write: .parquet, .csv or .jsonl")],
    settings: Changes = None,
) -> None:
    """Score images with every scorer of a recipe, and write one table.

    Failed scores are empty, with the reason beside them. A second call asks only for what is missing or has failed.
    """
    from irg_rl.commands.reward import score_images

    score_images(recipe, images, settings or [], out)


@reward_app.command("compare")
def reward_compare(
    recipe: Source,
    images: Images,
    out: Annotated[Path, typer.Option(help="folder for the page, its figures and comparison.json")],
    settings: Changes = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="preferences: folder of `reward pairs`, or a file as HPDv2, Pick-a-Pic or MMRB2 have it"),
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="images, and pairs, at most; groups stay whole")] = 1024,
    rounds: Annotated[int, typer.Option(min=1, help="equal calls, for the noise between them")] = 2,
    changed: Annotated[int, typer.Option(min=1, help="images that are also shown blurred, noisy, ...")] = 48,
    shown: Annotated[int, typer.Option(min=0, help="pairs for scorers that compare two images")] = 64,
) -> None:
    """Say which scorer to trust: a page with figures, a recommendation, and JSON.

    It measures agreement between scorers, with the task's verdict inside groups of one prompt by one model, and with
    people's preferences; noise between equal calls; position bias; which changes of an image a scorer notices; speed.
    A second call asks only for what is missing.
    """
    from irg_rl.commands.reward import compare_scorers
    from irg_rl.reward_bench.material import CompareSettings

    asked = CompareSettings(rounds=rounds, changed=changed, pairs=shown)
    compare_scorers(recipe, images, settings or [], out, pairs, most, asked)


@reward_app.command("calibrate")
def reward_calibrate(
    comparison: Annotated[Path, typer.Argument(help="folder of `irg-rl reward compare`")],
) -> None:
    """Print weights of the scorers and the tie of DPO, from measured noise, as overrides to paste."""
    from irg_rl.commands.reward import calibrate_weights

    calibrate_weights(comparison)


@reward_app.command("pairs")
def reward_pairs(
    recipe: Source,
    out: Annotated[Path, typer.Option(help="folder for the images and pairs.jsonl")],
    settings: Changes = None,
    rankings: Annotated[int, typer.Option(min=1, help="prompts with four images, which make six pairs, each")] = 64,
) -> None:
    """Let the recipe's world make a set of preferences, with a simulated person, for `reward compare --pairs`."""
    from irg_rl.commands.reward import make_pairs

    make_pairs(recipe, settings or [], out, rankings)


@reward_app.command("serve")
def reward_serve(
    recipe: Source,
    name: Annotated[str, typer.Argument(help="name of the scorer in the recipe")],
    settings: Changes = None,
    host: Annotated[str, typer.Option(help="address to listen on; not only this machine: needs a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port")] = 0,
    token_env: Annotated[str, typer.Option(help="environment variable that holds the token clients must send")] = "",
    python: Annotated[
        str | None, typer.Option(help="Python of another environment, in which the scorer runs")
    ] = None,
    max_mib: Annotated[int, typer.Option(min=1, help="largest request in MiB")] = 64,
    max_items: Annotated[int, typer.Option(min=1, help="images per request at most")] = 64,
) -> None:
    """Serve one scorer of a recipe over HTTP, until Ctrl-C, for scorers of the kind `remote`."""
    from irg_rl.commands.reward import serve_scorer
    from rewards.score_server import ServedAt, ServerLimits

    at = ServedAt(host, port, token_env, ServerLimits(mib=max_mib, items=max_items))
    serve_scorer(recipe, name, settings or [], at, python)
