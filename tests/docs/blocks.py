"""The code blocks and the inline commands of README and docs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from handbook.links import LONG
from tests.paths import CONFIGS

ROOT = CONFIGS.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
SHELL = ("", "bash")
"""Languages of blocks with commands. A block without a language has commands."""
FENCE = re.compile(r"^```(\w*)$")
INLINE = re.compile(r"`(irg-rl [a-z][^`]*)`")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    is_long: bool
    lines: list[str] = field(default_factory=list, hash=False)

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    @property
    def file(self) -> str | None:
        """The file that a block of Python is saved as: its first line is `# NAME.py`."""
        named = re.match(r"# (\w+\.py)$", self.lines[0]) if self.language == "python" and self.lines else None
        return None if named is None else named[1]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the code blocks of a page. Raises AssertionError if the last one does not end."""
    current, above = None, ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = FENCE.match(line)
        if current is None and fence:
            current = Block(str(page.relative_to(ROOT)), number, fence[1], above.strip() == LONG)
        elif current is not None and line == "```":
            yield current
            current = None
        elif current is not None:
            current.lines.append(line)
        above = line
    assert current is None, f"{current}: the block does not end"


def inline_commands(page: Path) -> list[str]:
    """Return the commands of irg-rl that stand in the text of a page, line breaks inside them joined."""
    inside = {number for block in blocks_of(page) for number in range(block.line, block.line + len(block.lines) + 2)}
    lines = page.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for number, line in enumerate(lines, 1) if number not in inside)
    return [" ".join(command.split()) for command in INLINE.findall(text)]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
