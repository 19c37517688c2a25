"""The joint loss of scored trajectories. It adds a loss of texts and a loss of images. Each of these two losses is a
sum, divided by its own denominator. Each denominator is a count over all ranks.

    loss = text_weight * sum_tokens(...) / text denominator + image_weight * sum_steps(...) / (image, step) pairs

KL terms to a reference model may be added. A step is a denoising step of the sampler. If images get fresh noise, a step
is a noise level instead. Segments without an advantage are not trained.

Metrics are collected for each modality (text or image) and each turn. They are stored as sums and counts, which can be
added over packs and ranks. `finish` divides the sums by the counts.

Letters in shapes: B texts, T tokens, S steps of an image in a pack, N latent tokens, D numbers per latent token.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from irg_rl.algorithms import old_policy
from irg_rl.algorithms.base import IMAGE, TEXT, Algorithm, Options, RankContext
from irg_rl.algorithms.old_policy import OldPolicy
from irg_rl.learner.policy import PackScores, StepScore
from irg_rl.learner.replay import ReplayPack, StepsRef, TextRef
from irg_rl.learner.update import Loss
from irg_rl.losses import clip, flow, text
from irg_rl.model.pack import Pack
from irg_rl.model.unified import ModelOutput
from irg_rl.trajectory import Group, ImageSegment, SamplingLaw, TextSegment, Trajectory, trees


@dataclass(frozen=True)
class PackTexts:
    """The B texts of a pack (the token sequence of one forward pass), padded on the right to the same length T."""

    logp: Float[Tensor, "B T"]
    old: Float[Tensor, "B T"]  # log-probabilities under the old policy, without gradient
    advantages: Float[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    reference: Float[Tensor, "B T"] | None = None  # log-probabilities under the base model
    mismatch: Float[Tensor, "B T"] | None = None  # weights that correct for the sampler's different arithmetic


@dataclass(frozen=True)
class PackImage:
    """One image of a pack (the token sequence of one forward pass), with its trained denoising steps or noise
    levels."""

    segment: ImageSegment
    steps: list[int]
    advantage: float
    score: StepScore | Float[Tensor, "S N D"]  # of the trained model; a velocity if noise is fresh
    old: Mapping[str, Tensor]  # `logprobs` [S], `mean` [S, N, D] or `velocity` [S, N, D] under the old policy


@dataclass(frozen=True)
class ImageLoss:
    """Loss and metrics of an image, for each of its S steps. A step is a denoising step or a noise level. Some losses
    use a ratio to the old policy. Then `log_ratio` is the log of the ratio, and `clip` is its clip range. Otherwise
    `log_ratio` is None."""

    per_step: Float[Tensor, "S"]
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    log_ratio: Float[Tensor, "S"] | None = None
    clip: float = 0.0


class JointAlgorithm(Algorithm[Options]):
    """An algorithm that trains every segment with the advantage of the segment. A subclass must define the loss of an
    image's steps. It may also replace the loss of tokens."""

    def text_loss(self, tokens: PackTexts) -> Float[Tensor, "B T"]:
        """Return the loss of every token: a clipped policy loss plus the KL term. `rl.text_loss` names the policy loss.
        The losses are summed later."""
        shared = self.shared
        low, high = shared.clip_text
        return text.policy_loss(
            tokens.logp, tokens.old, tokens.advantages, tokens.mask,
            loss_type=shared.text_loss, level=shared.importance, epsilon=low, epsilon_high=high, beta=shared.kl_text,
            logp_ref=tokens.reference, mismatch=tokens.mismatch,
        )  # fmt: skip

    def image_loss(self, image: PackImage) -> ImageLoss:
        raise NotImplementedError

    def image_kl(self, score: Any, reference: Any) -> Float[Tensor, "S"]:
        """Return the distance between the trained model and the base model at every step of an image. `score` is the
        result of `evaluate` for the image with the trained model. `reference` is the result with the base model."""
        return flow.velocity_mse(score, reference)

    def evaluate(
        self, output: ModelOutput, replay: ReplayPack, trajectories: Sequence[Trajectory], law: SamplingLaw
    ) -> PackScores[Any]:
        """Convert the output of a model for a pack to the scores that the losses need. The scores of a text are
        log-probabilities. The scores of an image depend on the algorithm, and are for example velocities. `law` holds
        the sampling settings that change log-probabilities, such as the temperature."""
        raise NotImplementedError

    def prepared(self, rank: RankContext, groups: Sequence[Group]) -> Sequence[Group]:
        """Return the groups on which this update trains. A subclass may return changed copies of the given groups, for
        example with fresh noise."""
        return groups

    def before_update(self, rank: RankContext, trajectories: Sequence[Trajectory]) -> OldPolicy:
        """Return the values of the old policy (for example log-probabilities) for all trajectories. This method is
        called once per update."""
        return old_policy.sampled(trajectories)

    def before_minibatch(
        self, rank: RankContext, known: OldPolicy, own: Sequence[Trajectory], replays: Sequence[ReplayPack]
    ) -> OldPolicy:
        """Return the values of the old policy for the trajectories `own` of one minibatch. `known` is the result of
        `before_update`. `replays` are the packs of these trajectories on this rank."""
        return known

    def minibatches(
        self, rank: RankContext, groups: Sequence[Group], metrics: dict[str, float], parts: int
    ) -> Iterator[tuple[list[Pack], "JointLoss"]]:
        trajectories = rank.trainable(self.prepared(rank, groups))
        known = self.before_update(rank, trajectories)
        for own in split(trajectories, parts):
            replays = rank.packs(own)
            first = next(index for index, trajectory in enumerate(trajectories) if trajectory is own[0])
            old = self.before_minibatch(rank, known.shifted(first), own, replays)
            loss = JointLoss(self, rank.law, replays, own, old, rank.reference)
            yield [replay.pack for replay in replays], loss


class JointLoss:
    """The joint loss (text loss plus image loss) of the packs in `replays`, as a function. The training engine calls it
    with the model's output for a pack, the index of the pack, and the denominators summed over all ranks.

    `reference(pack)` returns the output of the reference model without gradients. It is required if a KL weight is
    above 0.
    """

    def __init__(
        self,
        algorithm: JointAlgorithm,
        law: SamplingLaw,
        replays: Sequence[ReplayPack],
        trajectories: Sequence[Trajectory],
        old: OldPolicy,
        reference: Callable[[Pack], ModelOutput] | None = None,
    ):
        shared = algorithm.shared
        if algorithm.needs_reference and reference is None:
            raise ValueError(f"kl_text {shared.kl_text} and kl_image {shared.kl_image} need a reference model")
        self._algorithm, self._shared, self._law, self._old = algorithm, shared, law, old
        self._replays, self._trajectories = replays, trajectories
        self._reference = reference if algorithm.needs_reference else None

    def denominators(self) -> dict[str, float]:
        """Return the denominators of the loss on this rank. "text" is the denominator of the text loss. It depends on
        `rl.text_loss`, and is for example the number of trained tokens. "image" is the number of trained (image, step)
        pairs. The engine sums each of the two over all ranks."""
        counts = {TEXT: 0.0, IMAGE: 0.0}
        for replay in self._replays:
            texts = [ref for ref in replay.texts if self._advantage(ref) is not None]
            lengths = [ref.of(self._trajectories).ids.numel() for ref in texts]
            if lengths:
                mask = pad_sequence([torch.ones(n, dtype=torch.bool) for n in lengths], batch_first=True)
                count = text.denominator(mask, self._shared.text_loss, self._shared.max_text_tokens)
                counts[TEXT] += float(count)
            counts[IMAGE] += sum(len(ref.steps) for ref in replay.images if self._advantage(ref) is not None)
        return counts

    def __call__(self, output: ModelOutput, index: int, totals: dict[str, float]) -> Loss:
        replay = self._replays[index]
        scores = self._evaluate(output, replay)
        reference = None
        if self._reference is not None:
            with torch.no_grad():
                reference = self._evaluate(self._reference(replay.pack), replay)
        nothing = 0.0 * (output.logits.sum().float() + output.velocity.sum())
        loss = Loss({TEXT: nothing, IMAGE: nothing})
        self._add_texts(loss, replay, scores, reference, totals)
        self._add_images(loss, replay, scores, reference, totals)
        return loss

    def _evaluate(self, output: ModelOutput, replay: ReplayPack) -> PackScores[Any]:
        return self._algorithm.evaluate(output, replay, self._trajectories, self._law)

    def _add_texts(
        self,
        loss: Loss,
        replay: ReplayPack,
        scores: PackScores[Any],
        reference: PackScores[Any] | None,
        totals: Mapping[str, float],
    ) -> None:
        chosen = [(i, ref, a) for i, ref in enumerate(replay.texts) if (a := self._advantage(ref)) is not None]
        if not chosen:
            return
        shared, refs = self._shared, [ref for _, ref, _ in chosen]
        device = scores.texts[0].logprobs.device
        logp = _pad([scores.texts[i].logprobs for i, *_ in chosen])
        mask = _pad([torch.ones_like(scores.texts[i].logprobs, dtype=torch.bool) for i, *_ in chosen])
        old = _pad([self._old.text[ref.trajectory, ref.segment] for ref in refs]).to(device)
        advantages = _pad([self._advantages(ref, len(scores.texts[i].logprobs)) for i, ref, _ in chosen]).to(device)
        logp_ref = None if reference is None else _pad([reference.texts[i].logprobs for i, *_ in chosen])
        tokens = PackTexts(logp, old, advantages, mask, logp_ref, self._mismatch(refs, old, mask))
        total = text.aggregate(self._algorithm.text_loss(tokens), mask, shared.text_loss, totals[TEXT])
        loss.terms[TEXT] = loss.terms[TEXT] + shared.text_weight * total
        log_ratio = text.log_importance(logp.detach(), old, mask, shared.importance)
        for row, (i, ref, _) in enumerate(chosen):
            length = len(scores.texts[i].logprobs)
            extra = {"entropy": scores.texts[i].entropy}
            if logp_ref is not None:
                extra["kl"] = text.k3(logp.detach()[row, :length], logp_ref[row, :length])
            self._log_ratio(loss, TEXT, ref, log_ratio[row, :length], shared.clip_text, extra)

    def _add_images(
        self,
        loss: Loss,
        replay: ReplayPack,
        scores: PackScores[Any],
        reference: PackScores[Any] | None,
        totals: Mapping[str, float],
    ) -> None:
        for i, ref in enumerate(replay.images):
            advantage = self._advantage(ref)
            if advantage is None:
                continue
            score, steps = scores.images[i], list(ref.steps)
            device = score.device if isinstance(score, Tensor) else score.logprobs.device
            old = self._old.of_image(ref.trajectory, ref.segment, steps, device)
            found = self._algorithm.image_loss(PackImage(ref.of(self._trajectories), steps, advantage, score, old))
            each, metrics = found.per_step, dict(found.metrics)
            if reference is not None:
                kl = self._algorithm.image_kl(score, reference.images[i])
                each = each + self._shared.kl_image * kl
                metrics["kl"] = kl.detach()
            loss.terms[IMAGE] = loss.terms[IMAGE] + self._shared.image_weight * flow.aggregate(each, totals[IMAGE])
            if found.log_ratio is None:
                self._log(loss, IMAGE, ref, len(steps), {}, metrics, {})
            else:
                self._log_ratio(loss, IMAGE, ref, found.log_ratio.detach(), (found.clip, found.clip), metrics)

    def _mismatch(self, refs: Sequence[TextRef], old: Tensor, mask: Tensor) -> Tensor | None:
        if not self._old.recomputed:
            return None
        drawn = _pad([ref.of(self._trajectories).logprobs for ref in refs]).to(old.device)
        return text.mismatch_weight(old, drawn, mask, highest=self._shared.mismatch_cap)

    def _log_ratio(
        self,
        loss: Loss,
        modality: str,
        ref: TextRef | StepsRef,
        log_ratio: Tensor,
        bounds: tuple[float, float],
        extra: Mapping[str, Tensor],
    ) -> None:
        count = log_ratio.numel()
        advantages = self._advantages(ref, count).to(log_ratio.device)
        numbers = clip.ratio_metrics(log_ratio.exp(), log_ratio, advantages, *bounds)
        largest = {"ratio_max": float(numbers.pop("ratio_max")), "log_ratio_max": float(log_ratio.abs().max())}
        sums = {key: float(value) * count for key, value in numbers.items()}
        self._log(loss, modality, ref, count, sums, extra, largest)

    def _log(
        self,
        loss: Loss,
        modality: str,
        ref: TextRef | StepsRef,
        count: int,
        sums: Mapping[str, float],
        values: Mapping[str, Tensor],
        largest: Mapping[str, float],
    ) -> None:
        """Add metrics to the log of the loss. Each tensor in `values` has one number per token or step."""
        name = f"{modality}/turn{ref.of(self._trajectories).turn}/"
        sums = {**sums, **{key: float(value.sum()) for key, value in values.items()}}
        sums |= {"advantage": float(self._advantages(ref, count).sum()), "count": float(count)}
        for key, value in sums.items():
            loss.sums[name + key] = loss.sums.get(name + key, 0.0) + value
        for key, value in largest.items():
            loss.maxima[name + key] = max(loss.maxima.get(name + key, value), value)

    def _advantage(self, ref: TextRef | StepsRef) -> float | None:
        return ref.of(self._trajectories).advantage

    def _advantages(self, ref: TextRef | StepsRef, count: int) -> Float[Tensor, "T"]:
        """Return the advantage of each of the `count` tokens or steps of a segment."""
        segment = ref.of(self._trajectories)
        whole = torch.full((count,), segment.advantage or 0.0)
        own = segment.token_advantages if isinstance(segment, TextSegment) else None
        return whole if own is None else whole + own


def split(trajectories: list[Trajectory], parts: int) -> list[list[Trajectory]]:
    """Split the trajectories into at most `parts` contiguous minibatches of nearly equal size. A minibatch has the
    trajectories of one optimizer step.

    Trajectories that share segments (texts or images) form a tree. All trajectories of a tree stay in the same
    minibatch. So there cannot be more minibatches than trees.
    """
    whole = trees(trajectories)
    count = min(parts, len(whole))
    edges = [round(i * len(whole) / count) for i in range(count + 1)]
    return [[t for siblings in whole[low:high] for t in siblings] for low, high in zip(edges, edges[1:])]


def finish(sums: Mapping[str, float], maxima: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of an update. `sums` maps names such as "text/turn0/loss" to sums over all packs. For each
    prefix, such as "text/turn0", the entry PREFIX/count is a count. Every other sum with this prefix is divided by this
    count. The counts themselves and the entries of `maxima` are returned unchanged."""
    metrics = dict(maxima)
    for name, value in sums.items():
        group, key = name.rsplit("/", 1)
        metrics[name] = value if key == "count" else value / max(sums[f"{group}/count"], 1.0)
    return metrics


def _pad(rows: list[Tensor]) -> Tensor:
    return pad_sequence(rows, batch_first=True)
