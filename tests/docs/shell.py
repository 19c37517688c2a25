"""Check commands of the docs against the program: command, options, settings, recipes and files exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import typer

from irg_rl.commands.cli import app
from irg_rl.config import RecipeError, load_recipe
from irg_rl.config.data import load_data_recipe
from irg_rl.config.shipped import shipped_data_recipes, shipped_recipes
from irg_rl.studies.catalog import STUDIES
from tests.docs.blocks import ROOT

OWN = {"mine.yaml"}
"""Files that a reader makes. `irg-rl cp NAME mine.yaml` is the usual first step."""
PLACEHOLDER = re.compile(r"^\[?[A-Z][A-Z_]+(\|[A-Z_]+)*[\]…]*$")
"""RUN, CHECKPOINT, RECIPE|RUN: what a reader replaces."""
ELLIPSIS = {"...", "…", "[key=value", "…]", "[RUN"}
SEPARATORS = {"&&", ";", "|"}
KNOWN = {
    "irg-rl", "python", "pytest", "pip", "git", "cd", "ray", "ruff", "lint-imports", "basedpyright", "bash", "mkdocs",
    "jupyter",
}  # fmt: skip


class Wrong(AssertionError):
    """A command of the docs would not work."""


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield every command of a block as words, without comments and without variables that are set before it."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in SEPARATORS:
                words.append(word)
                continue
            while words and re.match(r"^[A-Z_]+=", words[0]):
                words.pop(0)
            if words:
                yield words
            words = []


def check_command(words: list[str], complete: bool = True) -> None:
    """Raise Wrong if a command would not work. `complete=False`: arguments may be missing, as in running text."""
    words = [word for word in words if word not in ELLIPSIS]
    program = Path(words[0]).name if words else ""
    if words and program not in KNOWN:
        raise Wrong(f"{words[0]!r}: unknown program; known: {', '.join(sorted(KNOWN))}")
    if program == "irg-rl":
        check_own(words[1:], complete)
    elif program == "python" and words[1:2] == ["-m"] and words[2].split(".")[0] in ("benchmarks", "tests", "handbook"):
        require_file(words[2].replace(".", "/") + ".py")
    elif program in ("python", "pytest"):
        for word in words[1:]:
            if word.split("/")[0] in ("benchmarks", "examples", "tests", "docs"):
                require_file(word)


def require_file(path: str) -> None:
    if not (ROOT / path).exists():
        raise Wrong(f"{path}: no such file in the repository")


def check_own(words: list[str], complete: bool) -> None:
    name, command = "", typer.main.get_command(app)
    while "commands" in vars(command):  # a group of commands
        if not words or words[0] not in vars(command)["commands"]:
            if not words and not complete:
                return
            raise Wrong(f"irg-rl {name}: no command {words[0] if words else ''!r}")
        command = vars(command)["commands"][words[0]]
        name, words = f"{name} {words.pop(0)}".strip(), words
    if words == ["--help"]:
        return
    try:
        given = command.make_context(name, list(words)).params
    except Exception as error:
        missing = type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError")
        if not complete and missing:
            return check_options(command, words)
        raise Wrong(f"irg-rl {name}: {getattr(error, 'message', None) or error}") from error
    check_settings(name, given)


def check_options(command, words: list[str]) -> None:
    """Check that the options of an incomplete command exist."""
    known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    for word in words:
        if word.startswith("--") and word.split("=")[0] not in known:
            raise Wrong(f"no option {word}")


def check_settings(name: str, given: dict) -> None:
    """Check the recipe and the overrides of a command that was parsed."""
    words = [*(given.get("overrides") or []), *(given.get("settings") or []), *(given.get("words") or [])]
    overrides = [word for word in words if "=" in word and not word.startswith("--")]
    stray = [word for word in words if "=" not in word]
    if name == "study" and PLACEHOLDER.match(given["name"]):
        return
    if name == "study":
        allowed = {f"study.{setting}" for setting in STUDIES[given["name"]].settings_type.model_fields}
        if unknown := {one.split("=")[0] for one in overrides if one.startswith("study.")} - allowed:
            raise Wrong(f"study {given['name']} has no setting {', '.join(sorted(unknown))}")
        overrides, stray = [one for one in overrides if not one.startswith("study.")], []
    if stray:
        raise Wrong(f"{stray}: neither a setting nor an argument")
    if name == "data build":
        load_data_recipe(known_recipe(given["recipe"], shipped_data_recipes()) or "shapes-irgl", overrides)
        return
    if name == "cp":
        known_recipe(given["name"], shipped_recipes() | shipped_data_recipes())
        return
    recipe = recipe_of_run({"run": given.get("recipe"), **given})
    if recipe is None and "recipe" in given:
        recipe = known_recipe(given["recipe"], shipped_recipes())
    overrides = [one for one in overrides if not is_placeholder(one)]
    try:
        load_recipe(recipe or ("bagel-lora-grpo" if name == "verify" else "shapes"), overrides)
    except RecipeError as error:  # the reader's own recipe and that of `verify` have other sizes, but the same settings
        if recipe is not None or "unknown setting" in str(error):
            raise


def is_placeholder(override: str) -> bool:
    value = override.partition("=")[2]
    return override == "key=value" or value == "n" or bool(PLACEHOLDER.match(value))


def recipe_of_run(given: dict) -> str | None:
    """Return the shipped recipe that made a run such as runs/shapes-2, as far as its name says it."""
    places = [given.get(name) for name in ("run", "checkpoint", "target")]
    path = next((Path(str(place)) for place in places if place), None)
    parts = () if path is None else path.parts
    if "runs" not in parts[:-1]:
        return None
    run = parts[parts.index("runs") + 1]
    return next((one for one in (run, re.sub(r"-\d+$", "", run)) if one in shipped_recipes()), "shapes")


def known_recipe(given: str, shipped: dict[str, Path]) -> str | None:
    """Return the recipe that a command names. None: the reader's own, or a placeholder. Raises Wrong for others."""
    if given in OWN or PLACEHOLDER.match(Path(given).stem):
        return None
    if given in shipped:
        return given
    if (ROOT / given).is_file():
        return str(ROOT / given)
    raise Wrong(f"{given!r}: neither a shipped recipe nor a file of the repository")
