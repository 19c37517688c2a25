"""Writes the results of a verification: one HTML page that needs no other files, and one JSON file."""

import base64
import json
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from irg_rl.report.strips import fit, png
from irg_rl.task import Pixels
from irg_rl.verify.run import Verification

PAGE, DATA = "verify.html", "verify.json"


def write_page(verification: Verification, out: Path) -> Path:
    """Write verify.html and verify.json into the folder `out`, and return the path of the page. All text is escaped,
    and the page allows no address except embedded data."""
    content = verification.content()
    pictures = [[(title, _address(pixels)) for title, pixels in r.finding.pictures] for r in verification.results]
    loader = ChoiceLoader([PackageLoader("irg_rl.verify", "."), PackageLoader("irg_rl.report", ".")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    recipe = json.dumps(content["recipe"], indent=1)
    page = environment.get_template("verify.html.jinja").render(content=content, pictures=pictures, recipe=recipe)
    _write(out / DATA, json.dumps(content, indent=1) + "\n")
    return _write(out / PAGE, page)


def _write(path: Path, text: str) -> Path:
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text, encoding="utf-8")
    return aside.replace(path)


def _address(pixels: Pixels) -> str:
    return "data:image/png;base64," + base64.b64encode(png(fit(pixels))).decode()
