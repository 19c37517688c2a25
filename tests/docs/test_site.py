"""The pages of the site: generated references are complete, links lead somewhere, and nothing comes from elsewhere."""

import re

import pytest
import yaml

from handbook.commands import all_commands, commands_page
from handbook.links import DOWNLOADS, GENERATED, PAGES, for_site, link_targets, target_of
from handbook.offline import loaded_from_elsewhere
from handbook.settings import sections_in, settings_page
from irg_rl.config import Recipe
from irg_rl.credit import SCHEMES
from tests.docs.blocks import PAGES as FILES
from tests.docs.blocks import ROOT


def rows_of(page: str, heading: str) -> str:
    """Return the part of a page below a heading, up to the next one."""
    return re.split(r"^#+ ", page.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def test_every_setting_of_the_recipe_has_a_row_with_its_type_default_bounds_and_meaning():
    page = settings_page()
    for section, places in sections_in(Recipe).items():
        rows = rows_of(page, places[0] or "top level")
        for name, field in section.model_fields.items():
            assert f"| `{name}` |" in rows, (places, name)
            assert " ".join((field.description or "").split()).replace("<", "&lt;") in rows
    rl = rows_of(page, "rl")
    assert "| `group_size` | whole number, ≥ 2 | `8` |" in rl
    assert "| `text_loss` | `grpo`, `bnpo`, `dr_grpo`, `dapo`, `cispo` | `dapo` |" in rl
    assert "| `ema_decay` | number, ≥ 0, < 1 or `null` | `null` |" in rl
    assert "| `steps` | whole number, ≥ 1 | required |" in rows_of(page, "sft.base")
    assert "| `latents` | path or `null` | `null` |" in rows_of(page, "sft")
    assert all(f"rl.credit_options of {scheme}\n" in page for scheme in SCHEMES)


def test_every_command_has_its_words_and_its_help():
    page = commands_page()
    names = [name for name, _ in all_commands()]
    assert {"irg-rl train", "irg-rl eval", "irg-rl data build", "irg-rl reward serve"} <= set(names)
    assert re.findall(r"^## (.*)$", page, re.M) == names
    train = rows_of(page, "irg-rl train")
    assert "irg-rl train RECIPE [OVERRIDES...]\n" in train and "from nothing to the report" in train
    drawn = rows_of(page, "irg-rl generate")
    assert (
        "| `--turns` | whole number, ≥ 1 | `2` |" in drawn and "| `--stop`, `--no-stop` | switch | `--stop` |" in drawn
    )
    assert "| `--out` | path | required |" in drawn


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_of_the_site(file):
    source = str(file.relative_to(ROOT))
    for target in link_targets(file.read_text(encoding="utf-8"), source):
        assert (ROOT / target).exists(), f"{source} links to {target}, which is not there"
        assert target_of(target) is not None, f"{source} links to {target}, which is not on the site"


def test_every_page_is_in_the_navigation():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = [page for part in nav for inner in part.values() for page in pages_in(inner)]
    on_site = {*PAGES.values(), *GENERATED, *(page.name for page in (ROOT / "docs").glob("*.md"))}
    missing, gone = sorted(on_site - {*listed}), sorted({*listed} - on_site)
    assert not missing, f"add a line `Title: NAME.md` below `nav` of mkdocs.yml for {missing}"
    assert not gone, f"delete from `nav` of mkdocs.yml, for there is no such page: {gone}"
    assert len(listed) == len(on_site), "a page stands twice below `nav` of mkdocs.yml"


def pages_in(part) -> list[str]:
    return [part] if isinstance(part, str) else [page for entry in part for page in entry.values()]


def test_links_lists_and_tables_of_github_become_those_of_the_site():
    page = "see [a](docs/world.md#rules) and [b](CONTRIBUTING.md):\n* one\n  - two\ntable\n| a | `b\\|c` |\n"
    assert for_site(page, "index.md") == (
        "see [a](world.md#rules) and [b](contributing.md):\n\n* one\n    - two\ntable\n\n| a | `b|c` |\n"
    )
    code = "```text\n[a](docs/world.md)\n* b\n```\n"
    assert for_site(code, "index.md") == code
    assert for_site("[a](../examples/quickstart.ipynb)\n", "python.md") == f"[a]({[*DOWNLOADS.values()][0]})\n"


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://unpkg.com/a.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/a.css">',
        '<img src="http://a.example/b.png">',
        '<div style="background: url(https://a.example/b.png)"></div>',
        "<style>@import 'https://a.example/b.css';</style>",
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(page):
    assert len(loaded_from_elsewhere(page, ".html")) == 1


def test_links_to_click_and_files_of_the_site_are_allowed():
    page = '<a href="https://arxiv.org/abs/2509.06945">a</a><img src="b.png"><script src="c.js">var a = "https://d"</script>'
    assert loaded_from_elsewhere(page, ".html") == [] and loaded_from_elsewhere("a { color: red }", ".css") == []
    assert loaded_from_elsewhere("@import url(https://a.example/b.css)", ".css") == ["https://a.example/b.css"]
