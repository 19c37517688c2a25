"""Train the small scorers that a run makes for itself, on examples of its task. First a tiny CLIP is trained, then a
tiny HPS that starts from this CLIP.

Each training gives the same result if it is repeated with the same seed (on one machine and with one number of
threads). Each training writes a folder that `rewards.openclip.load` can open. It reports its progress with
`progress(step, steps, metrics)`.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from irg_rl.task import Ranking, ScorerExamples
from rewards import openclip
from rewards.hps import letterbox_batch
from rewards.openclip import TwoTower

Progress = Callable[[int, int, dict[str, float]], None]
ExamplesOf = Callable[[int], ScorerExamples]
"""Type of a function that takes a seed and returns the stream of training examples (pictures with prompts) for this
seed."""

MAX_LOGIT_SCALE = math.log(100)  # CLIP's own bound: beyond it training becomes unstable
HELD_OUT_SEED = 1_000_003  # added to the seed to get held-out data


def quiet(step: int, steps: int, metrics: dict[str, float]) -> None:
    """Do nothing. This is the default value of the argument `progress`."""


def train_clip(
    folder: str | Path,
    examples_of: ExamplesOf,
    steps: int = 600,
    batch_size: int = 64,
    learning_rate: float = 7e-4,
    seed: int = 0,
    held_out: int = 512,
    progress: Progress = quiet,
) -> dict[str, float]:
    """Train a new tiny CLIP by contrastive learning, and write it into `folder`. The training data are pictures with
    captions, and copies of these pictures with one defect. `examples_of` takes a seed and returns a stream of such
    data.

    Returns a dict with one number, `matching`. Each prompt has a right picture and a copy of it with one defect.
    `matching` is the share of prompts for which the right picture has the nearer CLIP features (by chance: .5). It is
    measured on `held_out` pictures that were not used for training. A learning rate of 3e-3 is too high: the loss stays
    at the level of guessing.
    """
    examples = examples_of(seed)
    tower = openclip.create_tiny(folder, examples.words(), seed)
    preprocess = openclip.clip_preprocess(tower.size)
    contrastive = open_clip.ClipLoss()
    optimizer, schedule = make_optimizer(tower.model, steps, learning_rate)
    tower.model.train()
    for step in range(steps):
        images, captions = examples.captioned(batch_size)
        pixels = torch.stack([preprocess(image) for image in images])
        image_features = tower.model.encode_image(pixels, normalize=True)
        text_features = openclip.encode_text(tower.model, tower.tokenizer(captions))
        loss = contrastive(image_features, text_features, tower.model.logit_scale.exp())
        take_step(tower.model, optimizer, schedule, loss)
        progress(step + 1, steps, {"loss": loss.item()})
    tower.model.eval()
    openclip.save(folder, tower)
    return {"matching": matching(tower, examples_of(seed + HELD_OUT_SEED), held_out)}


def train_hps(
    folder: str | Path,
    clip_folder: str | Path,
    examples_of: ExamplesOf,
    steps: int = 600,
    batch_size: int = 32,
    learning_rate: float = 5e-4,
    seed: int = 0,
    held_out: int = 256,
    progress: Progress = quiet,
) -> dict[str, float]:
    """Train the tiny HPS as HPSv2 was trained, and write it into `folder`. The training starts from the tiny CLIP in
    `clip_folder`. This model is fine-tuned to predict which of two pictures of a prompt was preferred. The prediction
    is softmax(scale * cosine) over the two pictures.

    The training data are rankings. A ranking has one prompt, several pictures for it, and how much each picture is
    preferred. `examples_of` takes a seed and returns a stream of rankings. Each training step uses all picture pairs of
    `batch_size` rankings.

    Returns a dict with two shares, measured on `held_out` rankings that were not used for training:
    * `held_out_agreement`: the share of picture pairs in which the preferred picture has the higher HPS score.
    * `verifier_disagreement`: the share of picture pairs that HPS and the verifier (the task's own judgement) put in
      different orders. Pairs to which the verifier gives equal scores are not counted.
    """
    tower = openclip.load(clip_folder)
    examples = examples_of(seed)
    fit_scale(tower, examples.rankings(128))
    optimizer, schedule = make_optimizer(tower.model, steps, learning_rate)
    tower.model.train().requires_grad_(True)
    for step in range(steps):
        loss = preference_loss(tower, examples.rankings(batch_size))
        take_step(tower.model, optimizer, schedule, loss)
        progress(step + 1, steps, {"loss": loss.item()})
    tower.model.eval().requires_grad_(False)
    Path(folder).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(clip_folder) / openclip.MERGES, Path(folder) / openclip.MERGES)
    openclip.save(folder, tower, {"resize_mode": "longest", "fill_color": 0})
    return agreement(tower, examples_of(seed + HELD_OUT_SEED).rankings(held_out))


def cosines(tower: TwoTower, rankings: Sequence[Ranking]) -> Float[Tensor, "B K"]:
    """Return one row per ranking. A ranking is a prompt with K pictures. Its row has K numbers: the cosines between the
    features of the prompt and of each picture. Gradients can flow through the result."""
    images = np.stack([image for ranking in rankings for image in ranking.images])
    features = tower.model.encode_image(letterbox_batch(images, tower.size), normalize=True)
    texts = openclip.encode_text(tower.model, tower.tokenizer([ranking.prompt.text for ranking in rankings]))
    return torch.einsum("bkd,bd->bk", features.unflatten(0, (len(rankings), -1)), texts)


def differences(values: Float[Tensor, "B K"]) -> Float[Tensor, "B*P"]:
    """Return value_i - value_j for all pairs i < j in each row, as one flat tensor. A row has K values and so P = K (K
    - 1) / 2 pairs."""
    first, second = torch.triu_indices(values.shape[1], values.shape[1], offset=1)
    return (values[:, first] - values[:, second]).flatten()


def preference_loss(tower: TwoTower, rankings: Sequence[Ranking]) -> Float[Tensor, ""]:
    """Return the loss of the preference training of HPS. For each pair of pictures of one prompt, the loss is -log
    softmax(scale * cosine)[preferred], where the softmax is over the two pictures. So the softmax is a sigmoid of the
    difference of their logits. The result is the mean over all pairs."""
    logits = tower.model.logit_scale.exp() * differences(cosines(tower, rankings))
    preferred = differences(torch.tensor([ranking.liking for ranking in rankings])) > 0
    return binary_cross_entropy_with_logits(logits, preferred.float())


@torch.no_grad()
def fit_scale(tower: TwoTower, rankings: Sequence[Ranking]) -> None:
    """Set the logit scale of the model before the fine-tuning. The scale from the contrastive training is too large:
    with it, the model would be far too sure about pairs of pictures for one prompt. All powers of two from 1 to 128 are
    tried. The chosen power predicts the preferences in `rankings` best."""
    losses = {}
    for scale in (2.0**k for k in range(8)):
        tower.model.logit_scale.fill_(math.log(scale))
        losses[scale] = preference_loss(tower, rankings).item()
    tower.model.logit_scale.fill_(math.log(min(losses, key=lambda scale: losses[scale])))


def make_optimizer(
    model: open_clip.CLIP, steps: int, learning_rate: float
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return an AdamW optimizer with weight decay on matrices only, and its schedule: a short linear warm-up, then a
    cosine to zero."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), eps=1e-6)
    warmup = max(1, min(50, steps // 10))

    def factor(step: int) -> float:
        return min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def take_step(
    model: open_clip.CLIP,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    loss: Float[Tensor, ""],
) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


def matching(tower: TwoTower, examples: ScorerExamples, n: int) -> float:
    """Take `n` pictures from `examples`, two per prompt: the right picture, and a copy of it with one defect. Return
    the share of these prompts for which the right picture has the higher score."""
    images, captions = examples.captioned(n)
    preprocess = openclip.clip_preprocess(tower.size)
    prompts = [captions[i - i % 2] for i in range(len(images))]
    scores = tower.cosine(torch.stack([preprocess(image) for image in images]), prompts)
    return (scores[::2] > scores[1::2]).float().mean().item()


@torch.no_grad()
def agreement(tower: TwoTower, rankings: Sequence[Ranking]) -> dict[str, float]:
    """Return two shares of picture pairs. The two pictures of a pair belong to one ranking (one prompt).
    * `held_out_agreement`: the share of pairs in which the preferred picture gets the higher score from the model.
    * `verifier_disagreement`: the share of pairs that the model and the verifier (the task's own judgement) put in
      different orders. Pairs to which the verifier gives equal scores are not counted.
    """
    score = differences(cosines(tower, rankings))
    liking = differences(torch.tensor([ranking.liking for ranking in rankings]))
    graded = differences(torch.tensor([ranking.graded for ranking in rankings]))
    differs = graded != 0
    return {
        "held_out_agreement": ((score > 0) == (liking > 0)).float().mean().item(),
        "verifier_disagreement": ((score > 0) != (graded > 0))[differs].float().mean().item(),
    }
