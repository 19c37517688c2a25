"""Check that a built site loads nothing from elsewhere.

    python -m handbook.offline FOLDER

A link that a reader may click is allowed. Scripts, styles, images, fonts and frames must be files of the site itself.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

LOADED = {
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "object": ("data",),
    "embed": ("src",),
}
"""Tag -> attributes whose address the browser loads by itself."""
ELSEWHERE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
IN_STYLE = re.compile(r"""(?:url\(|@import)\s*['"]?\s*((?:https?:)?//[^'")\s]+)""", re.IGNORECASE)


class _Loads(HTMLParser):
    """Collects the addresses outside of the site that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += IN_STYLE.findall(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._in_style = tag == "style"
        if tag == "link" and given.get("rel") == "canonical":
            return
        values = [given.get(name) or "" for name in LOADED.get(tag, ())]
        self.found += [f"<{tag}> {value}" for value in values if ELSEWHERE.match(value)]
        self.found += [f"style of <{tag}> {address}" for address in IN_STYLE.findall(given.get("style") or "")]


def loaded_from_elsewhere(text: str, suffix: str) -> list[str]:
    """Return the addresses of other hosts that a file of the site loads. `suffix` is .html or .css."""
    if suffix == ".css":
        return IN_STYLE.findall(text)
    page = _Loads()
    page.feed(text)
    return page.found


def main(folder: Path) -> int:
    files = [file for file in sorted(folder.rglob("*")) if file.suffix in (".html", ".css")]
    found = [
        f"{file.relative_to(folder)}: {one}"
        for file in files
        for one in loaded_from_elsewhere(file.read_text(encoding="utf-8"), file.suffix)
    ]
    sys.stdout.write("\n".join([*found, f"{len(files)} files, {len(found)} things loaded from elsewhere\n"]))
    return int(bool(found) or not files)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
