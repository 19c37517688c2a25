"""Make the pages of the repository pages of the site.

The pages are written for GitHub: links are paths in the repository, and lists need no blank line before them.
"""

import posixpath
import re
from collections.abc import Iterator

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
}
"""Pages outside of `docs/`: path in the repository -> name on the site."""
DOWNLOADS = {"examples/quickstart.ipynb": "quickstart.ipynb"}
"""Files outside of `docs/` that pages link to: path in the repository -> name on the site."""
GENERATED = ("settings.md", "commands.md")
"""Pages of the site that are generated from the code."""
LONG = "<!-- long -->"
"""Stands in the line above a block of code that a test reads and checks, but does not run."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)(?=[)#])")
FENCE = re.compile(r"\s*(```|~~~)")
ITEM = re.compile(r"(\s*)([*-]|\d+\.) ")
CODE = re.compile(r"`[^`]*`")


def source_of(page: str) -> str:
    """Return the path in the repository of a page of the site."""
    outside = {name: path for path, name in PAGES.items()}
    return outside.get(page, f"docs/{page}")


def target_of(path: str) -> str | None:
    """Return the name on the site of a file of the repository. None: the file is not on the site."""
    outside = (PAGES | DOWNLOADS).get(path)
    return path.removeprefix("docs/") if outside is None and path.startswith("docs/") else outside


def link_targets(markdown: str, source: str) -> Iterator[str]:
    """Yield the path in the repository of every file that a page links to. `source` is the path of the page."""
    for line in outside_of_fences(markdown):
        for link in LINK.findall(CODE.sub("", line)):
            yield posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def outside_of_fences(markdown: str) -> Iterator[str]:
    """Yield the lines that are not in code blocks."""
    inside = False
    for line in markdown.splitlines():
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            yield line


def for_site(markdown: str, page: str) -> str:
    """Return a page of the repository as the site needs it. `page` is its name on the site."""
    source, lines, inside, before = source_of(page), [], False, ""
    for line in markdown.splitlines():
        if line == LONG:
            continue
        fence = FENCE.match(line) is not None
        if not inside and not fence:
            line = _line(line, source)
            if starts_block(line, before):
                lines.append("")
        inside ^= fence
        lines.append(line)
        before = line
    return "\n".join(lines) + "\n"


def starts_block(line: str, before: str) -> bool:
    """Return whether a list or a table begins here without the blank line that Python-Markdown needs."""
    if not before.strip() or before.startswith(("#", " ")):
        return False
    if ITEM.match(line) and not line.startswith(" "):
        return not ITEM.match(before)
    return line.startswith("|") and not before.startswith("|")


def _line(line: str, source: str) -> str:
    item = ITEM.match(line)
    if item is not None and len(item[1]) == 2:
        line = "  " + line  # Python-Markdown nests lists by four spaces
    if line.startswith("|"):
        line = CODE.sub(lambda code: code[0].replace("\\|", "|"), line)
    return LINK.sub(lambda link: _on_site(link[1], source), line)


def _on_site(link: str, source: str) -> str:
    """Return a link of a page with the path `source` as a link of the site. A link to a file that is not on the site is
    left as it is, so `mkdocs build --strict` reports it."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return target_of(path) or link
