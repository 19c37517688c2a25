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
    """(where, docstring) of every public module, class, function and method that has one. `where` is what an editor
    shows beside a docstring: the file, the class and the signature."""
    for file in sorted(file for package in PACKAGES for file in Path(package).rglob("*.py")):
        yield from _of(ast.parse(file.read_text(encoding="utf-8")), f"{file}")


def _of(node: ast.Module | ast.ClassDef | ast.FunctionDef, where: str) -> Iterator[tuple[str, str]]:
    if said := ast.get_docstring(node):
        yield where, said
    for inner in node.body:
        if isinstance(inner, ast.ClassDef | ast.FunctionDef) and not inner.name.startswith("_"):
            yield from _of(inner, f"{where}, {_signature(inner)}")


def _signature(node: ast.ClassDef | ast.FunctionDef) -> str:
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){returns}"


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
