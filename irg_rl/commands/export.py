"""`irg-rl export`: writes a checkpoint as a folder that can be published."""

from pathlib import Path

from irg_rl.commands.generate import model_folder, recipe_of
from irg_rl.driver.progress import console
from irg_rl.driver.run_folder import Run
from irg_rl.export.card import origin_of
from irg_rl.export.folder import export_folder


def export(target: Path, out: Path | None, base: str | None, licence: str | None) -> Path:
    """Write a model folder for publication, and return its path. `target` is a model folder, or a run, whose newest
    model is taken. `base` is the published name of the base model, and `licence` the licence of the weights. None means
    what the files say about them."""
    source = model_folder(target).resolve()
    run_folder = source.parent.parent
    run = Run.open(run_folder) if (run_folder / "recipe.yaml").is_file() else None
    recipe = recipe_of(source) if run is None else run.recipe
    origin = origin_of(source, recipe, run, base, licence)
    place = out or (Path(f"{source.name}-export") if run is None else run_folder / "export" / source.name)
    export_folder(source, place, origin)
    console.print(f"written: {place}; `irg-rl generate {place} --prompt ... --out ...` draws with it",
                  soft_wrap=True, markup=False)  # fmt: skip
    if origin.licence is None:
        console.print("its card states no licence: say which one with --license, as in --license apache-2.0")
    return place
