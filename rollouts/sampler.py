"""Sample trajectories in batches, with cached contexts: think, draw, look, reflect, draw again, ...

    turn 0:   think text -> image 0
    turn k:   the model sees image k-1 -> reflection k -> image k; no image if the reflection says "nothing to change"

The layout rules in irg_rl/model/layout.py say how a context grows. The learner follows the same rules when it puts
whole trajectories into one forward pass. So it computes the same policy as the sampler. Trajectories that have stopped
leave the batch. Every random number belongs to one trajectory (noise.py). So a trajectory does not depend on the other
trajectories in its batch. Only rounding can differ, because the matrix products have other shapes.

At a fork, several trajectories are continued from one shared beginning (Request.forks). If these trajectories are in
one batch, they use a single row of the batch until the turn of the fork. After the last shared image has entered the
context, the row is copied. From then on, each trajectory has its own row. The finished trajectories begin with the same
segment objects.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from irg_rl.config import GuidanceRecipe, NoiseRecipe, SamplingRecipe
from irg_rl.learner.policy import sampling_law
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.tokenizer import TextTokenizer
from irg_rl.model.transforms import Resize
from irg_rl.model.unified import UnifiedModel
from irg_rl.trajectory import ImageSegment, Segment, TextSegment, Trajectory
from rollouts.contexts import Contexts
from rollouts.drawing import Record, draw_images, window
from rollouts.images import ImageCodec, ImageContext
from rollouts.noise import Noise, Use, window_seed
from rollouts.request import Request, StopPhrase, Text
from rollouts.text import SampledText, sample_texts


class Sampler:
    """Samples trajectories from a model.

    Args:
        noise: Settings that say which denoising steps are noisy and are recorded. None means that all steps are ODE
            steps and that no step is recorded.
        guidance: Classifier-free guidance of images. None means no guidance.
        record_steps: Whether noisy steps are recorded. Set it to False for algorithms that train on the finished images
            (NFT, AWM, DPO). The sampling law (the distribution that is stored in each trajectory for the learner) then
            covers only the texts.
        is_stop: Function that takes a reflection and returns whether it ends the trajectory. If it is None, a
            reflection ends the trajectory if one of its sentences ends with `sampling.stop_phrase`.
        vit_resize: How images are resized for the vision tower. None means as in `images.vit_resize`.
    """

    def __init__(
        self,
        model: UnifiedModel,
        vae: Autoencoder,
        tokenizer: TextTokenizer,
        sampling: SamplingRecipe,
        *,
        noise: NoiseRecipe | None = None,
        guidance: GuidanceRecipe | None = None,
        record_steps: bool = True,
        is_stop: Callable[[str], bool] | None = None,
        vit_resize: Resize | None = None,
    ) -> None:
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.noise, self.guidance = noise, guidance
        self.is_stop = StopPhrase(sampling.stop_phrase) if is_stop is None else is_stop
        self.codec = ImageCodec(vae, model.config, vit_resize)
        self.device = model.latent_pos_embed.pos_embed.device
        side = model.config.pixels_per_token
        if any(length % side for length in sampling.image_size):
            raise ValueError(
                f"image_size {sampling.image_size} must be multiples of {side}, the pixels of a latent token"
            )
        if guidance is not None and guidance.image_scale > 1 >= guidance.text_scale:
            raise ValueError(
                f"image_scale {guidance.image_scale} with text_scale {guidance.text_scale}: images are guided only "
                "where text is; use a text_scale above 1, or 1 for both"
            )
        self.grid = vae.grid(*sampling.image_size)
        dtype = "bf16" if model.llm2vae.weight.dtype == torch.bfloat16 else "fp32"
        self.record_steps = record_steps
        if record_steps:  # one forward pass cannot replay a guided image, so it has no sampling law
            self.law = None if noise is None or guidance is not None else sampling_law(sampling, noise, dtype)
        else:
            self.law = sampling_law(sampling, None, dtype)

    def sample(
        self, requests: Sequence[Request], turns: int | None = None, batch_size: int | None = None
    ) -> list[Trajectory]:
        """Sample one trajectory per request, in the order of the requests.

        turns: largest number of images per trajectory. None: the number in the recipe.
        batch_size: number of requests per batch. None: all requests in one batch.
        """
        turns = self.sampling.turns if turns is None else turns
        if turns < 1:
            raise ValueError(f"turns is {turns}; a trajectory has at least 1 image")
        size = batch_size or max(len(requests), 1)
        batches = (requests[start : start + size] for start in range(0, len(requests), size))
        return [trajectory for batch in batches for trajectory in self._sample(batch, turns)]

    def _sample(self, requests: Sequence[Request], turns: int) -> list[Trajectory]:
        batch = _Batch(self, requests, turns)
        rows = torch.arange(len(batch.members))
        for turn in range(turns):
            if turn:
                batch.look_back(rows)
                rows = batch.branch(rows, turn)
            rows = batch.write(rows, turn)
            if not len(rows):
                break
            batch.draw(rows, turn)
        return batch.trajectories()


class _Batch:
    """The growing trajectories of one batch. Each row of the batch is one trajectory, or several siblings (trajectories
    that share their beginning) that have not yet reached the fork where they separate."""

    def __init__(self, sampler: Sampler, asked: Sequence[Request], turns: int) -> None:
        self.sampler, self.asked = sampler, asked
        self.members = _rows(asked, range(len(asked)), turn=0)
        self.done: dict[int, Trajectory] = {}
        self.requests = requests = [asked[members[0]] for members in self.members]
        self.segments: list[list[Segment]] = [[] for _ in requests]
        self.seen: list[ImageContext | None] = [None] * len(requests)
        self.stopped = [False] * len(requests)
        encode = sampler.tokenizer.encode
        prompts = [encode(r.prompt.text) for r in requests]
        system = encode(sampler.sampling.system_prompt) if sampler.sampling.system_prompt else None
        self.given = [{turn: self._ids(text) for turn in range(turns) if (text := r.text(turn)) is not None}
                      for r in requests]  # fmt: skip
        capacity = self._capacity(prompts, system, turns)
        self.contexts = Contexts(sampler.model, prompts, system, capacity, sampler.sampling.history, sampler.guidance)

    def write(self, rows: Int[Tensor, "R"], turn: int) -> Int[Tensor, "R"]:
        """Sample the think texts or the reflections of the rows, or use the given ones, and add them to the contexts.
        Returns the rows that continue. In the other rows, the text has stopped the trajectory."""
        contexts = self.contexts
        contexts.begin_text(turn)
        texts: dict[int, SampledText] = {}
        free = [row for row in rows.tolist() if turn not in self.given[row]]
        for row in rows.tolist():
            if turn in self.given[row]:
                ids = self.given[row][turn]
                texts[row] = SampledText(ids, torch.full(ids.shape, torch.nan), bool((ids[-1:] == self._eos).any()))
        if texts:
            given = sorted(texts)
            contexts.add_text(torch.tensor(given), [self._open(texts[row].ids) for row in given])
        if free:
            limit = self.sampler.sampling.max_text_tokens
            uniforms = torch.stack([self.requests[row].noise(turn).uniform(Use.TOKENS, limit, turn) for row in free])
            which = torch.tensor(free)
            temperature = self.sampler.sampling.temperature
            sampled = sample_texts(self.sampler.model, contexts.cache, which, uniforms, temperature)
            texts |= zip(free, sampled)
        contexts.end_text(rows, [self._open(texts[row].ids) for row in rows.tolist()], turn)
        for row in rows.tolist():
            self._append(row, self._text_segment(texts[row], turn))
        return torch.tensor([row for row in rows.tolist() if not self.stopped[row]], dtype=torch.long)

    def draw(self, rows: Int[Tensor, "R"], turn: int) -> None:
        """Draw the images of the rows, except images that are given. Then encode all images in the form in which the
        model sees them."""
        pixels: dict[int, Tensor] = {}
        drawn: dict[int, tuple[Tensor, Record]] = {}
        if turn == 0:
            pixels = {row: r.first_image for row, r in enumerate(self.requests) if r.first_image is not None}
        free = [row for row in rows.tolist() if row not in pixels]
        if free:
            latents, records = self._draw_latents(free, turn)
            # Copies, not views: each group is sent on its own, and a view would take the whole batch with it.
            pixels |= zip(free, (image.clone() for image in self.sampler.codec.decode(latents, self.sampler.grid)))
            finals = [latent.clone() for latent in latents.float().cpu()]
            drawn = dict(zip(free, zip(finals, records)))
        order = rows.tolist()
        noises = [self.requests[row].noise(turn) for row in order]
        looks = self.sampler.codec.encode([pixels[row] for row in order], noises, turn)
        for row, seen in zip(order, looks):
            final, record = drawn.get(row, (None, Record((seen.latent.shape[0], seen.latent.shape[1]))))
            segment = ImageSegment(
                turn=turn, pixels=pixels[row], latent=seen.latent, grid=seen.grid, drawn=final, **record.tensors()
            )
            self._append(row, segment)
            self.seen[row] = seen

    def look_back(self, rows: Int[Tensor, "R"]) -> None:
        """Add the last image of each row to its context."""
        self.contexts.add_images(rows, [self.seen[row] for row in rows.tolist()])

    def branch(self, rows: Int[Tensor, "R"], turn: int) -> Int[Tensor, "R"]:
        """Split rows of the batch at a fork. A row that several siblings shared is copied, so that siblings that
        separate in this turn have one row each. Returns the rows that continue, with their new numbers."""
        parted = [(row, members) for row in rows.tolist() for members in _rows(self.asked, self.members[row], turn)]
        if len(parted) == len(rows):
            return rows
        going_on = set(rows.tolist())
        for row in range(len(self.members)):
            if row not in going_on:
                self._finish(row)
        sources = [row for row, _ in parted]
        self.contexts.branch(torch.tensor(sources))
        self.members = [members for _, members in parted]
        self.requests = [self.asked[members[0]] for members in self.members]
        self.segments = [list(self.segments[row]) for row in sources]
        self.given = [self.given[row] for row in sources]
        self.seen = [self.seen[row] for row in sources]
        self.stopped = [False] * len(sources)
        return torch.arange(len(sources))

    def trajectories(self) -> list[Trajectory]:
        for row in range(len(self.members)):
            self._finish(row)
        return [self.done[number] for number in range(len(self.asked))]

    def _finish(self, row: int) -> None:
        """Create the finished trajectories of a row of the batch. If several requests share the row, each gets a
        trajectory with the same segments."""
        history, law = self.sampler.sampling.history, self.sampler.law
        for number in self.members[row]:
            request, segments = self.asked[number], list(self.segments[row])
            self.done[number] = Trajectory(
                request.prompt, request.sample, segments, history=history, stopped=self.stopped[row], law=law
            )

    def _draw_latents(self, rows: list[int], turn: int) -> tuple[Tensor, list[Record]]:
        sampler, grid = self.sampler, self.sampler.grid
        windows = [
            window(sampler.noise, sampler.sampling.points, window_seed(r.seed, r.prompt.id, turn), r.iteration)
            for r in (self.requests[row] for row in rows)
        ]
        return draw_images(
            self.contexts.drawing(grid, torch.tensor(rows), turn),
            (grid[0] * grid[1], sampler.model.config.latent_dim),
            [self.requests[row].noise(turn) for row in rows],
            [self._start(self.requests[row], turn) for row in rows],
            windows,
            turn,
            sampler.sampling,
            sampler.noise,
            sampler.device,
            sampler.record_steps,
        )

    def _start(self, request: Request, turn: int) -> Noise:
        """Return the random stream for the initial noise of an image. Each sample has a stream of its own. But if the
        noise setting `shared_start` is True, all samples of a group use the same stream, so their images of a turn
        start from the same noise."""
        settings = self.sampler.noise
        if settings is not None and settings.shared_start:
            return Noise(request.seed, request.prompt.id, 0)
        return request.noise(turn)

    def _text_segment(self, written: SampledText, turn: int) -> TextSegment:
        ids = self._open(written.ids).tolist()
        text = self.sampler.tokenizer.decode(ids)
        ends = self.sampler.tokenizer.ends(ids)
        ends += [len(text)] * (len(written.ids) - len(ids))  # the end-of-text token adds nothing
        ends = torch.tensor(ends, dtype=torch.int32)
        stop = turn > 0 and self.sampler.is_stop(text)
        return TextSegment(turn, written.ids, written.logprobs, text, written.finished, stop, ends=ends)

    def _append(self, row: int, segment: Segment) -> None:
        segments = self.segments[row]
        segment.parent = len(segments) - 1 if segments else None
        segments.append(segment)
        self.stopped[row] = isinstance(segment, TextSegment) and segment.stop

    @property
    def _eos(self) -> int:
        return self.sampler.model.special.eos

    def _ids(self, text: Text) -> Int[Tensor, "T"]:
        """Return the token ids of a given text. A string is a finished text, so an eos is added to it."""
        if isinstance(text, str):
            return torch.tensor([*self.sampler.tokenizer.encode(text), self._eos])
        return text

    def _open(self, ids: Int[Tensor, "T"]) -> Int[Tensor, "T"]:
        """Return the token ids `ids` without the eos at their end, if there is one."""
        return ids[:-1] if len(ids) and ids[-1] == self._eos else ids

    def _capacity(self, prompts: list[list[int]], system: list[int] | None, turns: int) -> int:
        """Return an upper bound on the context length of these requests, in tokens."""
        given = [len(ids) for texts in self.given for ids in texts.values()]
        text = max([self.sampler.sampling.max_text_tokens, *given]) + 2
        base = (0 if system is None else len(system) + 2) + max(map(len, prompts)) + 2 + text
        refinements = min(turns - 1, 1) if self.sampler.sampling.history == "last" else turns - 1
        return base + refinements * (text + self._image_tokens())

    def _image_tokens(self) -> int:
        """Return how many tokens the largest image of this batch takes in the context: latent tokens, patches and four
        boundary tokens."""
        given = [r.first_image for r in self.requests if r.first_image is not None]
        sizes = {(image.shape[0], image.shape[1]) for image in given}
        sampler = self.sampler
        return max(sampler.codec.tokens(size) for size in sizes | {sampler.sampling.image_size})


def _rows(asked: Sequence[Request], members: Sequence[int], turn: int) -> list[list[int]]:
    """Group requests into rows of the batch, and return the rows. `members` has the numbers of the requests in `asked`.
    Requests that share everything up to the end of the turn are in one row."""
    rows: list[list[int]] = []
    for number in members:
        row = next((row for row in rows if asked[row[0]].shares(asked[number], turn)), None)
        if row is None:
            rows.append([number])
        else:
            row.append(number)
    return rows
