"""No two classes or types share a name, so a name alone says which one is meant."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("irg_rl", "sft", "rewards", "rollouts")


def modules():
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            yield file.relative_to(ROOT), ast.parse(file.read_text())


def repeated(places: dict[str, set[str]]) -> dict[str, list[str]]:
    return {name: sorted(found) for name, found in places.items() if len(found) > 1}


def test_no_two_classes_or_type_aliases_share_a_name():
    places = defaultdict(set)
    for file, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].add(f"{file}:{node.lineno}")
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(alias := node.targets[0], ast.Name) and is_type(alias.id):
                places[alias.id].add(f"{file}:{node.lineno}")
    assert repeated(places) == {}


def is_type(name: str) -> bool:
    """Names of types are in CapWords. Names of constants have capital letters only."""
    return name[:1].isupper() and not name.isupper()
