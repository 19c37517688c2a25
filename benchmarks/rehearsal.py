"""A rehearsal of RL on BAGEL-7B-MoT: full-size random weights on one GPU draw a batch and take one LoRA learner step.

    python -m benchmarks.rehearsal [key=value ...]

Writes the upper part of docs/rehearsal.md with date, card, speeds and memory, and what `irg-rl plan` says of them;
settings on top of the recipe's are named there. On a GPU of 80 GB: configs/bagel-grpo.yaml with adapters in
bf16, two turns of 512 pixels; some minutes. Without a GPU the same code runs on the model of configs/shapes.yaml in
fp32, a minute, and the page says so. Everything is done twice and the second time counts, wall clock. Floating-point
operations are those of the matrices (irg_rl/model/flops.py), the peak is that of the card's data sheet.
"""

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from unittest.mock import patch

import torch

from benchmarks.common import CONFIGS
from irg_rl.algorithms import old_policy
from irg_rl.algorithms.grpo import GRPO
from irg_rl.algorithms.joint import JointLoss
from irg_rl.config import Recipe, load_recipe
from irg_rl.driver.progress import console
from irg_rl.driver.rl_settings import learner_settings
from irg_rl.learner.engine import Engine
from irg_rl.learner.from_recipe import precision
from irg_rl.learner.lora import add_adapters
from irg_rl.learner.process_group import Rank, leave
from irg_rl.learner.replay import Replay, idle_pack
from irg_rl.learner.stopwatch import Stopwatch
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.flops import Matrices, Workload
from irg_rl.model.tokenizer import TextTokenizer, train_tokenizer
from irg_rl.model.unified import UnifiedModel
from irg_rl.plan.costs import LEARNER, ROLLOUT, Plan
from irg_rl.plan.worst_case import PROMPT_TOKENS, Sampled
from irg_rl.shapes_world import corpus
from irg_rl.trajectory import Prompt, Trajectory
from rollouts.drawing import draw_images
from rollouts.request import Request, never
from rollouts.sampler import Sampler
from rollouts.text import sample_texts

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH = 8
CHANGES = [
    "sampling.turns=2", "sampling.system_prompt=''", "rl.lora={rank: 64, alpha: 128}", "rl.minibatches=1",
    "rl.kl_image=0", f"rl.group_size={BATCH}", "rl.groups=1",
]  # fmt: skip
LARGE = [
    "rl.optimizer={lr: 5.0e-5, gen_lr: 1.0e-4, vision_lr: 0.0}", "rl.max_pack_tokens=12288",
    "engine.activation_checkpointing=true", "engine.learner_ranks=1",
]  # fmt: skip
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Operations per second of a card's matrix units, dense bf16, by its data sheet."""
PAGE = Path(__file__).parents[1] / "docs" / "rehearsal.md"
BELOW = "## What has not run on a card"
"""Heading of the part of the page that this program does not write."""
Parts = tuple[UnifiedModel, Autoencoder, TextTokenizer]


def build(recipe: Recipe) -> Parts:
    """Random weights, made where they stay."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(corpus(), 512, Path(folder))
    torch.manual_seed(0)
    with torch.device(DEVICE):
        vae = Autoencoder(recipe.model.vae, recipe.model.latent_patch_size)
        torch.set_default_dtype(precision(recipe))
        model = UnifiedModel(recipe.model, tokenizer.special)
        torch.set_default_dtype(torch.float32)
    return model.to(DEVICE), vae, tokenizer


def second(watch: Stopwatch, work: Callable[[], object]) -> tuple[dict[str, float], float]:
    """Seconds of the second time, `whole` included, and the highest memory, GiB."""
    work()
    watch.lap()
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with watch("whole"):
        work()
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return watch.lap(), (torch.cuda.max_memory_allocated() if DEVICE == "cuda" else process) / 2**30


def sample(recipe: Recipe, parts: Parts, watch: Stopwatch) -> tuple[dict[str, float], float, list[Trajectory]]:
    def watched(part: str, function: Callable) -> Callable:
        def call(*arguments):
            with watch(part):
                return function(*arguments)

        return call

    sampler = Sampler(*parts, recipe.rl_sampling, noise=recipe.require_rl().noise, is_stop=never)
    requests = [Request(Prompt("p", " ".join(["red"] * PROMPT_TOKENS)), number) for number in range(BATCH)]
    drawn: list[list[Trajectory]] = []
    texts = patch("rollouts.sampler.sample_texts", watched("texts", sample_texts))
    images = patch("rollouts.sampler.draw_images", watched("images", draw_images))
    with texts, images:
        seconds, memory = second(watch, lambda: drawn.append(sampler.sample(requests)))
    return seconds, memory, drawn[-1]


def learn(recipe: Recipe, parts: Parts, drawn: list[Trajectory]) -> tuple[dict[str, float], float, list]:
    """Also the packs."""
    model, _, tokenizer = parts
    for number, trajectory in enumerate(drawn):
        for segment in trajectory.segments:
            segment.advantage = 1.0 if number % 2 else -1.0
    settings, idle = learner_settings(recipe, ""), idle_pack(model.config, model.special)
    options = {"context_grad": settings.context_grad}
    engine = Engine(model.train(), settings.engine, idle, Rank(device=DEVICE), options)
    replay = Replay(model.config, model.special, tokenizer.encode, max_pack_tokens=settings.max_pack_tokens)
    replays = replay.packs(drawn)
    packs = [made.pack for made in replays]
    algorithm = GRPO.of(recipe)
    assert isinstance(algorithm, GRPO)

    def step() -> None:
        old = old_policy.sampled(drawn)
        if recipe.engine.dtype == "bf16":
            old = old_policy.recompute(engine, replays, drawn, settings.law)
        loss = JointLoss(algorithm, settings.law, replays, drawn, old)
        engine.step(packs, loss, loss.denominators())

    return *second(engine.watch, step), packs


def main() -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    torch.set_num_threads(1)
    is_gpu = DEVICE == "cuda"
    more = sys.argv[1:]
    recipe = load_recipe(CONFIGS / ("bagel-grpo.yaml" if is_gpu else "shapes.yaml"), CHANGES + LARGE * is_gpu + more)
    planned = Plan(recipe)
    parts = build(recipe)
    matrices, size = Matrices.of(parts[0]), sum(p.numel() for p in parts[0].parameters())
    lora = recipe.require_rl().lora
    assert lora is not None
    add_adapters(parts[0], lora, seed=0)
    sampling, sampling_gib, drawn = sample(recipe, parts, Stopwatch(torch.device(DEVICE)))
    console.print(f"sampled: {sampling}, {sampling_gib:.1f} GiB")
    learning, learning_gib, packs = learn(recipe, parts, drawn)
    leave()

    card = torch.cuda.get_device_name() if is_gpu else "no GPU at hand: one CPU thread"
    peak = next((flops for name, flops in PEAKS.items() if name in card), float("nan"))
    texts, images = sum(len(text.ids) for t in drawn for text in t.texts), sum(t.turns for t in drawn)
    pixels = " x ".join(map(str, recipe.sampling.image_size))
    how, points, tokens = recipe.sampling, recipe.rl_sampling.points, sum(pack.tokens for pack in packs)
    through = Sampled.of(recipe, how.turns, points, None, lambda turn: BATCH)
    written = texts / (BATCH * how.turns * how.max_text_tokens)
    drawing = matrices.flops(through.text) * written + matrices.flops(through.images)
    # a backward through frozen matrices has no gradient of theirs to compute: it costs one forward, not two
    forwards = 2 + (recipe.engine.dtype == "bf16") + recipe.engine.activation_checkpointing
    replaying = forwards * sum(matrices.flops(Workload.of(pack)) for pack in packs)
    speeds = (drawing / sampling["whole"], replaying / learning["whole"])
    rows = [
        ("", "sampling", "one LoRA step"), ("---",) * 3,
        ("seconds", f"{sampling['whole']:.2f}", f"{learning['whole']:.2f} (optimizer {learning['optimizer']:.3f})"),
        ("tokens/s", f"{texts / sampling['texts']:,.0f} while texts are written", f"{tokens / learning['whole']:,.0f}"),
        ("images/s", f"{images / sampling['images']:.2f} while they are drawn", f"{images / learning['whole']:.2f}"),
        ("10^12 operations/s", *(f"{speed / 1e12:.3g}" for speed in speeds)),
        ("share of the card's matrix peak", *(f"{speed / peak:.1%}" if is_gpu else "-" for speed in speeds)),
        ("peak memory, GiB" + (not is_gpu) * " (the process)", f"{sampling_gib:.1f}", f"{learning_gib:.1f}"),
        ("`irg-rl plan` says, GiB", *(f"{planned.place(name).peak / 2**30:.1f}" for name in (ROLLOUT, LEARNER))),
    ]  # fmt: skip
    changed = "".join(f", `{change}`" for change in more)
    said = [
        "# Rehearsal", "", f"`python -m benchmarks.rehearsal` ({commit}), {date.today()}, {card}. Random weights of",
        "BAGEL-7B-MoT's sizes:" if is_gpu else "**the sizes of configs/shapes.yaml, not of BAGEL**:",
        f"{size / 1e6:,.1f} M parameters, {recipe.engine.dtype}{changed}. {BATCH} trajectories of {how.turns} turns:",
        f"{texts:,} text tokens, {images} images of {pixels} pixels in {points - 1} steps each.",
        f"Replayed are {tokens:,} tokens, noise blocks of the trained steps included.", "",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]  # fmt: skip
    planned_page = PAGE.read_text()[PAGE.read_text().index(BELOW) :]  # it was planned, not measured, and stays
    PAGE.write_text("\n".join(said) + "\n\n" + planned_page)
    console.print(PAGE.read_text(), markup=False)


if __name__ == "__main__":
    main()
