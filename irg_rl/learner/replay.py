"""Trajectories as packs: one packed forward gives every log-probability of every turn.

    prompt -> think -+-> NOISE blocks of image 0, one per trained step (leaves)
                     +-> clean 0 -> ViT 0 -> reflection 1 -+-> NOISE blocks of image 1
                     |                                      +-> clean 1 -> ...          (history full)
                     +-> clean 1 -> ViT 1 -> reflection 2 ...                           (history last)

Every noise block stands where its image was drawn and sees what the sampler saw: with `history = last` an image enters
the context right after the think text, with `full` after the text that asked for it. An image enters only if a later
turn exists. Pixels, clean latents and noisy states are constants.

A row is one trajectory. When it exceeds `max_pack_tokens` its noise blocks are spread over several rows that repeat the
context; its text is trained in the first of them only, so the gradients add up to those of one row. A segment that
siblings share is one object in several trajectories; it is trained in the first of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from irg_rl.errors import InputError
from irg_rl.model.config import ModelConfig
from irg_rl.model.layout import BOUNDARY_TOKENS
from irg_rl.model.pack import Pack, PackBuilder, SpecialIds
from irg_rl.model.transforms import Resize, vit_patches
from irg_rl.trajectory import ImageSegment, TextSegment, Trajectory


@dataclass(frozen=True)
class TextRef:
    """A sampled text in a pack."""

    trajectory: int
    segment: int
    block: int


@dataclass(frozen=True)
class StepsRef:
    """Trained steps of one image in a pack."""

    trajectory: int
    segment: int
    steps: tuple[int, ...]  # indices into the segment's S recorded steps
    blocks: tuple[int, ...]


@dataclass
class ReplayPack:
    pack: Pack
    texts: list[TextRef]
    images: list[StepsRef]


@dataclass
class _Share:
    """What one row carries of a trajectory."""

    trajectory: int
    tokens: int
    last_segment: int  # the context reaches up to here
    texts: set[int] = field(default_factory=set)  # segments whose text is trained
    steps: dict[int, list[int]] = field(default_factory=dict)  # segment -> steps


class Replay:
    """Builds packs the way the sampler built its contexts.

    `encode` turns prompt and system text into ids; `vit_resize` is the sampler's view of a drawn image (None: the
    nearest multiples of the ViT patch that its position table holds).
    """

    def __init__(
        self,
        config: ModelConfig,
        special: SpecialIds,
        encode: Callable[[str], list[int]],
        *,
        system_prompt: str = "",
        max_pack_tokens: int = 8192,
        vit_resize: Resize | None = None,
    ):
        self._config = config
        self._special = special
        self._encode = encode
        self._system = encode(system_prompt) if system_prompt else None
        self._max_tokens = max_pack_tokens
        patch = config.vit.patch_size
        self._resize = vit_resize or Resize(patch * config.vit.max_patches_per_side, min_side=patch, stride=patch)

    def packs(self, trajectories: Sequence[Trajectory], rank: int = 0, world_size: int = 1) -> list[ReplayPack]:
        """Packs of this rank. They depend on the trajectories alone, so all ranks together have those that one rank
        would have. Padding included no pack has more than `max_pack_tokens` tokens.

        Raises ValueError when a context alone is longer, naming the setting and the size it needs.
        """
        known: set[int] = set()
        shares = [share for index, t in enumerate(trajectories) for share in self._shares(index, t, known)]
        own = self._bins(shares)[rank::world_size]
        return [self._build(trajectories, shares) for shares in own]

    def _shares(self, index: int, trajectory: Trajectory, known: set[int]) -> list[_Share]:
        """The rows of a trajectory. `known`: segments trained already, by identity."""
        context = self._context_tokens(trajectory)
        last = len(trajectory.segments) - 1
        shares = [_Share(index, context[last], last)]
        self._require(context[last], trajectory)
        for place, segment in enumerate(trajectory.segments):
            if id(segment) in known:
                continue
            known.add(id(segment))
            if not isinstance(segment, ImageSegment):
                if was_sampled(segment):
                    shares[0].texts.add(place)
                continue
            size = segment.grid[0] * segment.grid[1] + BOUNDARY_TOKENS
            for step in range(segment.x.shape[0]):
                if shares[-1].tokens + size + _growth(shares[-1], context, place) > self._max_tokens:
                    self._require(context[place] + size, trajectory)
                    shares.append(_Share(index, context[place], place))
                share = shares[-1]
                share.tokens += size + _growth(share, context, place)
                share.last_segment = max(share.last_segment, place)
                share.steps.setdefault(place, []).append(step)
        return shares

    def _context_tokens(self, trajectory: Trajectory) -> list[int]:
        """Tokens of the context in which each segment ends, without noise blocks. (An image enters the context only
        with the segment after it.)"""
        total = len(self._encode(trajectory.prompt.text)) + BOUNDARY_TOKENS
        total += 0 if self._system is None else len(self._system) + BOUNDARY_TOKENS
        found = []
        seen = 0
        for segment in trajectory.segments:
            total += seen
            seen = 0
            if isinstance(segment, TextSegment):
                total += len(open_ids(segment, self._special.eos)) + BOUNDARY_TOKENS
            else:
                seen = self._image_tokens(segment)
            found.append(total)
        return found

    def _image_tokens(self, image: ImageSegment) -> int:
        height, width = image.pixels.shape[:2]
        size = self._resize.size(width, height)
        patches = (size[0] // self._config.vit.patch_size) * (size[1] // self._config.vit.patch_size)
        return image.grid[0] * image.grid[1] + patches + 2 * BOUNDARY_TOKENS

    def _require(self, tokens: int, trajectory: Trajectory) -> None:
        if tokens > self._max_tokens:
            raise InputError(
                f"sample {trajectory.sample} of prompt {trajectory.prompt.id!r} needs {tokens} tokens in one pack; "
                f"max_pack_tokens is {self._max_tokens}: raise it, or lower turns, image size or text length"
            )

    def _bins(self, shares: list[_Share]) -> list[list[_Share]]:
        """Longest first; a pack is padded to its first row."""
        bins: list[list[_Share]] = []
        for share in sorted(shares, key=lambda s: -s.tokens):
            if bins and (len(bins[-1]) + 1) * bins[-1][0].tokens <= self._max_tokens:
                bins[-1].append(share)
            else:
                bins.append([share])
        return bins

    def _build(self, trajectories: Sequence[Trajectory], shares: list[_Share]) -> ReplayPack:
        builder = PackBuilder(self._special, self._config.max_latent_size, self._config.vit.max_patches_per_side)
        texts: list[TextRef] = []
        images: list[StepsRef] = []
        for share in shares:
            builder.new_row()
            self._add_row(builder, trajectories[share.trajectory], share, texts, images)
        return ReplayPack(builder.build(touch_all=True), texts, images)

    def _add_row(
        self,
        builder: PackBuilder,
        trajectory: Trajectory,
        share: _Share,
        texts: list[TextRef],
        images: list[StepsRef],
    ) -> None:
        parent = None if self._system is None else builder.add_text(self._system)
        parent = builder.add_text(self._encode(trajectory.prompt.text), parent)
        think = parent
        for place, segment in enumerate(trajectory.segments[: share.last_segment + 1]):
            if isinstance(segment, TextSegment):
                trained = place in share.texts
                ids = open_ids(segment, self._special.eos)
                parent = builder.add_text(ids, parent, loss=trained, eos_target=segment.finished)
                if trained:
                    texts.append(TextRef(share.trajectory, place, parent))
                if segment.turn == 0:
                    think = parent
                continue
            steps = share.steps.get(place, [])
            blocks = [builder.add_noise(segment.x[s], float(segment.t[s]), segment.grid, parent) for s in steps]
            if steps:
                images.append(StepsRef(share.trajectory, place, tuple(steps), tuple(blocks)))
            if place < share.last_segment:
                above = think if trajectory.history == "last" else parent
                clean = builder.add_clean(segment.latent, segment.grid, above)
                patches, grid = vit_patches(self._resize(segment.pixels), self._config.vit.patch_size)
                parent = builder.add_vit(patches, grid, clean)


def open_ids(segment: TextSegment, eos: int):
    """A text's ids without the closing eos, which the layout adds."""
    return segment.ids[:-1] if segment.finished and len(segment.ids) and int(segment.ids[-1]) == eos else segment.ids


def was_sampled(segment: TextSegment) -> bool:
    """False for a text that was given to the sampler: it has no log-probabilities."""
    return len(segment.ids) > 0 and not bool(segment.logprobs.isnan().any())


def idle_pack(config: ModelConfig, special: SpecialIds) -> Pack:
    """The smallest pack that touches every module: for ranks without work."""
    builder = PackBuilder(special, config.max_latent_size, config.vit.max_patches_per_side)
    builder.add_text([special.eos], loss=True)
    return builder.build(touch_all=True)


def _growth(share: _Share, context: list[int], place: int) -> int:
    """Context tokens that a row needs in addition to carry a step of segment `place`."""
    return max(0, context[place] - context[share.last_segment])
