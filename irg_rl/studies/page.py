"""What a study leaves to be looked at: one self-contained page, and every figure as PNG and SVG."""

from collections.abc import Mapping
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from irg_rl.studies.study import Findings

PAGE = "index.html"
FIGURES = "figures"


def write_page(folder: Path, name: str, question: str, facts: Mapping[str, str], findings: Findings) -> Path:
    """Everything in the page is escaped, and its content policy allows embedded data alone. Returns its path."""
    loader = ChoiceLoader([PackageLoader("irg_rl.studies", "."), PackageLoader("irg_rl.report", ".")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("study.html.jinja").render(
        name=name, question=question, facts=facts, findings=findings
    )
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    shown = {plate.name for plate in findings.plates}
    for old in (folder / FIGURES).glob("*.svg"):  # of an earlier call, whose settings had more to show
        if old.stem not in shown and old.with_suffix(".png").is_file():
            old.unlink()
            old.with_suffix(".png").unlink()
    for plate in findings.plates:
        (folder / FIGURES / f"{plate.name}.png").write_bytes(plate.png)
        (folder / FIGURES / f"{plate.name}.svg").write_bytes(plate.svg)
    aside = folder / f"{PAGE}.tmp"
    aside.write_text(page, encoding="utf-8")
    return aside.replace(folder / PAGE)
