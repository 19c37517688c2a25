"""A rehearsal of RL on BAGEL-7B-MoT: full-size random weights on one GPU draw a batch and take one LoRA learner step.

    python benchmarks/rehearsal.py

Writes docs/rehearsal.md with date, card, speeds and memory. On a GPU of 80 GB: configs/bagel-grpo.yaml with adapters in
bf16, two turns of 512 pixels; some minutes. Without a GPU the same code runs on the model of configs/shapes.yaml in
fp32, half a minute, and the page says so. Everything is done twice and the second time counts. Floating-point
operations are those of the matrices (irg_rl/model/flops.py); the peak is the data sheet's for dense bf16, where the
card is not known what one large product reaches.
"""

import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from unittest.mock import patch

import torch
from common import CONFIGS

from irg_rl.commands.learning import learner_settings
from irg_rl.commands.longest import PROMPT_TOKENS, Sampled
from irg_rl.commands.prepare import precision
from irg_rl.commands.progress import console
from irg_rl.config import Recipe, load_recipe
from irg_rl.learner import old_policy
from irg_rl.learner.engine import Engine
from irg_rl.learner.lora import add_adapters
from irg_rl.learner.process_group import Rank
from irg_rl.learner.replay import Replay, idle_pack
from irg_rl.learner.rl_loss import JointLoss
from irg_rl.learner.stopwatch import Stopwatch
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.flops import Load, Matrices
from irg_rl.model.tokenizer import TextTokenizer, train_tokenizer
from irg_rl.model.unified import UnifiedModel
from irg_rl.shapes_world import corpus
from irg_rl.trajectory import Prompt, Trajectory
from rollouts.drawing import draw_images
from rollouts.request import Request
from rollouts.sampler import Sampler
from rollouts.text import write

BATCH = 8
CHANGES = [
    "sampling.turns=2", "sampling.system_prompt=''", "rl.lora={rank: 64, alpha: 128}", "rl.minibatches=1",
    "rl.kl_image=0", f"rl.group_size={BATCH}", "rl.groups=1",
]  # fmt: skip
LARGE = ["rl.optimizer={lr: 5.0e-5, gen_lr: 1.0e-4, vision_lr: 0.0}", "rl.max_pack_tokens=12288",
         "engine.activation_checkpointing=true", "engine.learner_ranks=1"]  # fmt: skip
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
PAGE = Path(__file__).parents[1] / "docs" / "rehearsal.md"


@dataclass
class Measured:
    """One piece of work: seconds of its parts, floating-point operations, peak memory in bytes."""

    seconds: dict[str, float]
    flops: float
    memory: int


def build(recipe: Recipe) -> tuple[UnifiedModel, Autoencoder, TextTokenizer]:
    """Random weights, made where they stay."""
    device = recipe.engine.device
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(corpus(), 512, Path(folder))
    torch.manual_seed(0)
    with torch.device(device):
        vae = Autoencoder(recipe.model.vae, recipe.model.latent_patch_size).to(device)
        torch.set_default_dtype(precision(recipe))
        model = UnifiedModel(recipe.model, tokenizer.special).to(device)
        torch.set_default_dtype(torch.float32)
    return model, vae, tokenizer


def twice(recipe: Recipe, watch: Stopwatch, work: Callable[[], object]) -> tuple[dict[str, float], int]:
    """Seconds of the second time, `whole` included, and peak memory."""
    work()
    watch.lap()
    if recipe.engine.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with watch("whole"):
        work()
    on_cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return watch.lap(), torch.cuda.max_memory_allocated() if recipe.engine.device == "cuda" else on_cpu


def sample(recipe: Recipe, matrices: Matrices, parts: tuple) -> tuple[Measured, list[Trajectory]]:
    watch, drawn = Stopwatch(torch.device(recipe.engine.device)), []

    def watched(part: str, function: Callable) -> Callable:
        def call(*arguments):
            with watch(part):
                return function(*arguments)

        return call

    sampler = Sampler(*parts, recipe.rl_sampling, noise=recipe.rl.noise, is_stop=lambda text: False)
    prompt = Prompt("p", " ".join(["red"] * PROMPT_TOKENS))
    requests = [Request(prompt, number) for number in range(BATCH)]
    with (
        patch("rollouts.sampler.write", watched("texts", write)),
        patch("rollouts.sampler.draw_images", watched("images", draw_images)),
    ):
        seconds, memory = twice(recipe, watch, lambda: drawn.append(sampler.sample(requests)))
    through = Sampled.of(recipe, recipe.sampling.turns, recipe.rl_sampling.points, None, lambda turn: BATCH)
    return Measured(seconds, matrices.flops(through.text + through.images), memory), drawn[-1]


def learn(recipe: Recipe, matrices: Matrices, parts: tuple, drawn: list[Trajectory]) -> tuple[Measured, int]:
    """Also the tokens that are replayed."""
    model, _, tokenizer = parts
    for number, trajectory in enumerate(drawn):
        for segment in trajectory.segments:
            segment.advantage = 1.0 if number % 2 else -1.0
    settings = learner_settings(recipe, "")
    engine = Engine(
        model.train(), settings.engine, idle_pack(model.config, model.special), Rank(device=recipe.engine.device),
        {"context_grad": settings.context_grad},
    )  # fmt: skip
    replay = Replay(model.config, model.special, tokenizer.encode, max_pack_tokens=recipe.rl.max_pack_tokens)
    replays = replay.packs(drawn)
    packs, recomputed = [made.pack for made in replays], recipe.engine.dtype == "bf16"

    def step() -> None:
        old = old_policy.sampled(drawn)
        if recomputed:
            old = old_policy.recompute(engine, replays, drawn, settings.law)
        loss = JointLoss(settings.loss, settings.law, replays, drawn, old)
        engine.step(packs, loss, loss.denominators())

    seconds, memory = twice(recipe, engine.watch, step)
    # a backward through frozen matrices has no gradient of theirs to compute: it costs one forward, not two
    forwards = 2 + recomputed + recipe.engine.activation_checkpointing
    flops = forwards * sum(matrices.flops(Load.of(pack)) for pack in packs)
    return Measured(seconds, flops, memory), sum(pack.tokens for pack in packs)


def peak(device: str) -> tuple[float, str]:
    """Operations per second of the device's matrix units, and where the number is from."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    for card, flops in PEAKS.items():
        if card in name:
            return flops, "data sheet, dense bf16"
    size, best = (8192 if device == "cuda" else 1024), float("inf")
    one = torch.randn(size, size, device=device, dtype=torch.bfloat16 if device == "cuda" else torch.float32)
    for _ in range(5):
        began = time.perf_counter()
        float((one @ one)[0, 0])
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best, f"one product of {size} x {size} matrices"


def page(recipe: Recipe, size: int, sampling: Measured, learning: Measured, counts: dict[str, int]) -> str:
    is_gpu = recipe.engine.device == "cuda"
    card = torch.cuda.get_device_name() if is_gpu else f"no GPU at hand: a CPU, {torch.get_num_threads()} thread"
    model = "BAGEL-7B-MoT's sizes" if is_gpu else "**not BAGEL's sizes, but those of configs/shapes.yaml**"
    flops, source = peak(recipe.engine.device)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    sampled, drawing, learned = recipe.sampling, sampling.seconds["whole"], learning.seconds["whole"]
    texts, images = (counts[part] / sampling.seconds[part] for part in ("texts", "images"))
    return f"""# Rehearsal

`python benchmarks/rehearsal.py` ({commit}), {date.today()}, {card}. Random weights of
{model}: {size / 1e6:,.1f} M parameters, {recipe.engine.dtype}.
{BATCH} trajectories of {sampled.turns} turns: {counts["texts"]:,} text tokens, {counts["images"]} images of
{" x ".join(map(str, sampled.image_size))} pixels in {recipe.rl_sampling.points - 1} steps each. Replayed are
{counts["replayed"]:,} tokens, noise blocks of the trained steps included.

| | sampling | one LoRA step |
|---|---|---|
| seconds | {drawing:.2f} | {learned:.2f} (the optimizer {learning.seconds["optimizer"]:.3f}) |
| tokens/s | {texts:,.0f} while texts are written | {counts["replayed"] / learned:,.0f} |
| images/s | {images:.2f} while images are drawn | {counts["images"] / learned:.2f} |
| share of the matrix peak | {sampling.flops / drawing / flops:.1%} | {learning.flops / learned / flops:.1%} |
| peak memory, GiB | {sampling.memory / 2**30:.1f} | {learning.memory / 2**30:.1f} |

Matrix peak: {flops / 1e12:,.3g} TFLOP/s ({source}).
"""


def main() -> None:
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        recipe = load_recipe(CONFIGS / "bagel-grpo.yaml", [*CHANGES, *LARGE])
    else:
        recipe = load_recipe(CONFIGS / "shapes.yaml", CHANGES)
    parts = build(recipe)
    model = parts[0]
    matrices, size = Matrices.of(model), sum(p.numel() for p in model.parameters())
    add_adapters(model, recipe.rl.lora, seed=0)
    sampling, drawn = sample(recipe, matrices, parts)
    counts = {"texts": sum(len(text.ids) for t in drawn for text in t.texts), "images": sum(t.turns for t in drawn)}
    learning, counts["replayed"] = learn(recipe, matrices, parts, drawn)
    PAGE.write_text(page(recipe, size, sampling, learning, counts))
    console.print(PAGE.read_text(), markup=False)


if __name__ == "__main__":
    main()
