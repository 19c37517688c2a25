"""What the benchmarks share: a model of the size of configs/shapes.yaml with random weights, and processor time."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from irg_rl.config import Recipe, load_recipe
from irg_rl.learner.replay import Replay
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.init import initialize
from irg_rl.model.pack import Pack
from irg_rl.model.tokenizer import TextTokenizer, train_tokenizer
from irg_rl.model.unified import UnifiedModel
from irg_rl.shapes_world import corpus
from irg_rl.trajectory import Segment, TextSegment, Trajectory
from rollouts.request import never
from rollouts.sampler import Sampler

T = TypeVar("T")
TEXT_TOKENS = 32
"""Length of a text: random weights hardly ever end one before the limit."""
TOLERANCE = 1e-5
"""Between log-probabilities of two ways to sample, and between gradients of two ways to learn."""
CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass
class Bench:
    """A model and what samples from it and replays it."""

    recipe: Recipe
    model: UnifiedModel
    vae: Autoencoder
    tokenizer: TextTokenizer

    @classmethod
    def make(cls) -> "Bench":
        torch.set_num_threads(1)
        recipe = load_recipe(CONFIGS / "shapes.yaml")
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = train_tokenizer(corpus(), recipe.model.llm.vocab_size, Path(folder))
        torch.manual_seed(0)
        model = initialize(UnifiedModel(recipe.model, tokenizer.special), 0, (3, 3), (3, 3))
        torch.nn.init.normal_(model.llm2vae.weight, std=0.1)
        return cls(recipe, model, Autoencoder(recipe.model.vae, recipe.model.latent_patch_size), tokenizer)

    def sampler(self, parts: dict[str, Any], **sampling: Any) -> Sampler:
        """`parts`: noise or guidance. `sampling`: settings on top of the recipe's."""
        settings = self.recipe.sampling.model_copy(update={"max_text_tokens": TEXT_TOKENS, **sampling})
        return Sampler(self.model, self.vae, self.tokenizer, settings, is_stop=never, **parts)

    @property
    def replay(self) -> Replay:
        return Replay(self.model.config, self.model.special, self.tokenizer.encode)

    def learn(self, packs: Sequence[Pack]) -> None:
        """Forward and backward; the loss is nothing, but reaches all that is wanted of the packs."""
        for pack in packs:
            output = self.model(pack)
            (output.logits.square().mean() + output.velocity.square().mean()).backward()
        self.model.zero_grad(set_to_none=True)

    @property
    def size(self) -> str:
        return f"{sum(p.numel() for p in self.model.parameters()) / 1e6:.1f} M parameters"


def timed(work: Callable[[], T], repeats: int = 2) -> tuple[float, T]:
    """The smallest number of seconds of processor time, which other processes on the machine do not change, and what
    came out."""
    taken, results = [], []
    for _ in range(repeats):
        began = time.process_time()
        results.append(work())
        taken.append(time.process_time() - began)
    return min(taken), results[-1]


def require_same_texts(one: Sequence[Trajectory], other: Sequence[Trajectory]) -> None:
    """ValueError where another token was drawn."""
    drawn = [[text.ids.tolist() for t in trajectories for text in t.texts] for trajectories in (one, other)]
    if drawn[0] != drawn[1]:
        raise ValueError("the two paths drew different texts")


def as_context(segment: Segment) -> Segment:
    """A copy that nothing is trained of."""
    if isinstance(segment, TextSegment):
        return replace(segment, logprobs=torch.full_like(segment.logprobs, torch.nan))
    return replace(segment, x=segment.x[:0])
