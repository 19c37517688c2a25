"""Checks of sampling: two turns with pictures, and whether the learner computes the sampler's log-probabilities."""

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from irg_rl.config import Recipe
from irg_rl.learner import ratio_check
from irg_rl.learner.ratio_check import LogprobDifference
from irg_rl.task import Pixels
from irg_rl.trajectory import Group, Modality, Trajectory
from irg_rl.verify.bench import Cost, Workbench
from irg_rl.verify.finding import GIB, Finding
from irg_rl.verify.known import LEAST_SMOOTHNESS
from irg_rl.verify.settings import PROMPT
from rollouts.evaluation import evaluation_sampler, evaluation_sampling
from rollouts.request import Request, never
from rollouts.sampler import Sampler

T = TypeVar("T")
SAMPLING, LEARNING, SFT = "sampling", "learning", "sft"
"""Kinds of work whose time and memory are compared with the plan."""
MEAN_IN_BF16 = {Modality.TEXT: 0.05, Modality.IMAGE: 1e-3}
"""Largest mean difference of log-probabilities in bf16: of a token in nats, and of a denoising step per number of the
latent. Sampler and learner add in another order, so bf16 has no strict limit. A velocity that is 2 % off moves the mean
of a step by about .007 of its standard deviation, and so its log-probability by some 1e-5. A wrong layout or wrong
weights change both by far more. The limits were chosen by this reckoning and not measured."""
FLATTEST = 1.0
"""Smallest standard deviation of the bytes of a drawn picture. Below it the picture is one plain colour."""


def generation(bench: Workbench, finding: Finding) -> None:
    """Think, draw, look, reflect, draw again, with the settings of the evaluation."""
    recipe = bench.recipe
    sampling = evaluation_sampling(recipe.sampling, recipe.evaluation)
    sampler = evaluation_sampler(bench.model(), sampling, recipe.evaluation, is_stop=never)
    [drawn] = sampler.sample([Request(PROMPT, 0, recipe.seed)], turns=2)
    images = [image.pixels.numpy() for image in drawn.images]
    finding.require("images", len(images), "2", len(images) == 2)
    flat = [float(image.std()) for image in images]
    finding.require("they show something", _list(flat), f"a spread of bytes of at least {FLATTEST:g}",
                    min(flat) >= FLATTEST)  # fmt: skip
    smooth = [smoothness(image) for image in images]
    expected = f"neighbours that correlate by at least {LEAST_SMOOTHNESS:g}"
    finding.require_if(bench.is_known, "they are no noise", _list(smooth), expected, min(smooth) >= LEAST_SMOOTHNESS)
    words = [len(text.text.split()) for text in drawn.texts]
    finding.require("texts", len(words), "2", len(words) == 2)
    finding.require_if(bench.is_known, "they have words", _list(words), "both at least 1", min(words) > 0)
    finding.facts |= {"prompt": PROMPT.text}
    for name, text in zip(("think text", "reflection"), drawn.texts):
        finding.facts[name] = text.text + ("" if text.finished else " ... (cut off at the limit)")
    finding.pictures += [(f"image {number + 1}", image) for number, image in enumerate(images)]


def smoothness(image: Pixels) -> float:
    """Return the correlation of horizontally neighbouring bytes of an image. It is 0 for an image of one colour."""
    left, right = image[:, :-1].astype(float).ravel(), image[:, 1:].astype(float).ravel()
    return float(np.corrcoef(left, right)[0, 1]) if left.std() and right.std() else 0.0


def parity(bench: Workbench, finding: Finding) -> None:
    """Draw a group as RL does, and compare its log-probabilities with those that the learner computes."""
    bench.group = Group(0, PROMPT, draw_group(bench, iteration=0))
    found = differences(bench, bench.group.trajectories)
    require_parity(bench.recipe, found, finding)


def draw_group(bench: Workbench, iteration: int) -> list[Trajectory]:
    """Draw one group with the settings of RL, and record the time and the memory."""
    recipe, held = bench.recipe, bench.model()
    rl = recipe.require_rl()
    sampler = Sampler(held.model, held.autoencoder, held.tokenizer, recipe.rl_sampling, noise=rl.noise)
    requests = [Request(PROMPT, sample, recipe.rl_seed + iteration, iteration) for sample in range(rl.group_size)]
    return timed(bench, SAMPLING, lambda: sampler.sample(requests))


def timed(bench: Workbench, name: str, work: Callable[[], T]) -> T:
    """Do the work, record its time and its largest memory on the GPU under `name`, and return its result."""
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    result = work()
    if has_gpu:
        torch.cuda.synchronize()
    gib = torch.cuda.max_memory_allocated() / GIB if has_gpu else None
    bench.measured[name] = Cost(time.perf_counter() - begin, gib)
    return result


def differences(bench: Workbench, trajectories: list[Trajectory]) -> list[LogprobDifference]:
    """Return how far the learner's log-probabilities are from the sampled ones, by modality, turn and step."""
    learner = bench.learner()
    settings = learner.settings
    return ratio_check.check(
        learner.engine, learner.context.packs(trajectories), trajectories, settings.law,
        settings.algorithm.clip_image, strict=False,
    )  # fmt: skip


def require_parity(recipe: Recipe, found: list[LogprobDifference], finding: Finding, when: str = "") -> None:
    """Require for texts and for images that all differences are within their limits."""
    for modality in Modality:
        own = [difference for difference in found if difference.modality == modality]
        what = f"log-probabilities of {modality}s{when}"
        if not own:
            finding.require(what, "none were sampled", "some", False)
            continue
        mean = sum(d.total for d in own) / sum(d.count for d in own)
        worst = max(own, key=lambda d: d.largest / d.limit)
        if recipe.engine.dtype == "fp32":
            finding.require(what, f"{worst.largest:.1e} apart at most", f"at most {worst.limit:.0e}", not worst.exceeds)
        else:
            limit = MEAN_IN_BF16[modality]
            finding.require(what, f"{mean:.1e} apart on average, {worst.largest:.1e} at most",
                            f"at most {limit:.0e} on average in bf16", mean <= limit)  # fmt: skip


def _list(values: list[float] | list[int]) -> str:
    return ", ".join(f"{value:.2f}" if isinstance(value, float) else str(value) for value in values)
