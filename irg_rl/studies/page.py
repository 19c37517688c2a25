"""Write the results of a study for readers: one HTML page that needs no other files, and each figure as a PNG and an
SVG file."""

from collections.abc import Mapping
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from irg_rl.studies.study import Findings

PAGE = "index.html"
FIGURES = "figures"


def write_page(folder: Path, name: str, question: str, facts: Mapping[str, str], findings: Findings) -> Path:
    """Write the page of a study and its figure files into `folder`. Return the path of the page. `facts` are pairs
    (title, text) that the page lists. All text is escaped for HTML. The content security policy of the page allows only
    data that is embedded in the page."""
    loader = ChoiceLoader([PackageLoader("irg_rl.studies", "."), PackageLoader("irg_rl.report", ".")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("study.html.jinja").render(
        name=name, question=question, facts=facts, findings=findings
    )
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    shown = {plate.name for plate in findings.plates}
    for old in (folder / FIGURES).glob("*.svg"):  # left by an earlier call that had more figures
        if old.stem not in shown and old.with_suffix(".png").is_file():
            old.unlink()
            old.with_suffix(".png").unlink()
    for plate in findings.plates:
        (folder / FIGURES / f"{plate.name}.png").write_bytes(plate.png)
        (folder / FIGURES / f"{plate.name}.svg").write_bytes(plate.svg)
    aside = folder / f"{PAGE}.tmp"
    aside.write_text(page, encoding="utf-8")
    return aside.replace(folder / PAGE)
