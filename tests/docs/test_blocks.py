"""Every code block and every command of README and docs works. Blocks marked long are checked, all others are run."""

import ast
import importlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from irg_rl.config import Recipe, recipe_settings
from irg_rl.config.data import DataRecipe
from irg_rl.config.rewards import ScorerRecipe
from irg_rl.config.shipped import recipe_path
from tests.docs.blocks import BLOCKS, PAGES, ROOT, SHELL, Block, blocks_of, inline_commands
from tests.docs.shell import Wrong, check_command, commands_in


def named(*languages: str) -> list:
    return [pytest.param(one, id=str(one)) for one in BLOCKS if one.language in languages]


def short_blocks(page: Path) -> list[Block]:
    return [one for one in blocks_of(page) if one.language in (*SHELL, "python") and not one.is_long]


@pytest.fixture
def beside_examples(tmp_path, monkeypatch):
    """The working folder has the files of examples/, and the files that blocks of Python begin with a name for."""
    for file in (ROOT / "examples").glob("*.py"):
        shutil.copy(file, tmp_path)
    for block in BLOCKS:
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_every_block_says_its_language_and_no_command_hides_in_another():
    assert {one.language for one in BLOCKS} <= {*SHELL, "python", "yaml", "json", "text"}
    hidden = [str(one) for one in BLOCKS if one.language == "text" and re.search(r"^irg-rl |^import ", one.text, re.M)]
    assert hidden == []


@pytest.mark.parametrize("block", named(*SHELL))
def test_the_commands_of_a_block_exist_with_their_options_settings_and_files(block, beside_examples):
    commands = list(commands_in(block.text))
    assert commands, "a block of commands without a command"
    for words in commands:
        check_command(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_in_the_text_of_a_page_exist(page, beside_examples):
    for command in inline_commands(page):
        try:
            check_command(shlex.split(command), complete=False)
        except (Wrong, ValueError) as error:
            raise AssertionError(f"{command}: {error}") from error


@pytest.mark.parametrize("page", [page for page in PAGES if short_blocks(page)], ids=lambda page: page.name)
def test_the_short_blocks_of_a_page_run_one_after_the_other(page, irg_rl, beside_examples):
    for block in short_blocks(page):
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), {"__name__": "block"})
            continue
        for words in commands_in(block.text):
            assert words[0] == "irg-rl", f"{block}: {words}: mark the block as long, only irg-rl is run"
            answer = irg_rl(*words[1:])
            assert answer.code == 0, f"{block}: {words}: {answer.err}"


def problems_of(settings: dict, section: type) -> list[str]:
    """Return what is wrong with a part of a recipe. What is missing, or wrong as a whole, is left out."""
    try:
        section.model_validate(settings)
    except ValidationError as error:
        return [str(one) for one in error.errors() if one["type"] != "missing" and one["loc"]]
    return []


@pytest.mark.parametrize("block", named("yaml"))
def test_a_block_of_settings_is_a_part_of_a_recipe(block, beside_examples):
    settings = yaml.safe_load(block.text)
    if isinstance(settings, list):
        TypeAdapter(list[ScorerRecipe]).validate_python(settings)
        return
    settings.pop("extends", None)
    if settings.keys() <= DataRecipe.model_fields.keys() - Recipe.model_fields.keys():
        assert problems_of(settings, DataRecipe) == []
        return
    model = recipe_settings(recipe_path("shapes-smoke"))["model"]
    assert problems_of({"name": "part", "model": model} | settings, Recipe) == []


def test_a_wrong_setting_in_a_block_is_found():
    assert problems_of({"rl": {"updats": 3}}, Recipe) and problems_of(
        {"rewards": {"scorers": [{"kind": "hsp"}]}}, Recipe
    )


@pytest.mark.parametrize("block", named("json"))
def test_a_block_of_json_is_json(block):
    assert json.loads(block.text)


@pytest.mark.parametrize("block", named("python"))
def test_a_block_of_python_compiles_and_its_imports_are_there(block, beside_examples):
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "a block of docs has no package, so it cannot import relatively"
            module = importlib.import_module(node.module)
            missing = [alias.name for alias in node.names if alias.name not in dir(module)]
            assert not missing, f"{node.module} has no {missing}"


@pytest.mark.parametrize(
    "command",
    [
        "irg-rl trian shapes",
        "irg-rl train shaeps",
        "irg-rl train shapes rl.updats=3",
        "irg-rl train shapes --gpus 3",
        "irg-rl eval RUN --splt test",
        "irg-rl data bild shapes-irgl",
        "irg-rl study turns RUN study.trns=3",
        "python benchmarks/nothing.py",
        "pytest tests/nothing",
        "make all",
    ],
)
def test_a_command_that_would_not_work_is_found(command):
    [words] = commands_in(command)
    with pytest.raises(Exception):  # noqa: B017  Wrong, or the program's own error
        check_command(words)


def test_blocks_are_found_with_their_mark(tmp_path, monkeypatch):
    page = ROOT / "docs" / "made-up.md"
    text = "a\n<!-- long -->\n```bash\nirg-rl ls\n```\n```\nirg-rl ls && cd a  # b\n```\n"
    monkeypatch.setattr(type(page), "read_text", lambda self, encoding: text)
    long, short = blocks_of(page)
    assert (long.is_long, long.language, short.is_long) == (True, "bash", False)
    assert list(commands_in(short.text)) == [["irg-rl", "ls"], ["cd", "a"]] and isinstance(long, Block)
