"""The list of mutants fits the code, and the tool tells which are found."""

from collections import Counter
from dataclasses import replace

import pytest

from tests.mutant_list import MUTANTS, Mutant
from tests.mutants import ROOT, BrokenMutant, Outcome, changed, key_of, outcome_of, run


def test_every_mutant_changes_code_that_is_there_and_names_tests_that_exist():
    assert len(MUTANTS) >= 120 and Counter(mutant.name for mutant in MUTANTS).most_common(1)[0][1] == 1
    for mutant in MUTANTS:
        text = (ROOT / mutant.file).read_text(encoding="utf-8")
        right, wrong = (compile(code, mutant.file, "exec", optimize=2) for code in (text, changed(text, mutant)))
        assert right != wrong, f"{mutant.name} changes a docstring"
        for place in mutant.tests:
            file, _, test = place.partition("::")
            assert f"def {test}" in (ROOT / file).read_text(encoding="utf-8"), f"{mutant.name}: {place}"


@pytest.fixture
def tree(tmp_path):
    """A repository with one function, whose test looks at one of its two sides."""
    root = tmp_path / "repository"
    root.mkdir()
    (root / "sizes.py").write_text("def size(x):\n    if x < 0:\n        return -x\n    return x + 0\n")
    (root / "test_size.py").write_text(
        "from sizes import size\n\n\ndef test_size():\n    assert size(2) == 2\n    size(-1)\n"
    )
    return root


def mutant(wrong: str, old: str, new: str, test: str = "test_size.py", nth: int | None = None) -> Mutant:
    return Mutant(wrong, "sizes.py", old, new, (test,), nth)


GROWS, STAYS = mutant("grows", "x + 0", "x + 1"), mutant("stays negative", "return -x", "return -2 * x")


def test_a_mutant_is_found_or_survives_and_its_file_is_as_it_was_afterwards(tree, tmp_path):
    before = (tree / "sizes.py").read_text(), (tree / "sizes.py").stat().st_mtime_ns
    results = tmp_path / "runs" / "results.jsonl"
    first = {result.name: result for result in run([GROWS, STAYS], tree, results)}
    assert [first[one.name].outcome for one in (GROWS, STAYS)] == [Outcome.FOUND, Outcome.SURVIVED]
    assert "test_size" in first[GROWS.name].told
    assert ((tree / "sizes.py").read_text(), (tree / "sizes.py").stat().st_mtime_ns) == before
    with results.open("a") as file:
        file.write('{"name": "cut o')
    again = {result.name: result for result in run([GROWS, STAYS], tree, results)}
    assert again == first and len(results.read_text().splitlines()) == 3  # nothing was run again


def test_a_mutant_whose_tests_fail_without_it_is_broken_and_not_found(tree, tmp_path):
    (tree / "test_size.py").write_text("def test_size():\n    assert False\n")
    (result,) = run([GROWS], tree, tmp_path / "results.jsonl")
    assert result.outcome is Outcome.BROKEN and "fail without it" in result.told


def test_a_mutant_is_run_again_when_its_line_its_file_or_its_test_has_changed(tree):
    keys = {key_of(GROWS, tree), key_of(replace(GROWS, new="x + 2"), tree)}
    for name in ("sizes.py", "test_size.py"):
        (tree / name).write_text((tree / name).read_text() + "\n")
        keys.add(key_of(GROWS, tree))
    assert len(keys) == 4


def test_tests_that_do_not_end_are_stopped(tree):
    slow = mutant("sleeps", "return -x", "__import__('time').sleep(60)")
    assert outcome_of(slow, tree, longest_s=4.0) == (Outcome.TIMED_OUT, "after 4 s")


@pytest.mark.parametrize("broken", [
    mutant("gone", "x * 5", "x"),
    mutant("twice", "return", "yield"),
    mutant("no third", "return", "yield", nth=3),
    replace(GROWS, file="other.py"),
    mutant("no such file", "x + 0", "x + 1", "test_other.py"),
    mutant("no such test", "x + 0", "x + 1", "test_size.py::test_other"),
])  # fmt: skip
def test_a_mutant_without_its_code_or_its_tests_is_broken(tree, broken):
    outcome, told = outcome_of(broken, tree)
    assert outcome is Outcome.BROKEN and told


def test_the_nth_occurrence_is_changed():
    assert changed("a a a", mutant("", "a", "b", nth=2)) == "a b a"
    with pytest.raises(BrokenMutant, match="'a' occurs 3 times in sizes.py, it must occur once"):
        changed("a a a", mutant("", "a", "b"))
