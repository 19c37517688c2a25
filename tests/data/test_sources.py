"""Where the image of a prompt is looked for."""

from pathlib import Path

import pytest

from irg_rl.data.sources import ImageFolder, NumberedPrompt
from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt

FOLDER = Path("images")


def test_an_image_is_named_by_the_id_or_the_line_of_its_prompt():
    asked = NumberedPrompt(3, Prompt("cat7", "a cat"))
    assert ImageFolder(FOLDER, "{id}.png").path(asked) == Path("images/cat7.png")
    assert ImageFolder(FOLDER, "{line:05d}/samples/0000.png").path(asked) == Path("images/00003/samples/0000.png")


@pytest.mark.parametrize("ident", ["a/b", "../b", "/etc/x", "..", "a\\b", "x" * 300])
@pytest.mark.parametrize("name", ["{id}.png", "{id:>9}.png", "{id!s}/0000.png"])
def test_an_id_that_is_no_file_name_is_refused_and_named(ident, name):
    with pytest.raises(InputError, match=r"^prompt '.*': .*(cannot be a file name|is longer than)"):
        ImageFolder(FOLDER, name).path(NumberedPrompt(0, Prompt(ident, "a cat")))


def test_an_id_with_a_slash_is_fine_where_only_its_line_is_used():
    assert ImageFolder(FOLDER, "{line}.png").path(NumberedPrompt(4, Prompt("a/b", "a cat"))) == Path("images/4.png")


@pytest.mark.parametrize("name", ["{idea}.png", "{}.png", "{id", "{line.x}.png", "{id:z}.png"])
def test_another_place_holder_is_named(name):
    with pytest.raises(InputError, match="use {id} and {line} alone"):
        ImageFolder(FOLDER, name).path(NumberedPrompt(0, Prompt("a", "a cat")))
