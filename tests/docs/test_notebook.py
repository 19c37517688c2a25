"""examples/quickstart.ipynb: its cells run in their order, as a reader runs them."""

import ast
import json
import shutil
from typing import Any

from PIL import Image

from irg_rl.model.folder import save_folder
from tests.docs.blocks import ROOT

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def shown_by(source: str, names: dict) -> Any:
    """Run a cell, and return the value of its last line, which a notebook shows."""
    tree = ast.parse(source)
    last = tree.body[-1]
    shown = last.value if isinstance(last, ast.Expr) else None
    if shown is not None:
        tree.body.pop()
    exec(compile(tree, "cell", "exec"), names)
    return None if shown is None else eval(compile(ast.Expression(shown), "cell", "eval"), names)


def test_the_quickstart_runs_from_a_checkpoint_to_a_trained_model(world, tmp_path, monkeypatch):
    models = tmp_path / "runs" / "shapes-smoke" / "models"
    models.mkdir(parents=True)
    save_folder(world.model, world.vae, world.tokenizer, models / "sft2")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path / "examples")
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells), "clear the outputs"
    names: dict = {"__name__": "__main__"}
    first, prompts, picture, texts, rewards, advantages, metrics, last = [
        shown_by("".join(cell["source"]), names) for cell in cells
    ]
    assert [count for _, count in prompts] == [4, 4] and len(texts) >= 2
    assert isinstance(picture, Image.Image) and picture.height >= 4 * 24
    assert all(0 <= score <= 1 for reward in rewards for score in reward["green"])
    assert any(advantage for _, _, advantage in advantages)
    assert metrics["step"] == 1 and metrics["grad_norm/total"] > 0
    assert first[0] == 0 and last[0] == 1 and first[1] != last[1]
    assert (tmp_path / "examples" / "trained" / "config.json").is_file()
