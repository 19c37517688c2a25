"""Which folders are runs, and how they are called."""

from pathlib import Path

import pytest

from irg_rl.errors import InputError
from irg_rl.view.sources import Library


def folder(path: Path, *files: str) -> Path:
    path.mkdir(parents=True)
    for name in files:
        (path / name).write_text("")
    return path


def names(*given: Path) -> list[str]:
    return list(Library(given).sources())


def test_runs_and_groups_are_found_below_a_folder_and_not_inside_a_run(tmp_path):
    folder(tmp_path / "a", "recipe.yaml")
    folder(tmp_path / "a" / "inner", "recipe.yaml")
    folder(tmp_path / "deep" / "b", "metrics.jsonl")
    folder(tmp_path / "rolled", "rollouts.json")
    folder(tmp_path / ".hidden", "recipe.yaml")
    folder(tmp_path / "dumps" / "step-000001", "groups.json")
    assert names(tmp_path) == ["a", "deep~b", "dumps", "rolled"]


def test_a_run_given_by_itself_has_its_own_name(tmp_path):
    assert names(folder(tmp_path / "a", "recipe.yaml")) == ["a"]


def test_two_runs_of_one_name_are_told_apart_by_their_parents(tmp_path):
    given = [folder(tmp_path / parent / "shapes", "recipe.yaml") for parent in ("x", "y")]
    assert names(*given) == ["x~shapes", "y~shapes"]


def test_a_run_that_is_given_twice_appears_once(tmp_path):
    run = folder(tmp_path / "a", "recipe.yaml")
    assert names(run, tmp_path, run / ".." / "a") == ["a"]


def test_a_missing_folder_is_an_error_that_says_what_to_give(tmp_path):
    with pytest.raises(InputError, match="no such folder; give a run"):
        Library([tmp_path / "nothing"])
