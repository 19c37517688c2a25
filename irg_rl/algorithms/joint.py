"""The joint loss of a batch of scored trajectories: sampled text and denoising steps, each over its own global count.

    loss = text_weight * sum_tokens(...) / text denominator + image_weight * sum_steps(...) / (image, step) pairs

With `forward_process` the steps are images noised afresh (noising.py), and pairs are (image, noise level).

plus KL terms to an optional reference. A segment without an advantage (its sample left the group) takes no part.

Metrics come as sums and counts per modality and turn, so that packs and ranks add up; `finish` divides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from irg_rl.algorithms import noising
from irg_rl.algorithms.old_policy import OldPolicy
from irg_rl.config import AWMRecipe, NFTRecipe
from irg_rl.learner.policy import Scores, StepScore, evaluate, evaluate_texts, velocities
from irg_rl.learner.replay import ReplayPack, StepsRef, TextRef
from irg_rl.learner.update import Loss
from irg_rl.losses import clip, flow, text
from irg_rl.model.unified import ModelOutput
from irg_rl.trajectory import SamplingLaw, Trajectory

TEXT, IMAGE = "text", "image"


@dataclass(frozen=True)
class RLLossSettings:
    text_loss: str = "dapo"  # losses.text.TextLoss
    importance: str = "token"  # losses.text.Importance
    clip_text: tuple[float, float] = (0.2, 0.28)
    clip_image: float = 1e-3
    ratio_norm: bool = False  # GRPO-Guard's ratio for images
    text_weight: float = 1.0
    image_weight: float = 1.0
    kl_text: float = 0.0
    kl_image: float = 0.0
    kl_image_space: str = "velocity"  # velocity or mean
    max_text_tokens: int | None = None  # dr_grpo's constant denominator
    forward_process: NFTRecipe | AWMRecipe | None = None  # in place of the policy loss on denoising steps
    mismatch_cap: float = 2.0  # truncation of sampler-mismatch weights, where old log-probabilities are recomputed

    def __post_init__(self) -> None:
        text.TextLoss(self.text_loss)
        text.Importance(self.importance)
        if self.kl_image_space not in ("velocity", "mean"):
            raise ValueError(f"kl_image_space {self.kl_image_space!r}: choose velocity or mean")
        if self.text_loss == text.TextLoss.DR_GRPO and self.max_text_tokens is None:
            raise ValueError("text_loss dr_grpo needs max_text_tokens, its constant denominator")

    @property
    def needs_reference(self) -> bool:
        return self.kl_text > 0 or self.kl_image > 0


class JointLoss:
    """The engine's loss function over `replays`; call it with the output of the pack of the same index.

    `reference(pack)` gives the reference model's output without gradients; needed with a KL weight above 0.
    """

    def __init__(
        self,
        settings: RLLossSettings,
        law: SamplingLaw,
        replays: Sequence[ReplayPack],
        trajectories: Sequence[Trajectory],
        old: OldPolicy,
        reference: Callable[..., ModelOutput] | None = None,
    ):
        if settings.needs_reference and reference is None:
            raise ValueError(f"kl_text {settings.kl_text} and kl_image {settings.kl_image} need a reference model")
        self._settings, self._law, self._old = settings, law, old
        self._replays, self._trajectories = replays, trajectories
        self._reference = reference if settings.needs_reference else None

    def denominators(self) -> dict[str, float]:
        """This rank's counts; the engine sums them over ranks."""
        counts = {TEXT: 0.0, IMAGE: 0.0}
        for replay in self._replays:
            lengths = [self._segment(ref).ids.numel() for ref in replay.texts if self._advantage(ref) is not None]
            if lengths:
                mask = pad_sequence([torch.ones(n, dtype=torch.bool) for n in lengths], batch_first=True)
                count = text.denominator(mask, self._settings.text_loss, self._settings.max_text_tokens)
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
        if self._settings.forward_process is None:
            self._add_images(loss, replay, scores, reference, totals)
        else:
            self._add_noised(loss, replay, scores, reference, totals)
        return loss

    def _evaluate(self, output: ModelOutput, replay: ReplayPack) -> Scores:
        if self._settings.forward_process is None:
            return evaluate(output, replay, self._trajectories, self._law)
        return Scores(evaluate_texts(output, replay, self._law), velocities(output, replay))

    def _add_texts(self, loss: Loss, replay: ReplayPack, scores: Scores, reference, totals) -> None:
        chosen = [i for i, ref in enumerate(replay.texts) if self._advantage(ref) is not None]
        if not chosen:
            return
        refs = [replay.texts[i] for i in chosen]
        device = scores.texts[0].logprobs.device
        logp = _pad([scores.texts[i].logprobs for i in chosen])
        mask = _pad([torch.ones_like(scores.texts[i].logprobs, dtype=torch.bool) for i in chosen])
        old = _pad([self._old.text[ref.trajectory, ref.segment] for ref in refs]).to(device)
        advantages = torch.tensor([self._advantage(ref) for ref in refs], device=device)
        logp_ref = None if reference is None else _pad([reference.texts[i].logprobs for i in chosen])
        chosen_settings = self._settings
        low, high = chosen_settings.clip_text
        per_token = text.policy_loss(
            logp, old, advantages, mask,
            loss_type=chosen_settings.text_loss, level=chosen_settings.importance, epsilon=low, epsilon_high=high,
            beta=chosen_settings.kl_text, logp_ref=logp_ref, mismatch=self._mismatch(refs, old, mask),
        )  # fmt: skip
        total = text.aggregate(per_token, mask, chosen_settings.text_loss, totals[TEXT])
        loss.terms[TEXT] = loss.terms[TEXT] + chosen_settings.text_weight * total
        log_ratio = text.log_importance(logp.detach(), old, mask, chosen_settings.importance)
        for row, (i, ref) in enumerate(zip(chosen, refs)):
            length = len(scores.texts[i].logprobs)
            extra = {"entropy": scores.texts[i].entropy}
            if logp_ref is not None:
                extra["kl"] = text.k3(logp.detach()[row, :length], logp_ref[row, :length])
            self._log_ratio(loss, TEXT, ref, log_ratio[row, :length], (low, high), extra)

    def _add_images(self, loss: Loss, replay: ReplayPack, scores: Scores, reference, totals) -> None:
        for i, ref in enumerate(replay.images):
            if self._advantage(ref) is None:
                continue
            score, steps = scores.images[i], list(ref.steps)
            device = score.logprobs.device
            old = self._old.image[ref.trajectory, ref.segment][steps].to(device)
            log_ratio = flow.log_ratio(score.logprobs, old)
            if self._settings.ratio_norm:
                mean_old = self._old.mean[ref.trajectory, ref.segment][steps].to(device)
                log_ratio = flow.guarded_log_ratio(score.logprobs, old, score.mean, mean_old, score.std)
            advantages = torch.full_like(log_ratio, self._advantage(ref))
            per_step = flow.policy_loss(log_ratio, advantages, self._settings.clip_image)
            kl = None if reference is None else self._image_kl(score, reference.images[i])
            extra = self._add_image(loss, per_step, kl, totals)
            bounds = (self._settings.clip_image, self._settings.clip_image)
            self._log_ratio(loss, IMAGE, ref, log_ratio.detach(), bounds, extra)

    def _add_noised(self, loss: Loss, replay: ReplayPack, scores: Scores, reference, totals) -> None:
        settings = self._settings.forward_process
        for i, ref in enumerate(replay.images):
            v, image, steps = scores.images[i], self._segment(ref), list(ref.steps)
            v_old = self._old.velocity[ref.trajectory, ref.segment][steps].to(v.device)
            per_level, extra, log_ratio = noising.image_loss(settings, v, v_old, image, steps)
            kl = None if reference is None else flow.velocity_mse(v, reference.images[i])
            extra |= self._add_image(loss, per_level, kl, totals)
            if log_ratio is None:
                self._log(loss, IMAGE, ref, len(steps), {}, extra, {})
            else:
                self._log_ratio(loss, IMAGE, ref, log_ratio.detach(), (settings.clip, settings.clip), extra)

    def _add_image(self, loss: Loss, each: Tensor, kl: Tensor | None, totals: dict[str, float]) -> dict[str, Tensor]:
        """Adds an image's loss at each step or noise level, with its KL; returns the KL for the metrics."""
        if kl is not None:
            each = each + self._settings.kl_image * kl
        loss.terms[IMAGE] = loss.terms[IMAGE] + self._settings.image_weight * flow.aggregate(each, totals[IMAGE])
        return {} if kl is None else {"kl": kl.detach()}

    def _image_kl(self, score: StepScore, reference: StepScore) -> Tensor:
        if self._settings.kl_image_space == "velocity":
            return flow.velocity_mse(score.velocity, reference.velocity)
        return flow.mean_kl(score.mean, reference.mean, score.std)

    def _mismatch(self, refs: list[TextRef], old: Tensor, mask: Tensor) -> Tensor | None:
        if not self._old.recomputed:
            return None
        drawn = _pad([self._segment(ref).logprobs for ref in refs]).to(old.device)
        return text.mismatch_weight(old, drawn, mask, highest=self._settings.mismatch_cap)

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
        advantages = torch.full_like(log_ratio, self._advantage(ref))
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
        """`values`: one per token or step."""
        name = f"{modality}/turn{self._segment(ref).turn}/"
        sums = {**sums, **{key: float(value.sum()) for key, value in values.items()}}
        sums |= {"advantage": float(torch.full((count,), self._advantage(ref)).sum()), "count": float(count)}
        for key, value in sums.items():
            loss.sums[name + key] = loss.sums.get(name + key, 0.0) + value
        for key, value in largest.items():
            loss.maxima[name + key] = max(loss.maxima.get(name + key, value), value)

    def _segment(self, ref: TextRef | StepsRef):
        return self._trajectories[ref.trajectory].segments[ref.segment]

    def _advantage(self, ref: TextRef | StepsRef) -> float | None:
        return self._segment(ref).advantage


def finish(sums: Mapping[str, float], maxima: Mapping[str, float]) -> dict[str, float]:
    """Metrics of an update: every sum over its modality's and turn's count, and the counts and maxima themselves."""
    metrics = dict(maxima)
    for name, value in sums.items():
        group, key = name.rsplit("/", 1)
        metrics[name] = value if key == "count" else value / max(sums[f"{group}/count"], 1.0)
    return metrics


def _pad(rows: list[Tensor]) -> Tensor:
    return pad_sequence(rows, batch_first=True)
