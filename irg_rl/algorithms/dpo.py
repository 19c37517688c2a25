"""DPO on trajectories: token DPO on the texts after a fork, plus flow-DPO on the images after the fork. A fork is the
point where trajectories with the same beginning separate. A pair consists of two trajectories that separate at a fork:
a chosen one from the better branch, and a rejected one from the worse branch.

The loss of a pair is not a sum over tokens. So both trajectories must be in one pack (the token sequence of one forward
pass). Shared segments (texts or images in both trajectories) are only context and have no loss. Their log-probabilities
would cancel, because they are equal on both sides. If both trajectories have an image in a turn, the two images are
compared with the same noise and times. If only one trajectory has an image in this turn, the image has no loss.

A model prefers the chosen trajectory to some degree. The margin of a pair is this degree in the trained model minus
this degree in the reference model. For images the margin is a mean over times. The log-sigmoid is applied to the margin
of each pair. Then text losses are averaged over all pairs with texts to compare. Image losses are averaged over all
pairs with images to compare.

Letters in shapes: P pairs of a pack, T tokens, S noise levels of an image, N latent tokens, D numbers per latent token.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from irg_rl import credit
from irg_rl.algorithms.base import IMAGE, TEXT, Algorithm, Material, RankContext, Selection
from irg_rl.algorithms.noising import NoisingSettings, times, with_states
from irg_rl.curve import RL, UPDATES, Curve
from irg_rl.learner.policy import PackScores, TextScore, evaluate_texts, velocities
from irg_rl.learner.replay import Replay, ReplayPack
from irg_rl.learner.update import Loss
from irg_rl.losses import preference
from irg_rl.losses.flow import aggregate
from irg_rl.model.pack import Pack
from irg_rl.model.unified import ModelOutput
from irg_rl.pairs import Pair, Pairs, find_pairs, mark
from irg_rl.sections import Positive, Rate, Weight
from irg_rl.streams import stream
from irg_rl.trajectory import Group, ImageSegment, SamplingLaw, Segment, Trajectory

Sides = tuple[Trajectory, Trajectory]
"""The two trajectories of a pair: (chosen, rejected)."""


class DPOSettings(NoisingSettings):
    kind: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """Kind of the loss: "sigmoid" is DPO, "ipo" is IPO (arXiv 2310.12036), "hinge" is SLiC (arXiv 2305.10425)."""
    beta_text: Rate = 0.1
    """Beta of texts. It multiplies the log-ratio of policy to reference, summed over all texts of an answer. If `kind`
    is ipo, it multiplies the mean of this log-ratio over tokens instead."""
    beta_image: Rate = 100.0
    """Beta of images. It multiplies the difference of the mean squared velocity errors. Raise it if the loss jumps."""
    tie: Annotated[float, Field(ge=0)] = 0.05
    """Two branches of a fork form a pair only if their mean rewards differ by more than this number. A good value is
    the size of the random errors in the rewards."""
    pairs_per_fork: Positive = 1
    """Number of pairs per fork. The first pair compares the best branch with the worst one, the second pair the second
    best with the second worst, and so on."""
    malformed_penalty: Weight = 1.0
    """This number is subtracted from the value of a trajectory (the reward of its last image) if one of its texts was
    cut off at the token limit."""


class DPO(Algorithm[DPOSettings]):
    """DPO for texts (arXiv 2305.18290) and images (arXiv 2311.12908). The reference model has the weights from the
    beginning of the RL stage."""

    Settings = DPOSettings
    uses_credit = False
    learns_offline = True
    keeps_first_weights = True
    ignores = ("text_loss", "importance", "clip_text", "mismatch_cap", "kl_text", "kl_image")
    needs_raw_rewards = "asks if a gap is larger than rl.options.tie"
    progress = "dpo/accuracy"
    advice = "lower it or train SFT longer"
    curves = (
        Curve("Pairs told apart", RL, r"(?P<line>dpo(_text|_image)?)/accuracy", "share of pairs", UPDATES, share=True),
        Curve("What winners gained over the reference", RL, r"(?P<panel>dpo_text|dpo_image)/winner_gain",
              "nats, and squared error", UPDATES),
    )  # fmt: skip

    @property
    def needs_reference(self) -> bool:
        return False

    @property
    def levels_per_image(self) -> int:
        return self.options.times_per_image

    @property
    def pairs_per_group(self) -> int:
        return self.options.pairs_per_fork

    def forwards(self, precision: str) -> dict[str, int]:
        return {"trained": 1, "first weights": 1}

    def pairs(self, groups: Sequence[Group]) -> Pairs:
        """Return the preference pairs that can be made from the groups. A group has several trajectories of one prompt.
        At a fork, trajectories with the same beginning separate into branches. A pair consists of one trajectory of a
        better branch and one trajectory of a worse branch.

        The value of a trajectory is the reward of its last image. A penalty is subtracted if one of its texts was cut
        off at the token limit. If a branch has only one trajectory, its value is the value of this trajectory. If a
        branch forks again, its value is the mean of the values of its own branches. Two branches of a fork can form a
        pair only if their values differ by more than the option `tie`.
        """
        parts = [self._pairs_of(group) for group in groups]
        return Pairs([pair for part in parts for pair in part.found], sum(part.ties for part in parts))

    def _pairs_of(self, group: Group) -> Pairs:
        values: list[float | None] = []
        for trajectory, q in zip(group.trajectories, credit.combine(group, self.shared.reward_weights)):
            last = None if None in q else q[-1]
            malformed = any(not text.finished for text in trajectory.texts)
            values.append(None if last is None else last - self.options.malformed_penalty * malformed)
        return find_pairs(group, values, self.options.tie, self.options.pairs_per_fork)

    def select(self, group: Group, give_credit: Callable[[], credit.Summary]) -> Selection:
        """Find the preference pairs of the group. The result says whether there are any pairs, and how many pairs are
        ties. In a tie, the two values differ too little. The advantages of segments only mark which segments are part
        of a pair. `give_credit` is not used."""
        pairs = self.pairs([group])
        mark(group, pairs.found)
        return Selection(bool(pairs.found), not pairs.found, {"dpo/judged_ties": float(pairs.ties)})

    def why_empty(self, groups: str) -> str:
        return f"no pair of {groups} differs by more than rl.options.tie"

    def why_skipped(self, updates: int, max_pack_tokens: int) -> str:
        return (
            f"no preference of the last {updates} updates fits into a pack of rl.max_pack_tokens {max_pack_tokens}: "
            "fork the run with more, or with fewer rl.options.times_per_image"
        )

    def material(self, group: Group, replay: Replay, limit: int) -> Material:
        found = self.pairs([group])
        sides = [prepared(pair, self.options, self.shared.shift, 0, 0) for pair in found.found]
        fitting = sum(fits(replay, pair, limit) for pair in sides)
        return Material(fitting, found.ties, len(sides) - fitting)

    def minibatches(
        self, rank: RankContext, groups: Sequence[Group], metrics: dict[str, float], parts: int
    ) -> Iterator[tuple[list[Pack], "PairLoss"]]:
        """Split the preference pairs of the groups into at most `parts` minibatches, and yield (packs, loss) for each.
        One optimizer step is made with each. `packs` are the packs of this rank, and `loss` is a function that computes
        the DPO loss of a pack. Pairs that are too long for a pack are left out. Two numbers are added to `metrics`: how
        many pairs are too long, and how many pairs are ties (their values differ too little)."""
        pairs, shared, limit = self.pairs(groups), self.shared, rank.max_pack_tokens
        if not pairs.found:
            raise ValueError(f"none of {len(groups)} groups has a pair; {pairs.ties} are ties")
        rank.require_law([t for pair in pairs.found for t in (pair.chosen, pair.rejected)])
        begun = rank.begun
        sides = [prepared(pair, self.options, shared.shift, rank.seed, begun) for pair in pairs.found]
        fitting = [pair for pair in sides if fits(rank.replay, pair, limit)]
        metrics |= {"dpo/ties": float(pairs.ties), "dpo/too_long": float(len(sides) - len(fitting))}
        assert rank.first is not None
        for own in minibatches(fitting, parts):
            with rank.engine.watch("packing"):
                packs = pair_packs(rank.replay, own, limit, rank.place.rank, rank.place.world_size)
            reference = reference_scores(rank.engine, rank.first, packs, rank.law)
            loss = PairLoss(self.options, rank.law, packs, reference, shared.text_weight, shared.image_weight)
            yield [part.replay.pack for part in packs], loss


@dataclass
class PairPack:
    """A pack (the token sequence of one forward pass) that contains whole preference pairs. The chosen trajectory of
    pair p is `trajectories[2 * p]`. The rejected one is `trajectories[2 * p + 1]`."""

    replay: ReplayPack
    trajectories: list[Trajectory]

    @property
    def count(self) -> int:
        return len(self.trajectories) // 2

    @property
    def compared(self) -> dict[str, set[int]]:
        """Return which pairs have texts to compare, and which pairs have images to compare. The result is a dict with
        the keys "text" and "image". Each value is a set of indices of pairs."""
        return {
            name: {ref.trajectory // 2 for ref in refs}
            for name, refs in ((TEXT, self.replay.texts), (IMAGE, self.replay.images))
        }


def fits(replay: Replay, sides: Sides, limit: int) -> bool:
    """Return whether the two trajectories of a pair (`sides`) fit together into one pack of `limit` tokens. Padding is
    counted, too. `replay` computes the lengths of the trajectories in tokens."""
    lengths = replay.lengths(sides)
    return len(lengths) * max(lengths) <= limit


def pair_packs(
    replay: Replay, sides: Sequence[Sides], limit: int, rank: int = 0, world_size: int = 1
) -> list[PairPack]:
    """Put the pairs into packs of at most `limit` tokens, the longest pairs first. The packs are shared out among
    `world_size` ranks. Return the packs of rank number `rank`. Every pair must fit into a pack. `replay` joins
    trajectories into packs."""
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
    """Split the pairs into contiguous minibatches of nearly equal size. A minibatch has the pairs of one optimizer
    step. If there are fewer pairs than `parts`, each pair is a minibatch of its own. Otherwise there are `parts`
    minibatches."""
    count = min(parts, len(pairs))
    edges = [round(i * len(pairs) / max(count, 1)) for i in range(count + 1)]
    return [pairs[low:high] for low, high in zip(edges, edges[1:])]


def prepared(pair: Pair, settings: DPOSettings, shift: float, seed: int, update: int) -> Sides:
    """Return copies of both trajectories of a pair, ready for packing. Shared segments (texts or images in both
    trajectories) are not trained. In each turn, the chosen image and the rejected image get the same noise and the same
    flow times. `shift` is the timestep shift of these times.

    The random numbers of noise and times depend on (seed, update, group, chosen sample, rejected sample, turn).
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
    """Return a dict from turn to image, for the images after the fork that the sampler has drawn. Pictures that were
    given and not drawn are left out."""
    images = [s for s in trajectory.segments[fork:] if isinstance(s, ImageSegment)]
    return {image.turn: image for image in images if image.drawn is not None}


def _as_context(segment: Segment) -> Segment:
    """Return a copy of a segment that is not trained, so it is only context in a pack."""
    if isinstance(segment, ImageSegment):
        return with_states(segment, torch.zeros(0, *segment.latent.shape), torch.zeros(0))
    return replace(segment, logprobs=torch.full_like(segment.logprobs, torch.nan))


def _noised(
    chosen: ImageSegment, rejected: ImageSegment, settings: DPOSettings, shift: float, numbers: np.random.Generator
) -> tuple[ImageSegment, ImageSegment]:
    assert chosen.drawn is not None and rejected.drawn is not None  # given pictures are not compared
    t = times(settings.times_per_image, settings.time_range, shift, numbers)
    noise = torch.from_numpy(numbers.standard_normal((len(t), *chosen.drawn.shape), dtype=np.float32))
    x_chosen, x_rejected, *_ = preference.noised_pair(
        chosen.drawn.expand(len(t), -1, -1), rejected.drawn.expand(len(t), -1, -1), noise, t
    )
    return with_states(chosen, x_chosen, t), with_states(rejected, x_rejected, t)


def reference_scores(
    engine, weights: Mapping[str, Tensor], packs: Sequence[PairPack], law: SamplingLaw
) -> list[PackScores[Tensor]]:
    """Return the log-probabilities of texts and the velocities of images under the model weights `weights`. The list
    has one object per pack, with tensors on the CPU. `law` holds the sampling settings that change log-probabilities,
    such as the temperature. All ranks must call this together."""

    def read(output: ModelOutput, index: int) -> PackScores[Tensor]:
        replay = packs[index].replay
        texts = [TextScore(s.logprobs.cpu(), s.entropy.cpu()) for s in evaluate_texts(output, replay, law)]
        return PackScores(texts, [v.cpu() for v in velocities(output, replay)])

    with engine.holding(weights):
        return engine.evaluate([part.replay.pack for part in packs], read)


class PairLoss:
    """The DPO loss of `packs`, as a function that the engine calls for each pack. `reference` contains, for each pack,
    the log-probabilities and velocities under the reference weights."""

    def __init__(
        self,
        settings: DPOSettings,
        law: SamplingLaw,
        packs: Sequence[PairPack],
        reference: Sequence[PackScores[Tensor]],
        text_weight: float = 1.0,
        image_weight: float = 1.0,
    ):
        self._settings, self._law, self._packs, self._reference = settings, law, packs, reference
        self._weights = {TEXT: text_weight, IMAGE: image_weight}

    def denominators(self) -> dict[str, float]:
        """Return two counts of pairs on this rank. "text" is the number of pairs with texts to compare, and "image" is
        the number of pairs with images to compare. The engine sums each count over all ranks."""
        return {name: float(sum(len(part.compared[name]) for part in self._packs)) for name in (TEXT, IMAGE)}

    def __call__(self, output: ModelOutput, index: int, totals: dict[str, float]) -> Loss:
        part, settings, device = self._packs[index], self._settings, output.velocity.device
        scores = PackScores(evaluate_texts(output, part.replay, self._law), velocities(output, part.replay))
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
        self, part: PairPack, scores: PackScores[Tensor], reference: PackScores[Tensor], device: torch.device
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the margin of every pair's texts, shape [P] for P pairs. The margin says how much more the trained
        model prefers the chosen texts than the reference model does. Also return a dict of values for the log, each of
        shape [P]: the mean log-probability per token of the chosen and of the rejected texts, and how much larger the
        log-probability of the chosen texts is than under the reference."""
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
        self, part: PairPack, scores: PackScores[Tensor], reference: PackScores[Tensor], device: torch.device
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the margin of every pair's images, summed over turns, shape [P] for P pairs. The margin says how much
        more the trained model prefers the chosen images than the reference model does. Also return a dict of values for
        the log, each of shape [P]: the velocity errors of the chosen and of the rejected images, and how much smaller
        the error of the chosen images is than under the reference."""
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

    def _side(
        self, part: PairPack, scores: PackScores[Tensor], reference: PackScores[Tensor], index: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return three tensors for one image: the velocity of the model, the velocity of the reference and the target
        velocity, at every noise level of the image. Each has the shape [S, N, D], for S noise levels, N latent tokens
        and D numbers per token."""
        ref, v = part.replay.images[index], scores.images[index]
        image, steps = ref.of(part.trajectories), list(ref.steps)
        assert image.drawn is not None
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
