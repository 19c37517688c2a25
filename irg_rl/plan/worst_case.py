"""The longest trajectories, packs and contexts that a recipe allows: all texts have their maximal length, and every
turn draws an image. They are built with the run's own code, from pictures that contain only zeros.

A recipe does not say how long its prompts are. So a prompt is assumed to have PROMPT_TOKENS tokens, and a system prompt
to have one token per CHARACTERS_PER_TOKEN characters.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from irg_rl.algorithms.base import algorithm_of
from irg_rl.config import Dropout, GuidanceRecipe, Recipe, Stage
from irg_rl.flow import bagel_grid
from irg_rl.learner.replay import Replay
from irg_rl.model.config import ModelConfig
from irg_rl.model.flops import Workload
from irg_rl.model.layout import BOUNDARY_TOKENS
from irg_rl.model.pack import Pack, PackBuilder, SpecialIds
from irg_rl.trajectory import ImageSegment, Prompt, Segment, TextSegment, Trajectory
from rollouts.drawing import window
from rollouts.images import vit_resize
from rollouts.request import Request
from sft.encode import EncodedImage, EncodedRow, EncodedText
from sft.packing import RowLayout

PROMPT_TOKENS = 64
CHARACTERS_PER_TOKEN = 4
SPECIAL = SpecialIds(0, 1, 2, 3)
TOKEN = 4
"""The id of a token that is not special."""
NO_DROPOUT = Dropout(image=0, last_text=0, all_text=0)


def encode(text: str) -> list[int]:
    """Return placeholder token ids for a text, all with the same value. Only their number matters: one id for every
    CHARACTERS_PER_TOKEN characters, rounded up."""
    return [TOKEN] * -(-len(text) // CHARACTERS_PER_TOKEN)


PROMPT = "x" * (PROMPT_TOKENS * CHARACTERS_PER_TOKEN)


@dataclass(frozen=True)
class Sizes:
    """The token grids of one image, each as (height, width) in tokens: `grid` for latent tokens, `patch_grid` for
    vision patches."""

    grid: tuple[int, int]
    patch_grid: tuple[int, int]

    @classmethod
    def of(cls, recipe: Recipe) -> "Sizes":
        height, width = recipe.sampling.image_size
        side, patch = recipe.model.pixels_per_token, recipe.model.vit.patch_size
        seen = vit_resize(recipe.model).size(width, height)
        return cls((height // side, width // side), (seen[1] // patch, seen[0] // patch))

    @property
    def latents(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def patches(self) -> int:
        return self.patch_grid[0] * self.patch_grid[1]


def trained_steps(recipe: Recipe) -> int:
    """Return the number of flow times at which RL trains an image. If the algorithm trains recorded denoising steps,
    this is the number of denoising steps that add noise. Otherwise, it is the number of noise levels per image in the
    loss."""
    algorithm = algorithm_of(recipe)
    if not algorithm.records_steps:
        return algorithm.levels_per_image
    return len(window(recipe.require_rl().noise, recipe.rl_sampling.points, seed=0, iteration=0))


def longest_trajectory(recipe: Recipe) -> Trajectory:
    sizes, sampling = Sizes.of(recipe), recipe.sampling
    steps, shape = trained_steps(recipe), (sizes.latents, recipe.model.latent_dim)
    states, times = torch.zeros(steps, *shape), torch.linspace(1.0, 0.5, steps)
    segments: list[Segment] = []
    for turn in range(sampling.turns):
        ids = torch.full((sampling.max_text_tokens,), TOKEN)
        segments.append(TextSegment(turn, ids, torch.zeros(len(ids)), "", finished=False))
        pixels = torch.zeros(*sampling.image_size, 3, dtype=torch.uint8)
        segments.append(ImageSegment(turn, pixels, states[0], states, states, states, times, times, times, sizes.grid))
    return Trajectory(Prompt("longest", PROMPT), 0, segments, history=sampling.history)


def longest_tree(recipe: Recipe) -> list[Trajectory]:
    """Return trajectories of maximal length that begin with the same text and separate at the forks of the recipe. A
    fork is a point where one trajectory is continued in several ways. Two trajectories share all segments (texts and
    images) before the fork at which they separate. If the recipe has no forks, the list has one trajectory."""
    longest, made = longest_trajectory(recipe), {}
    tree = []
    for sample in range(recipe.require_rl().leaves):
        request = Request(longest.prompt, sample, forks=recipe.require_rl().forks)
        keys = [(request.owner(segment.turn), place) for place, segment in enumerate(longest.segments)]
        segments = [made.setdefault(key, replace(segment)) for key, segment in zip(keys, longest.segments)]
        tree.append(replace(longest, sample=sample, segments=segments))
    return tree


def replay_packs(recipe: Recipe) -> list[Pack]:
    """Return the packs (batches of token sequences) that one learner rank trains in one minibatch of RL, the longest
    first. Raises InputError if the setting max_pack_tokens is too small."""
    rl = recipe.require_rl()
    replay = Replay(
        recipe.model, SPECIAL, encode, system_prompt=recipe.sampling.system_prompt, max_pack_tokens=rl.max_pack_tokens
    )
    if (pairs := algorithm_of(recipe).pairs_per_group) is not None:
        longest, count = longest_trajectory(recipe), -(-rl.groups * 2 * pairs // rl.minibatches)
        trajectories = [replace(longest, segments=[replace(s) for s in longest.segments]) for _ in range(count)]
    else:
        trunks = -(-rl.groups * rl.group_size // rl.leaves // rl.minibatches)
        trajectories = [trajectory for _ in range(trunks) for trajectory in longest_tree(recipe)]
    return [made.pack for made in replay.packs(trajectories, 0, recipe.engine.learner_ranks)]


def sft_pack(recipe: Recipe, stage: Stage) -> Pack:
    """Return a full pack (batch of token sequences) of the SFT stage. A row is one training sequence. The pack gets, in
    this order:

    - as many refinement rows as fit (a think text, an image in the context, a reflection and a target image)
    - rows with a first image as the target
    - one text that fills the rest

    The first row is used even if it does not fit.
    """
    sizes, sampling, model = Sizes.of(recipe), recipe.sampling, recipe.model
    system = encode(sampling.system_prompt) if sampling.system_prompt else None
    layout = RowLayout(NO_DROPOUT, stage.noise_blocks_by_kind, model.timestep_shift, system)
    text = _text(sampling.max_text_tokens)
    prompt = EncodedText(torch.tensor(encode(PROMPT)), loss=False)
    refinement = [prompt, text, _image(model, sizes, target=False), text, _image(model, sizes, target=True)]
    first = [prompt, text, _image(model, sizes, target=True)]
    rows, left = [], stage.tokens_per_pack
    for row in (refinement, first):
        cost = _tokens(row, layout)
        while cost <= stage.max_row_tokens and (cost <= left or not rows):
            rows.append(row)
            left -= cost
    if (rest := left - layout.system_tokens - BOUNDARY_TOKENS) > 0 or not rows:
        rows.append([_text(max(rest, 1))])
    builder = PackBuilder(SPECIAL, model.max_latent_size, model.vit.max_patches_per_side)
    return layout.pack(builder, rows, torch.Generator().manual_seed(0)).pack


def _text(tokens: int) -> EncodedText:
    return EncodedText(torch.full((tokens,), TOKEN), loss=True)


def _image(model: ModelConfig, sizes: Sizes, target: bool) -> EncodedImage:
    latents = torch.zeros(sizes.latents, model.latent_dim)
    patches = None if target else torch.zeros(sizes.patches, model.vit.patch_dim)
    return EncodedImage(latents, latents, sizes.grid, patches, sizes.patch_grid, target, vae=not target)


def _tokens(row: EncodedRow, layout: RowLayout) -> int:
    total, refines = layout.system_tokens, False
    for item in row:
        if isinstance(item, EncodedText):
            total += len(item.ids) + BOUNDARY_TOKENS
            continue
        total += (len(item.mean) + BOUNDARY_TOKENS) * (layout.noise_blocks[refines] * item.target + item.vae)
        total += 0 if item.patches is None else len(item.patches) + BOUNDARY_TOKENS
        refines = refines or item.vae or item.patches is not None
    return total


@dataclass(frozen=True)
class Sampled:
    """How many forward passes the sampler needs, and how much work they are. The forward passes are counted for one
    trajectory: `text_tokens` (passes over one token), `prefills` (passes that put prompts and images into the context)
    and `velocities` (passes over one noisy image). `text` and `images` are the work. They are also for one trajectory.
    If the method `of` gets `rows`, they are for several trajectories instead. `capacity` is the number of tokens of the
    longest context."""

    text_tokens: int  # number of forward passes of one token
    prefills: int  # number of forward passes that put prompt, system prompt and images into the context
    velocities: int  # number of forward passes of one noisy image, including guidance branches
    capacity: int  # tokens of the longest context
    text: Workload
    images: Workload

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        turns: int,
        points: int,
        guidance: GuidanceRecipe | None,
        rows: Callable[[int], int] = lambda turn: 1,
    ) -> "Sampled":
        """Count the forward passes that sampling with a recipe needs, and their work. `turns` is the number of images
        of a trajectory. `points` is the number of time points of the denoising; a step goes from one point to the next.
        `guidance` has the settings of guidance; None means no guidance. `rows` is a function from a turn to the number
        of trajectories that are computed in this turn. Trajectories that separate only at a later fork count as one."""
        sizes, sampling = Sizes.of(recipe), recipe.sampling
        system = len(encode(sampling.system_prompt)) + BOUNDARY_TOKENS if sampling.system_prompt else 0
        prompt, written = PROMPT_TOKENS + BOUNDARY_TOKENS, sampling.max_text_tokens + BOUNDARY_TOKENS
        looked_at = sizes.latents + sizes.patches + 2 * BOUNDARY_TOKENS
        noisy = sizes.latents + BOUNDARY_TOKENS
        context = system + prompt
        think_end = context + written
        text = Workload(und=context, pairs=context**2) * rows(0)
        images = Workload()
        velocities = longest = 0
        for turn in range(turns):
            if turn:
                base = think_end if sampling.history == "last" else context
                und, gen = sizes.patches + 2 * BOUNDARY_TOKENS, sizes.latents
                pairs = looked_at * (base + looked_at)
                images += Workload(und, gen, sizes.patches, 0, pairs, sizes.patches**2) * rows(turn - 1)
                context = base + looked_at
            text += Workload(und=written, logits=written, pairs=written * (context + written // 2)) * rows(turn)
            context += written
            times = bagel_grid(points, sampling.shift).tolist()[:-1]
            branches = len(times) if guidance is None else guidance.model_calls(times, turn)
            velocities += branches
            drawn = Workload(und=BOUNDARY_TOKENS, gen=sizes.latents, pairs=noisy * (context + noisy))
            images += drawn * (branches * rows(turn))
            longest = max(longest, context)
        prefills = 1 + (system > 0) + (turns - 1)
        return cls(written * turns, prefills, velocities, longest, text, images)
