"""DPO on trajectories: token DPO on the texts after a fork plus flow-DPO on the images after it.

A pair is one forward: its two trajectories stand in one pack, because its loss is not a sum over its tokens. The
segments that they share stand there as context alone; they carry no loss, and their log-probabilities, which are the
same on both sides, would cancel. Images that both have drawn in a turn are noised with the same noise and times and
compared; where one has stopped, the other's image has no counterpart and no loss.

Times are averaged inside a pair's margin, which is a mean over times; pairs are averaged after the log-sigmoid, for
texts over those that have texts to compare and for images over those that have images.

Letters: P pairs of a pack, T tokens, S noise levels of an image, N latent tokens, D numbers of a latent token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from irg_rl import credit
from irg_rl.algorithms.noising import times
from irg_rl.config import DPORecipe
from irg_rl.learner.policy import Scores, TextScore, evaluate_texts, velocities
from irg_rl.learner.replay import Replay, ReplayPack
from irg_rl.learner.update import Loss
from irg_rl.losses import preference
from irg_rl.losses.flow import aggregate
from irg_rl.model.unified import ModelOutput
from irg_rl.pairs import Pair, Pairs, find_pairs
from irg_rl.streams import stream
from irg_rl.trajectory import Group, ImageSegment, SamplingLaw, Segment, Trajectory

TEXT, IMAGE = "text", "image"
Sides = tuple[Trajectory, Trajectory]
"""The chosen and the rejected trajectory of a pair."""


@dataclass(frozen=True)
class Preferences:
    """Which trajectory is preferred: the one whose last image is worth more. A text that never ended costs it a
    penalty."""

    settings: DPORecipe
    weights: Mapping[str, float]  # of the scores in the weighted sum that is an image's reward
    malformed_penalty: float

    def pairs(self, groups: Sequence[Group]) -> Pairs:
        parts = [self._of(group) for group in groups]
        return Pairs([pair for part in parts for pair in part.found], sum(part.ties for part in parts))

    def _of(self, group: Group) -> Pairs:
        images = credit.combine(group, self.weights)
        values = [None if None in q else q[-1] - self._penalty(t) for t, q in zip(group.trajectories, images)]
        return find_pairs(group, values, self.settings.tie, self.settings.pairs_per_fork)

    def _penalty(self, trajectory: Trajectory) -> float:
        return self.malformed_penalty * any(not text.finished for text in trajectory.texts)


@dataclass
class PairPack:
    """Trajectories 2 p and 2 p + 1 of a pack are the chosen and the rejected one of its pair p."""

    replay: ReplayPack
    trajectories: list[Trajectory]

    @property
    def count(self) -> int:
        return len(self.trajectories) // 2

    @property
    def compared(self) -> dict[str, set[int]]:
        """The pairs that have sampled texts, and those that have images, to compare."""
        return {
            name: {ref.trajectory // 2 for ref in refs}
            for name, refs in ((TEXT, self.replay.texts), (IMAGE, self.replay.images))
        }


def fits(replay: Replay, sides: Sides, limit: int) -> bool:
    """Whether a pack of `limit` tokens, padding included, holds both sides of a pair, which are learned from in one."""
    lengths = replay.lengths(sides)
    return len(lengths) * max(lengths) <= limit


def pair_packs(
    replay: Replay, sides: Sequence[Sides], limit: int, rank: int = 0, world_size: int = 1
) -> list[PairPack]:
    """This rank's packs: as many pairs, each of which fits, as `limit` tokens hold, the longest first."""
    bins: list[list[Trajectory]] = []
    rows = longest = 0
    for lengths, pair in sorted(((replay.lengths(pair), pair) for pair in sides), key=lambda entry: -max(entry[0])):
        if not bins or (rows + len(lengths)) * longest > limit:
            bins.append([])
            rows, longest = 0, max(lengths)
        bins[-1] += pair
        rows += len(lengths)
    made = []
    for trajectories in bins[rank::world_size]:
        [pack] = replay.packs(trajectories)
        made.append(PairPack(pack, trajectories))
    return made


def minibatches(pairs: Sequence[Sides], parts: int) -> list[Sequence[Sides]]:
    """Contiguous parts of nearly equal size; never more than there are pairs."""
    count = min(parts, len(pairs))
    edges = [round(i * len(pairs) / max(count, 1)) for i in range(count + 1)]
    return [pairs[low:high] for low, high in zip(edges, edges[1:])]


def prepared(pair: Pair, settings: DPORecipe, shift: float, seed: int, update: int) -> Sides:
    """Both sides as packs take them: nothing of what they share is trained, and images of a turn are noised alike.

    Noise and times have the name (seed, update, group, chosen sample, rejected sample, turn).
    """
    shared = [_as_context(segment) for segment in pair.chosen.segments[: pair.fork]]
    name = (seed, update, pair.group, pair.chosen.sample, pair.rejected.sample)
    drawn = [_drawn(trajectory, pair.fork) for trajectory in (pair.chosen, pair.rejected)]
    noised = {
        turn: _noised(drawn[0][turn], drawn[1][turn], settings, shift, stream("dpo", *name, turn))
        for turn in sorted(drawn[0].keys() & drawn[1].keys())
    }
    sides = []
    for number, trajectory in enumerate((pair.chosen, pair.rejected)):
        own: list[Segment] = []
        for segment in trajectory.segments[pair.fork :]:
            if not isinstance(segment, ImageSegment):
                own.append(replace(segment))
            elif segment.turn in noised:
                own.append(noised[segment.turn][number])
            else:
                own.append(_as_context(segment))
        sides.append(replace(trajectory, segments=[*shared, *own]))
    return sides[0], sides[1]


def _drawn(trajectory: Trajectory, fork: int) -> dict[int, ImageSegment]:
    """Images from the fork on, by turn, without pictures that were given."""
    images = [s for s in trajectory.segments[fork:] if isinstance(s, ImageSegment)]
    return {image.turn: image for image in images if image.drawn is not None}


def _as_context(segment: Segment) -> Segment:
    """A copy without anything that a pack would train."""
    if isinstance(segment, ImageSegment):
        return _with_steps(segment, torch.zeros(0, *segment.latent.shape), torch.zeros(0))
    return replace(segment, logprobs=torch.full_like(segment.logprobs, torch.nan))


def _noised(
    chosen: ImageSegment, rejected: ImageSegment, settings: DPORecipe, shift: float, numbers: np.random.Generator
) -> tuple[ImageSegment, ImageSegment]:
    t = times(settings.times_per_image, settings.time_range, shift, numbers)
    noise = torch.from_numpy(numbers.standard_normal((len(t), *chosen.drawn.shape), dtype=np.float32))
    data = (image.drawn.expand(len(t), -1, -1) for image in (chosen, rejected))
    x_chosen, x_rejected, *_ = preference.noised_pair(*data, noise, t)
    return _with_steps(chosen, x_chosen, t), _with_steps(rejected, x_rejected, t)


def _with_steps(image: ImageSegment, x: Tensor, t: Tensor) -> ImageSegment:
    nothing = torch.zeros(0)
    return replace(image, x=x, t=t, x_next=nothing, mean=nothing, t_next=nothing, logprobs=nothing)


def reference_scores(
    engine, weights: Mapping[str, Tensor], packs: Sequence[PairPack], law: SamplingLaw
) -> list[Scores]:
    """What other weights say about the packs, on the CPU; a collective call."""

    def read(output: ModelOutput, index: int) -> Scores:
        replay = packs[index].replay
        texts = [TextScore(s.logprobs.cpu(), s.entropy.cpu()) for s in evaluate_texts(output, replay, law)]
        return Scores(texts, [v.cpu() for v in velocities(output, replay)])

    with engine.holding(weights):
        return engine.evaluate([part.replay.pack for part in packs], read)


class PairLoss:
    """The engine's loss function over `packs`; `reference` has the scores of the pack of the same index."""

    def __init__(
        self,
        settings: DPORecipe,
        law: SamplingLaw,
        packs: Sequence[PairPack],
        reference: Sequence[Scores],
        text_weight: float = 1.0,
        image_weight: float = 1.0,
    ):
        self._settings, self._law, self._packs, self._reference = settings, law, packs, reference
        self._weights = {TEXT: text_weight, IMAGE: image_weight}

    def denominators(self) -> dict[str, float]:
        """This rank's pairs with texts and with images to compare; the engine sums them over ranks."""
        return {name: float(sum(len(part.compared[name]) for part in self._packs)) for name in (TEXT, IMAGE)}

    def __call__(self, output: ModelOutput, index: int, totals: dict[str, float]) -> Loss:
        part, settings, device = self._packs[index], self._settings, output.velocity.device
        scores = Scores(evaluate_texts(output, part.replay, self._law), velocities(output, part.replay))
        texts, of_texts = self._text_margins(part, scores, self._reference[index], device)
        images, of_images = self._image_margins(part, scores, self._reference[index], device)
        nothing = 0.0 * (output.logits.sum().float() + output.velocity.sum())
        whole = settings.beta_text * texts.detach() + settings.beta_image * images.detach()
        loss = Loss({}, {"dpo/accuracy": float((whole > 0).sum()), "dpo/count": float(part.count)})
        modalities = ((TEXT, texts, settings.beta_text, of_texts), (IMAGE, images, settings.beta_image, of_images))
        for name, margins, beta, metrics in modalities:
            compared = torch.tensor([float(pair in part.compared[name]) for pair in range(part.count)], device=device)
            per_pair = preference.preference_loss(margins, beta, settings.kind) * compared
            loss.terms[name] = nothing + self._weights[name] * aggregate(per_pair, totals[name])
            loss.sums |= _sums(f"dpo_{name}", margins.detach(), metrics, compared)
        return loss

    def _text_margins(
        self, part: PairPack, scores: Scores, reference: Scores, device: torch.device
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[P], and log-probabilities of both sides, means over tokens."""
        rows = {side: ([], []) for side in range(2 * part.count)}
        order = sorted(range(len(part.replay.texts)), key=lambda i: part.replay.texts[i].segment)
        for i in order:
            own, other = rows[part.replay.texts[i].trajectory]
            own.append(scores.texts[i].logprobs)
            other.append(reference.texts[i].logprobs.to(device))
        sides = []
        for first in (0, 1):
            chosen = [rows[side] for side in range(first, 2 * part.count, 2)]
            logp, logp_ref = (
                pad_sequence([_joined(row[k], device) for row in chosen], batch_first=True) for k in (0, 1)
            )
            lengths = torch.tensor([sum(map(len, row[0])) for row in chosen], device=device)
            mask = torch.arange(logp.shape[1], device=device) < lengths[:, None]
            sides.append((logp, logp_ref, mask))
        average = self._settings.kind == preference.PreferenceLoss.IPO
        margin = preference.token_margin(*sides[0], *sides[1], average=average)
        means = [(logp.detach() * mask).sum(-1) / mask.sum(-1).clamp(min=1) for logp, _, mask in sides]
        gain = ((sides[0][0].detach() - sides[0][1]) * sides[0][2]).sum(-1)
        return margin, {"winner_logp": means[0], "loser_logp": means[1], "winner_gain": gain}

    def _image_margins(
        self, part: PairPack, scores: Scores, reference: Scores, device: torch.device
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[P], summed over turns, and errors of both sides."""
        by_turn: dict[tuple[int, int], dict[int, int]] = {}
        for i, ref in enumerate(part.replay.images):
            turn = part.trajectories[ref.trajectory].segments[ref.segment].turn
            by_turn.setdefault((ref.trajectory // 2, turn), {})[ref.trajectory % 2] = i
        margins = [torch.zeros((), device=device) for _ in range(part.count)]
        named = ("winner_error", "loser_error", "winner_gain")
        errors = {name: torch.zeros(part.count, device=device) for name in named}
        for (pair, _), sides in sorted(by_turn.items()):
            chosen, rejected = (self._side(part, scores, reference, sides[side]) for side in (0, 1))
            margins[pair] = margins[pair] + preference.flow_margin(*chosen, *rejected).mean()
            for name, (v, _, target) in (("winner_error", chosen), ("loser_error", rejected)):
                errors[name][pair] += ((v.detach() - target) ** 2).mean()
            v, v_ref, target = chosen
            errors["winner_gain"][pair] += ((v_ref - target) ** 2).mean() - ((v.detach() - target) ** 2).mean()
        return torch.stack(margins), errors

    def _side(self, part: PairPack, scores: Scores, reference: Scores, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Velocity, that of the reference and the target, noise - data, at every level of an image; [S, N, D] each."""
        ref, v = part.replay.images[index], scores.images[index]
        image = part.trajectories[ref.trajectory].segments[ref.segment]
        steps = list(ref.steps)
        x, t = image.x[steps], image.t[steps]
        target = (x - image.drawn) / t[:, None, None]
        return v, reference.images[index].to(v.device), target.to(v.device)


def _joined(parts: list[Tensor], device: torch.device) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, device=device)


def _sums(name: str, margin: Tensor, others: Mapping[str, Tensor], counted: Tensor) -> dict[str, float]:
    values = {"margin": margin, "accuracy": (margin > 0).float(), **others}
    return {f"{name}/{key}": float((value * counted).sum()) for key, value in values.items()} | {
        f"{name}/count": float(counted.sum())
    }
