"""Draw public docstrings at random, to be read by somebody who has never seen the project.

    python -m benchmarks.docstrings --count 50 --seed 1 > sample.md
"""

import argparse
import ast
import random
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("irg_rl", "sft", "rewards", "rollouts")


def public_docstrings() -> Iterator[tuple[str, str]]:
    """(where, docstring) of every public module, class, function and method that has one."""
    for file in sorted(file for package in PACKAGES for file in Path(package).rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                name = "" if isinstance(node, ast.Module) else f", {node.name}"
                if not name.startswith(", _") and (said := ast.get_docstring(node)):
                    yield f"{file}{name}", said


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=50)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    drawn = random.Random(asked.seed).sample(list(public_docstrings()), asked.count)
    for number, (where, said) in enumerate(drawn, start=1):
        print(f"## {number}. {where}\n\n{said}\n")  # noqa: T201 - this is the output


if __name__ == "__main__":
    main()
