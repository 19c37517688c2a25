"""The stages before SFT. They write the prompts and the SFT rows (training examples) of the task. They train a
tokenizer, an autoencoder, and small models that score images. If the recipe names no model, they also make a new model
with random weights."""

import random
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from irg_rl.config import LoraRecipe, Recipe
from irg_rl.config.rewards import OPEN_CLIP_KINDS
from irg_rl.driver.progress import bar, console
from irg_rl.driver.run_folder import Run, RunError, write_json
from irg_rl.learner.from_recipe import precision
from irg_rl.learner.lora import Adapter, served
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.folder import Folder, load_folder, save_folder
from irg_rl.model.init import initialize
from irg_rl.model.tokenizer import load_tokenizer, train_tokenizer
from irg_rl.model.unified import UnifiedModel
from irg_rl.prompts import read_prompts, write_prompts
from irg_rl.task import Task, World, task_of
from irg_rl.trajectory import Prompt
from sft.autoencoder import reconstruct, train_autoencoder

BASE = "models/base"
TOKENIZER = "world/tokenizer"
OWN_ROWS = "own"
"""Name of the folder for those SFT rows that are made from images that the model itself has drawn."""
HELD_OUT = 512
"""Number of held-out examples on which each of the small scorers is tested."""
PICTURES = 8000
"""Number of pictures of the task on which the autoencoder is trained."""
CHECKED = 500
"""Largest number of held-out pictures on which the autoencoder is tested. The task's checker reads the content of each
picture and of its reconstruction, and the two are compared."""


def make_world(run: Run) -> None:
    """Write the prompts of all splits of the task as jsonl files. If the recipe names no SFT data, also write SFT rows
    (training examples). The rows have the same columns as the published data of Interleaving Reasoning Generation
    (IRG). If the recipe names no model, also train a tokenizer."""
    recipe, task = run.recipe, task_of(run.recipe)
    for split in task.splits:
        write_prompts(prompts_file(run, split), task.prompts(split))
    if recipe.sft is not None and recipe.sft.data is None:
        world, train = as_world(task), prompts_of(run, "train")
        with bar("world: rows", len(world.rows)) as progress:
            for mode in world.rows:
                world.write_rows(run.path("world", "rows"), mode, train)
                progress.advance(note=mode)
    if recipe.init_from is None:
        texts = as_world(task).texts()
        train_tokenizer(texts, recipe.model.llm.vocab_size, run.path(TOKENIZER))


def as_world(task: Task) -> World:
    """Return the task unchanged if it is a `World`, a task that can make its own data and pictures.

    Raises RunError for any other task. `driver.checks` finds this error earlier and reports which settings are missing.
    """
    if not isinstance(task, World):
        raise RunError(f"the task {type(task).__name__} has no data of its own: set init_from and sft.data")
    return task


def prompts_of(run: Run, split: str) -> list[Prompt]:
    return read_prompts(prompts_file(run, split))


def prompts_file(run: Run, split: str) -> Path:
    return run.path("world", f"{split}.jsonl")


def rl_prompts_file(run: Run) -> Path:
    """Return the path of the file with the RL prompts. If the recipe sets `rl.prompts`, the path comes from this
    setting. Otherwise the file has the training prompts of the task."""
    given = None if run.recipe.rl is None else run.recipe.rl.prompts
    return Path(given) if given else prompts_file(run, "train")


def make_base(run: Run, facts: dict) -> None:
    """Make the model from which SFT starts. If the recipe names a model folder in `init_from`, SFT starts from that
    folder, and nothing is made here. Otherwise the new model has random weights and an autoencoder. This function
    trains the autoencoder on pictures of the task, tests it, and puts the result of the test into `facts`.

    In the test, the task's checker reads the content of each test picture, and the content of the autoencoder's
    reconstruction of this picture. The two results should be equal. RunError is raised if the share of pictures with
    equal results is below `vae.min_checker_agreement`.
    """
    recipe = run.recipe
    if recipe.init_from is not None:
        return
    world, rng = as_world(task_of(recipe)), random.Random(recipe.seed)
    images = world.pictures(PICTURES, rng)
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(1)  # the convolutions are so small that a second thread makes them slower
    vae = Autoencoder(recipe.model.vae, recipe.model.latent_patch_size)
    with bar("autoencoder", recipe.vae.steps) as progress:
        vae = train_autoencoder(
            vae, images, recipe.vae, recipe.seed, lambda step, loss: progress.advance(note=f"loss {loss:.4f}")
        )
    held_out = world.pictures_of(prompts_of(run, "train")[:CHECKED], rng)
    share = world.reads_alike(held_out, reconstruct(vae, held_out))
    facts["checker_agreement"] = share
    console.print(f"autoencoder: the checker reads {share:.1%} of {len(held_out)} reconstructions like the originals")
    if share < recipe.vae.min_checker_agreement:
        raise RunError(
            f"autoencoder: the checker reads only {share:.1%} of the reconstructions like the originals; the recipe "
            f"needs {recipe.vae.min_checker_agreement:.0%}; raise vae.steps"
        )
    tokenizer = load_tokenizer(run.path(TOKENIZER))
    model = UnifiedModel(recipe.model.model_copy(update={"vae": vae.config}), tokenizer.special)
    height, width = recipe.sampling.image_size
    patch = recipe.model.vit.patch_size
    initialize(model, recipe.seed, vae.grid(height, width), (height // patch, width // patch))
    save_folder(model, vae, tokenizer, run.path(BASE))


def model_path(run: Run, name: str) -> Path:
    """Return the path of the model folder with this name in the run (`base`, `sft1`, `sft2`, `rl`, ...). If the recipe
    sets `init_from`, the result for `base` is the folder that this setting names."""
    if name == "base" and run.recipe.init_from:
        return Path(run.recipe.init_from)
    return run.path("models", name)


def load_model(run: Run, name: str) -> Folder:
    """Load the model folder `name` of the run (such as `sft2`). The loaded model is used for sampling, not for
    training."""
    return load_as(run.recipe, model_path(run, name))


def load_as(recipe: Recipe, folder: Path) -> Folder:
    """Load a model folder with the device, precision and attention kernels of the recipe."""
    return load_folder(folder, recipe.engine.device, precision(recipe), recipe.engine.attention)


def save_trained(
    run: Run, start: str, weights: Mapping[str, Tensor], name: str, lora: LoraRecipe | None = None
) -> None:
    """Write trained weights as the model folder `name` of the run. Everything that was not trained is copied from the
    model folder `start` of the run. If `lora` is given, `weights` has LoRA adapters. These adapters are merged into the
    model, and also saved separately."""
    write_trained(model_path(run, start), weights, run.path("models", name), lora)


def write_trained(base: Path, weights: Mapping[str, Tensor], path: Path, lora: LoraRecipe | None = None) -> None:
    """Write trained weights as the model folder `path`. Everything that was not trained is copied from the model folder
    `base`. If `lora` is given, `weights` has LoRA adapters. These adapters are merged into the model, and also saved
    separately.

    The model is read again from `base` in fp32. The model in the training engine cannot be saved directly: ZeRO 3
    splits its weights over the processes, and its weights may be in bf16.
    """
    folder = load_folder(base)
    if lora is not None:
        adapter = Adapter(lora, served(weights), base)
        save_folder(adapter.merge_into(folder.model), folder.autoencoder, folder.tokenizer, path, adapter.save)
        return
    unknown = folder.model.load_state_dict(weights, strict=False).unexpected_keys
    assert not unknown, unknown
    save_folder(folder.model, folder.autoencoder, folder.tokenizer, path)


def trained_scorers(recipe: Recipe) -> set[str]:
    """Return the kinds of scorers (`clip`, `hps`) that the run must train itself. The training of HPS starts from CLIP.
    So if the run must train `hps`, the result also contains `clip`."""
    kinds = {s.kind for s in recipe.rewards.scorers if s.kind in OPEN_CLIP_KINDS and s.path is None}
    return kinds | {"clip"} if kinds else kinds


def make_scorers(run: Run, facts: dict) -> None:
    """Train small CLIP and HPS models. Scorers of the recipe that name no released model use these models. Test the
    models on held-out examples. Write the test results to evaluation/scorers.json, and put them into `facts`."""
    on_the_spot = trained_scorers(run.recipe)
    if not on_the_spot:
        return
    from rewards.training import train_clip, train_hps  # imported here, because importing open_clip takes seconds

    steps, rows = run.recipe.rewards.training_steps, []
    examples_of = as_world(task_of(run.recipe)).scorer_examples
    with bar("scorers: CLIP", steps) as progress:
        facts["clip"] = train_clip(
            run.path("scorers", "clip"), examples_of, steps, seed=run.recipe.seed,
            progress=lambda *_: progress.advance(), held_out=HELD_OUT,
        )  # fmt: skip
    note = "right picture nearer to its prompt than a copy with one defect; chance is 50 %"
    rows.append(_row("clip", "held-out copies with a defect", facts["clip"]["matching"], note))
    if "hps" in on_the_spot:
        with bar("scorers: HPS", steps) as progress:
            facts["hps"] = train_hps(
                run.path("scorers", "hps"), run.path("scorers", "clip"), examples_of, steps, seed=run.recipe.seed,
                progress=lambda *_: progress.advance(), held_out=HELD_OUT,
            )  # fmt: skip
        rows.append(_row("hps", "held-out preference pairs", facts["hps"]["held_out_agreement"], ""))
        share = facts["hps"]["verifier_disagreement"]
        rows.append(_row("hps", "verifier", 1 - share, "where the verifier sees a difference"))
        console.print(f"scorers: HPS {facts['hps']}")
    write_json(run.path("evaluation", "scorers.json"), {"kind": "scorers", "rows": rows})


def _row(scorer: str, against: str, agreement: float, note: str) -> dict:
    return {"scorer": scorer, "against": against, "agreement": agreement, "n": HELD_OUT, "note": note}
