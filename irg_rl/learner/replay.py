"""Build packs from trajectories (sampled answers: text, image, text, image, ...). A pack is the input of one forward
pass, which gives the log-probabilities of all turns.

    prompt -> think -+-> NOISE blocks of image 0, one per trained denoising step
                     +-> clean 0 -> ViT 0 -> reflection 1 -+-> NOISE blocks of image 1
                     |                                      +-> clean 1 -> ...          (history full)
                     +-> clean 1 -> ViT 1 -> reflection 2 ...                           (history last)

A block is the tokens of one text or image. In the picture, "clean k" has the latents of the finished image k, and "ViT
k" has its patches for the vision tower. A NOISE block has the noisy latents of an image at one denoising step. It
attends to exactly the context that the sampler had when it drew the image. No other block attends to it.

A finished image enters the context only if a later turn exists. The setting `history` says where it enters. With
`last`, the image follows the think text directly. With `full`, the image follows its own text: the think text or the
reflection that it was drawn from. Pixels, clean latents and noisy latents are constants: no gradient flows through
them.

A row of a pack is one token sequence. It holds a single trajectory, or several trajectories that begin with the same
segments (texts and images) and continue differently. A segment is shared if several trajectories hold it as the same
Python object. The blocks of a shared segment are in the row only once, and all its continuations follow this one copy.
A shared segment is trained only as a part of the first trajectory that has it. Different continuations of one segment
cannot attend to each other.

A row has at most `max_pack_tokens` tokens. Trajectories that do not fit go into another row, which repeats the shared
context. If a single trajectory is too long, its NOISE blocks are spread over several rows that repeat its context.
Every text and every denoising step is trained in exactly one row. So the sum of the gradients is the same as with one
long row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from irg_rl.errors import InputError
from irg_rl.model.config import ModelConfig
from irg_rl.model.layout import BOUNDARY_TOKENS
from irg_rl.model.pack import Pack, PackBuilder, SpecialIds
from irg_rl.model.transforms import Resize, vit_patches
from irg_rl.trajectory import ImageSegment, TextSegment, Trajectory, forks, trees


@dataclass(frozen=True)
class TextRef:
    """Says where a sampled text is, in the trajectories and in a pack (the input of one forward pass). `trajectory` is
    the index of the trajectory. `segment` is the index of the text among the texts and images of the trajectory. The
    tokens of the text are one block in the pack, and `block` is the number of this block."""

    trajectory: int
    segment: int
    block: int

    def of(self, trajectories: Sequence[Trajectory]) -> TextSegment:
        """Return the text segment that this reference points to. `trajectories` must be the list that the reference was
        made for, because the field `trajectory` is an index in this list."""
        return trajectories[self.trajectory].text(self.segment)


@dataclass(frozen=True)
class StepsRef:
    """Says where the trained denoising steps of one image are, in the trajectories and in a pack (the input of one
    forward pass). `trajectory` is the index of the trajectory. `segment` is the index of the image among the texts and
    images of the trajectory. `steps` has the indices of the steps. Each step has a noise block (the tokens of the noisy
    image) in the pack. `blocks` has the numbers of these noise blocks."""

    trajectory: int
    segment: int
    steps: tuple[int, ...]  # indices of the trained steps among the recorded steps of the segment
    blocks: tuple[int, ...]

    def of(self, trajectories: Sequence[Trajectory]) -> ImageSegment:
        """Return the image segment that this reference points to. `trajectories` must be the list that the reference
        was made for, because the field `trajectory` is an index in this list."""
        return trajectories[self.trajectory].image(self.segment)


@dataclass
class ReplayPack:
    pack: Pack
    texts: list[TextRef]
    images: list[StepsRef]


ContextTokens = list[dict[int, int]]
"""The context of each segment (text or image) of a trajectory, with its token counts. The list has one dict for each
segment. The dict has one entry for each part of the context: the prompt (key 0), the earlier segments and, if the
segment is a text, the segment itself (key `id(segment)`). The value is the number of tokens of this part."""


@dataclass
class _RowContents:
    """Says which segments of which trajectories are in one row (one token sequence of a pack)."""

    tokens: int = 0
    context: dict[int, int] = field(default_factory=dict)  # part of the context that is in the row -> its tokens
    ends: dict[int, int] = field(default_factory=dict)  # trajectory -> the last segment of its context
    texts: set[tuple[int, int]] = field(default_factory=set)  # (trajectory, segment) of every trained text
    steps: dict[tuple[int, int], list[int]] = field(default_factory=dict)  # (trajectory, segment) -> trained steps

    def growth(self, path: ContextTokens, place: int) -> int:
        """Return the number of tokens by which the row would grow if the context of segment number `place` were added.
        `path` holds the context of each segment of the trajectory. Parts of the context that are already in the row are
        not counted."""
        return sum(tokens for part, tokens in path[place].items() if part not in self.context)

    def reach(self, trajectory: int, path: ContextTokens, place: int) -> None:
        self.tokens += self.growth(path, place)
        self.context |= path[place]
        self.ends[trajectory] = max(self.ends.get(trajectory, -1), place)


class Replay:
    """Builds packs (inputs of one forward pass) from trajectories, so that the learner can compute the
    log-probabilities of sampled texts and denoising steps again. Every text and image has the same context as in the
    sampler.

    Args:
        encode: Converts the prompt text and the system text to token ids.
        vit_resize: How the sampler resizes an image for the vision tower. If this is None, both sides of the image
            become multiples of the ViT patch size, as close to the old sides as the position table of the ViT allows.
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
        """Return the packs (inputs of one forward pass) that this rank must compute for the given trajectories. Packs
        depend only on the trajectories. So all ranks together build the same packs as a single rank would. No pack has
        more than `max_pack_tokens` tokens, padding included.

        Raises InputError if the context of a trajectory alone is longer than `max_pack_tokens`. The message names the
        setting to change and the size that is needed.
        """
        known: set[int] = set()
        shares: list[_RowContents] = []
        first = 0
        for siblings in trees(trajectories):
            for whole in self._whole_rows(dict(enumerate(siblings, first))):
                shares += self._split(whole, trajectories, known)
            first += len(siblings)
        own = self._bins(shares)[rank::world_size]
        return [self._build(trajectories, shares) for shares in own]

    def lengths(self, trajectories: Sequence[Trajectory]) -> list[int]:
        """Return how many tokens each row (token sequence) would have if rows had no maximum length. Trajectories that
        begin with the same segment (text or image) are in one row together, and the shared tokens count once. The noisy
        states of images are counted too."""
        found = []
        for siblings in trees(trajectories):
            context: dict[int, int] = {}
            for trajectory in siblings:
                context |= self._path(trajectory)[-1]
            noise = {id(image): len(image.x) * _noise_tokens(image) for t in siblings for image in t.images}
            found.append(sum(context.values()) + sum(noise.values()))
        return found

    def _whole_rows(self, siblings: dict[int, Trajectory]) -> list[_RowContents]:
        """Distribute the trajectories of one tree over rows. Each row takes as many trajectories as fit, counted
        together with their noise blocks (noisy states of images)."""
        rows: list[_RowContents] = []
        planned: set[int] = set()
        noise = 0
        for number, trajectory in siblings.items():
            path, last = self._path(trajectory), len(trajectory.segments) - 1
            self._require(sum(path[last].values()), trajectory)
            fresh = [image for image in trajectory.images if id(image) not in planned]
            own = sum(len(image.x) * _noise_tokens(image) for image in fresh)
            if not rows or rows[-1].tokens + rows[-1].growth(path, last) + noise + own > self._max_tokens:
                rows.append(_RowContents())
                noise = 0
            noise += own
            planned |= set(map(id, fresh))
            rows[-1].reach(number, path, last)
        return rows

    def _split(self, whole: _RowContents, trajectories: Sequence[Trajectory], known: set[int]) -> list[_RowContents]:
        """Add the texts and the denoising steps that are trained to the row `whole`. Return this row, and further rows
        if not all steps fit. `known` has the ids of the segments that are already trained in some row; the new ones are
        added to it.
        """
        rows = [whole]
        for number in list(whole.ends):
            trajectory = trajectories[number]
            path = self._path(trajectory)
            for place, segment in enumerate(trajectory.segments):
                if id(segment) in known:
                    continue
                known.add(id(segment))
                if not isinstance(segment, ImageSegment):
                    if was_sampled(segment):
                        whole.texts.add((number, place))
                    continue
                size = _noise_tokens(segment)
                for step in range(segment.x.shape[0]):
                    if rows[-1].tokens + rows[-1].growth(path, place) + size > self._max_tokens:
                        self._require(sum(path[place].values()) + size, trajectory)
                        rows.append(_RowContents())
                    rows[-1].reach(number, path, place)
                    rows[-1].tokens += size
                    rows[-1].steps.setdefault((number, place), []).append(step)
        return rows

    def _path(self, trajectory: Trajectory) -> ContextTokens:
        begin = len(self._encode(trajectory.prompt.text)) + BOUNDARY_TOKENS
        begin += 0 if self._system is None else len(self._system) + BOUNDARY_TOKENS
        context = {0: begin}
        found: ContextTokens = []
        seen: dict[int, int] = {}
        for segment in trajectory.segments:
            context, seen = context | seen, {}
            if isinstance(segment, TextSegment):
                context = context | {id(segment): len(open_ids(segment, self._special.eos)) + BOUNDARY_TOKENS}
            else:
                seen = {id(segment): self._image_tokens(segment)}
            found.append(context)
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

    def _bins(self, shares: list[_RowContents]) -> list[list[_RowContents]]:
        """Distribute rows (token sequences) over packs (inputs of one forward pass), the longest row first, and return
        the rows of each pack. All rows of a pack are padded to the length of its first row."""
        bins: list[list[_RowContents]] = []
        for share in sorted(shares, key=lambda s: -s.tokens):
            if bins and (len(bins[-1]) + 1) * bins[-1][0].tokens <= self._max_tokens:
                bins[-1].append(share)
            else:
                bins.append([share])
        return bins

    def _build(self, trajectories: Sequence[Trajectory], shares: list[_RowContents]) -> ReplayPack:
        builder = PackBuilder(self._special, self._config.max_latent_size, self._config.vit.max_patches_per_side)
        texts: list[TextRef] = []
        images: list[StepsRef] = []
        for share in shares:
            builder.new_row()
            self._add_row(builder, trajectories, share, texts, images)
        return ReplayPack(builder.build(touch_all=True), texts, images)

    def _add_row(
        self,
        builder: PackBuilder,
        trajectories: Sequence[Trajectory],
        share: _RowContents,
        texts: list[TextRef],
        images: list[StepsRef],
    ) -> None:
        prompt = trajectories[next(iter(share.ends))].prompt.text
        root = None if self._system is None else builder.add_text(self._system)
        root = builder.add_text(self._encode(prompt), root)
        forked = forks(trajectories[number].segments[: last + 1] for number, last in share.ends.items())
        ends: dict[int, int] = {}  # id of a segment -> the block after which the next segment is placed
        drawn: set[int] = set()
        for number, last in share.ends.items():
            trajectory = trajectories[number]
            parent = think = root
            before = None
            for place, segment in enumerate(trajectory.segments[: last + 1]):
                key = id(segment)
                if before in forked and key not in ends:
                    builder.new_branch()
                before = key
                if isinstance(segment, TextSegment):
                    if key not in ends:
                        ends[key] = self._add_text(builder, segment, parent, share, (number, place), texts)
                    parent = ends[key]
                    if segment.turn == 0:
                        think = parent
                    continue
                steps = [] if key in drawn else share.steps.get((number, place), [])
                drawn.add(key)
                if steps:
                    blocks = [builder.add_noise(segment.x[s], float(segment.t[s]), segment.grid, parent) for s in steps]
                    images.append(StepsRef(number, place, tuple(steps), tuple(blocks)))
                if place < last:
                    if key not in ends:
                        ends[key] = self._add_seen(builder, segment, think if trajectory.history == "last" else parent)
                    parent = ends[key]

    def _add_text(
        self,
        builder: PackBuilder,
        segment: TextSegment,
        parent: int,
        share: _RowContents,
        place: tuple[int, int],
        texts: list[TextRef],
    ) -> int:
        trained = place in share.texts
        ids = open_ids(segment, self._special.eos)
        block = builder.add_text(ids, parent, loss=trained, eos_target=segment.finished)
        if trained:
            texts.append(TextRef(*place, block))
        return block

    def _add_seen(self, builder: PackBuilder, image: ImageSegment, parent: int) -> int:
        """Add a generated image to the context of the segments after it: first its clean latent, then its patches for
        the vision tower. Return the number of the last block."""
        clean = builder.add_clean(image.latent, image.grid, parent)
        patches, grid = vit_patches(self._resize(image.pixels), self._config.vit.patch_size)
        return builder.add_vit(patches, grid, clean)


def open_ids(segment: TextSegment, eos: int):
    """Return the token ids of a text without a final end token (eos), because the pack layout adds eos to every
    text."""
    return segment.ids[:-1] if segment.finished and len(segment.ids) and int(segment.ids[-1]) == eos else segment.ids


def was_sampled(segment: TextSegment) -> bool:
    """Return whether a text was sampled by the model. Other texts were given to the model, and their
    log-probabilities are NaN. An empty text does not count as sampled."""
    return len(segment.ids) > 0 and not bool(segment.logprobs.isnan().any())


def idle_pack(config: ModelConfig, special: SpecialIds) -> Pack:
    """Return the smallest pack (input of one forward pass) that uses every module of the model. A process that has
    fewer packs than the others runs this pack instead."""
    builder = PackBuilder(special, config.max_latent_size, config.vit.max_patches_per_side)
    builder.add_text([special.eos], loss=True)
    return builder.build(touch_all=True)


def _noise_tokens(image: ImageSegment) -> int:
    """Return how many tokens one noisy state of this image (one denoising step) takes in a pack."""
    return image.grid[0] * image.grid[1] + BOUNDARY_TOKENS
