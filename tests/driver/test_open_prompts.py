"""BAGEL's recipes on prompts of one's own: each shipped file from a model folder, rows and a judge over HTTP to its
report. The first run is bagel-irgl.yaml, from SFT to RL. Sizes are tiny; everything else is what a GPU run does: the
shipped recipe, the commands, Ray, DeepSpeed."""

import base64
import io
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from irg_rl.config import load_recipe
from irg_rl.evaluate.outcomes import load
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.config import ModelConfig
from irg_rl.model.folder import load_folder, save_folder
from irg_rl.model.init import initialize
from irg_rl.model.tokenizer import train_tokenizer
from irg_rl.model.unified import UnifiedModel
from irg_rl.tasks.prompts import split_of
from sft.dataset import Rejections, RowSource
from tests.learner.world import CONFIG
from tests.paths import CONFIGS
from tests.rewards.servers import completion, endpoint
from tests.sft.material import assistant, encoded, text, user, write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SIZE = (64, 96)
SHARES = {"train": 0.5, "validation": 0.1, "test": 0.4}
MODEL = CONFIG.model_copy(
    update={"max_latent_size": 12, "vit": CONFIG.vit.model_copy(update={"max_patches_per_side": 12})}
)
SKIES = [f"a {colour} sky over {place}" for colour in ("red", "blue", "pale", "dark", "golden") for place in (
    "a lake", "the sea", "two hills", "a village", "an old town", "the desert"
)]  # fmt: skip
FOG = next(sky for sky in (f"fog number {n} over a lake" for n in range(99)) if split_of(sky, SHARES) == "test")
"""The one prompt that the judge gives no answer about."""
OWN = 40
"""How many trajectories the model draws between the stages of SFT."""
OF_RL = ("bagel-irgl", "bagel-lora-grpo", "bagel-grpo", "bagel-lora-nft", "bagel-lora-awm", "bagel-lora-dpo")
"""The recipes that train with RL to the end. The others start from the SFT of bagel-irgl."""
RANKS = {"bagel-grpo": 2}
OPTIONS = {
    "bagel-lora-nft": {"times_per_image": 2}, "bagel-lora-awm": {"times_per_image": 2},
    "bagel-lora-dpo": {"times_per_image": 2, "tie": 0.001},
}  # fmt: skip
PROMPTS = 8
"""How many prompts an evaluation draws. The judge has no answer about one of them."""


def sky(seed: int) -> np.ndarray:
    """A smooth random field of colours, as unlike a picture of the shapes world as a photograph."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(0, 3, SIZE[0]), np.linspace(0, 3, SIZE[1]), indexing="ij")
    waves = [np.sin(rng.uniform(0.5, 2) * x + rng.uniform(0.5, 2) * y + rng.uniform(0, 6)) for _ in range(3)]
    return (127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


def row(number: int) -> list[dict]:
    """prompt, think, image 1 -> reflection -> image 2."""
    first = {"type": "image", "content": encoded(sky(number)), "need_vae": True, "need_vit": True}
    second = {"type": "image", "content": encoded(sky(1000 + number)), "need_loss": True}
    parts = text("warm light", need_loss=False), first, text("the light is too cold"), second
    return [user(SKIES[number % len(SKIES)]), assistant(*parts)]


def lean(url: str) -> float:
    """How much lighter the left half of a picture is than the right one, seen in the PNG alone."""
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("L"), float)
    middle = grey.shape[1] // 2
    return float(grey[:, :middle].mean() - grey[:, middle:].mean())


def judged(number: int, body: dict) -> tuple[int, dict, float]:
    """Yes where a picture is lighter on the left; of two pictures the one that is more so; no answer about fog."""
    parts = body["messages"][-1]["content"]
    asked = " ".join(part["text"] for part in parts if part["type"] == "text")
    leans = [lean(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]
    if "fog" in asked:
        return 200, completion("I cannot tell."), 0
    words, difference = (("Yes", "No"), leans[0]) if len(leans) == 1 else (("1", "2"), leans[0] - leans[1])
    p = 1 / (1 + math.exp(-max(-20.0, min(20.0, difference))))
    sure = {words[0]: math.log(p), words[1]: math.log(1 - p)}
    return 200, completion(words[0] if p > 0.5 else words[1], sure), 0


def released(folder: Path) -> None:
    """A random model in the layout of the released one: FOLDER/model."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([*SKIES, "warm light", "the light is too cold"] * 3, 290, folder / "tokenizer")
    model = initialize(UnifiedModel(MODEL, tokenizer.special), 0, (8, 12), (8, 12))
    with torch.no_grad():
        model.llm2vae.weight.normal_(std=0.1)
        model.language_model.lm_head.weight[tokenizer.special.eos, 0] = 4.0  # some texts end by themselves
    save_folder(model, Autoencoder(MODEL.vae, MODEL.latent_patch_size), tokenizer, folder / "model")


def materials(folder: Path) -> None:
    """A released model, prompts, and rows of all six modes."""
    released(folder)
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in (FOG, *SKIES)))
    for source in yaml.safe_load((CONFIGS / "bagel-irgl.yaml").read_text())["sft"]["stage1"]["sources"]:
        write(folder / "rows" / source["folder"], [row(number) for number in range(12)])


def recipe(folder: Path, judge: str, name: str, start: str = "model") -> Path:
    """A file that extends the shipped recipe `name`. What differs are sizes, addresses and the device. Training starts
    from the folder `start`."""
    shipped = load_recipe(CONFIGS / f"{name}.yaml")
    settings: dict[str, Any] = {
        "extends": str(CONFIGS / f"{name}.yaml"), "output_dir": str(folder / "runs"), "init_from": str(folder / start),
        "task_options": {"file": str(folder / "prompts.jsonl"), "shares": SHARES},
        "sampling": {"points": 4, "max_text_tokens": 12, "image_size": list(SIZE), "system_prompt": "think first"},
        "engine": {"device": "cpu", "dtype": "fp32", "learner_ranks": RANKS.get(name, 1), "rollout_actors": 1,
                   "threads": 1, "deadline_s": 300},
        # at IRG's temperature no text of this model ends by itself, and none would become a row
        "evaluation": {"prompts": PROMPTS, "points": 4, "strips": 2, "temperature": 1.0},
        "tracking": {"wandb": False},
    }  # fmt: skip
    if shipped.sft is not None:
        stage = {"steps": 2, "tokens_per_pack": 700, "packs_per_step": 1}
        settings["sft"] = {
            "data": str(folder / "rows"), "validation_rows": 6, "ema_decay": 0.5, "learner_ranks": 1,
            **{stage_name: stage for stage_name in shipped.sft.stages},
        }  # fmt: skip
        if shipped.sft.own is not None:
            settings["sft"]["own"] = {"count": OWN}
    if shipped.rl is not None:
        settings["rewards"] = {"scorers": [{"name": "judge", "kind": "judge", "base_url": judge}]}
        settings["rl"] = {
            "updates": 2 if name == "bagel-irgl" else 1, "groups": 2, "group_size": 4,
            "optimizer": {"lr": 1e-3, "gen_lr": 1e-3},
        }  # fmt: skip
        if shipped.rl.noise is not None:
            settings["rl"]["noise"] = {"window_size": 1, "window_range": [0, 2]}
        settings["rl"]["options"] = OPTIONS.get(name, {})
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    return folder / f"{name}.yaml"


def command(*words: object) -> str:
    """The command in a process of its own, as a shell runs it."""
    process = [sys.executable, "-c", "from irg_rl.commands.cli import main; main()", *map(str, words)]
    done = subprocess.run(process, capture_output=True, text=True, timeout=600, env=os.environ, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(folder with all materials, address of the judge)."""
    folder = tmp_path_factory.mktemp("open")
    materials(folder)
    with endpoint(judged) as (judge, _):
        yield folder, judge


@pytest.fixture(scope="module")
def runs(place):
    """Run folders by recipe. RL alone starts from the SFT of the first."""
    folder, judge = place
    command("train", recipe(folder, judge, "bagel-irgl"))
    for name in OF_RL[1:]:
        command("train", recipe(folder, judge, name, "runs/bagel-irgl/models/sft2"))
    return {name: folder / "runs" / name for name in OF_RL}


EVERY = pytest.mark.parametrize("name", OF_RL)


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("bagel-*.yaml")))
def test_check_tries_every_recipe_and_plan_counts_it(place, name, irg_rl):
    file = recipe(*place, name)
    answer = irg_rl("check", file)
    assert answer.code == 0 and "an evaluation" in answer.out and "a save" in answer.out, answer
    assert "GiB" in irg_rl("plan", file).out


def test_the_two_stages_of_sft_follow_each_other(place):
    folder, judge = place
    command("train", recipe(folder, judge, "bagel-sft-stage1"))
    command("train", recipe(folder, judge, "bagel-sft-stage2", "runs/bagel-sft-stage1/models/sft1"))
    first, second = (folder / "runs" / f"bagel-sft-stage{n}" for n in (1, 2))
    states = [load_folder(path).model.state_dict() for path in
              (folder / "model", first / "models" / "sft1", second / "models" / "sft2")]  # fmt: skip
    for before, after in itertools.pairwise(states):
        assert any(not torch.equal(after[key], weight) for key, weight in before.items())
    assert "sharpness" in (second / "report.html").read_text()


@EVERY
def test_every_recipe_of_rl_goes_to_its_report(runs, name):
    run = runs[name]
    stages = json.loads((run / "stages.json").read_text())
    assert all(entry["done"] for entry in stages.values())
    assert {"rl", "evaluate_rl", "report"} <= stages.keys()
    assert {"sft1", "own_images", "sft2", "evaluate_sft"} <= stages.keys() or name != "bagel-irgl"
    html = (run / "report.html").read_text()
    assert "no verdict" in html and "redraw" in html and "another prompt" in html and FOG in html
    assert "preferred to the first image" in html and "sharpness" in html and "edge density" in html


@EVERY
def test_rl_has_changed_the_weights(runs, name):
    folders = runs["bagel-irgl"] / "models" / "sft2", runs[name] / "models" / "rl"
    before, after = (load_folder(folder).model.state_dict() for folder in folders)
    changed = [key for key, weight in after.items() if not torch.equal(weight, before[key])]
    assert any("moe_gen" in key for key in changed) and any("moe_gen" not in key for key in changed)


@EVERY
def test_a_picture_without_a_verdict_counts_neither_as_right_nor_as_wrong(runs, name):
    summary = json.loads((runs[name] / "evaluation" / "rl.json").read_text())
    for arm in ("real", "redraw", "shuffled"):
        found = summary["arms"][arm]
        assert [share["value"] for share in found["missing"]] == [1 / PROMPTS, 1 / PROMPTS]
        assert [share["n"] for share in found["accuracy"]] == [PROMPTS - 1, PROMPTS - 1]
    table = load(runs[name] / "evaluation" / "rl.real.parquet")
    foggy = table.prompt_ids.index("1")
    assert not table.known[foggy].any() and table.known.sum() == 2 * (PROMPTS - 1)
    assert np.isnan(table.rewards["judge"][foggy]).all()


@EVERY
def test_right_is_what_the_judge_scores_at_least_at_the_threshold(runs, name):
    table = load(runs[name] / "evaluation" / "rl.real.parquet")
    known = table.known
    assert (table.correct[known] == (table.rewards["judge"][known] >= 0.5)).all()
    assert (table.score[known] == table.rewards["judge"][known]).all()


def test_the_arms_start_from_the_same_verdicts_and_no_gate_is_asked(runs):
    tables = [load(runs["bagel-irgl"] / "evaluation" / f"sft2.{arm}.parquet") for arm in ("real", "redraw", "shuffled")]
    for control in tables[1:]:
        np.testing.assert_array_equal(control.score[:, 0], tables[0].score[:, 0])
    assert json.loads((runs["bagel-irgl"] / "evaluation" / "sft2.json").read_text())["gate"] is None


def test_stage_2_learns_from_trajectories_whose_refined_image_the_judge_prefers(runs):
    facts = json.loads((runs["bagel-irgl"] / "stages.json").read_text())["own_images"]
    assert sum(facts.get(what, 0) for what in ("preferred", "tied", "worse", "stopped", "cut off")) == OWN
    source = RowSource(runs["bagel-irgl"] / "world" / "rows" / "own" / "refined", 0, Rejections())
    prompts = {source.draw()[0].text for _ in range(facts["preferred"])}
    assert source.epoch == 0 and prompts and all(split_of(one, SHARES) == "train" for one in prompts)


@EVERY
def test_the_judge_compares_refined_images_with_first_ones_and_its_silence_is_counted(runs, name):
    real = json.loads((runs[name] / "evaluation" / "rl.json").read_text())["arms"]["real"]
    assert [real["unanswered"][1][key] for key in ("value", "n")] == [1 / PROMPTS, PROMPTS]
    assert real["preferred"][1]["n"] == real["preferred"][1]["sets"] == PROMPTS - 1
    table = load(runs[name] / "evaluation" / "rl.real.parquet")
    assert set(table.preferred[np.isfinite(table.preferred)]) <= {0, 0.5, 1} and table.asked[:, 1].all()


def test_sizes_of_the_model_are_those_of_the_folder(runs):
    assert "model" not in yaml.safe_load((CONFIGS / "bagel-lora-grpo.yaml").read_text())
    model = yaml.safe_load((runs["bagel-irgl"] / "recipe.yaml").read_text())["model"]
    assert ModelConfig.model_validate(model) == MODEL.model_copy(update={"timestep_shift": 4.0})


def test_rl_trains_on_no_prompt_of_the_test_split(runs):
    lines = [json.loads(line) for line in (runs["bagel-irgl"] / "world" / "train.jsonl").read_text().splitlines()]
    held_out = [json.loads(line) for line in (runs["bagel-irgl"] / "world" / "test.jsonl").read_text().splitlines()]
    texts, kept = ({line["prompt"] for line in one} for one in (lines, held_out))
    assert not texts & kept and FOG in kept and all(split_of(one, SHARES) == "train" for one in texts)


def test_the_whole_is_no_picture_of_the_shapes_world(runs):
    model = ModelConfig.read(runs["bagel-irgl"] / "models" / "rl")
    with Image.open(next((runs["bagel-irgl"] / "samples" / "rl").glob("*.png"))) as picture:
        assert picture.size[1] >= SIZE[0] and model.max_latent_size == 12
