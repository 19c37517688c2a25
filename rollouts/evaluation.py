"""How a checkpoint is sampled when it is evaluated, shown or studied: as `sampling` says, changed by `evaluation`."""

from collections.abc import Callable

from irg_rl.config import EvaluationRecipe, GuidanceRecipe, SamplingRecipe
from irg_rl.model.folder import Folder
from rollouts.request import StopPhrase
from rollouts.sampler import Sampler


def evaluation_sampling(sampling: SamplingRecipe, settings: EvaluationRecipe) -> SamplingRecipe:
    """The recipe's sampling with the temperature of evaluation and, where it has them, its time points and shift."""
    points = sampling.points if settings.points is None else settings.points
    shift = sampling.shift if settings.shift is None else settings.shift
    return sampling.model_copy(update={"temperature": settings.temperature, "points": points, "shift": shift})


def evaluation_sampler(
    folder: Folder,
    sampling: SamplingRecipe,
    settings: EvaluationRecipe,
    *,
    guidance: GuidanceRecipe | None = None,
    is_noisy: bool = True,
    is_stop: Callable[[str], bool] = StopPhrase(),  # noqa: B008 - frozen
) -> Sampler:
    """A sampler over a model folder, which records nothing for training.

    `sampling` is what `evaluation_sampling` gives, or a change of it. `guidance` takes the place of that of `settings`.
    `is_noisy`: with the noise of `settings`, if it has any.
    """
    chosen = settings.guidance if guidance is None else guidance
    return Sampler(
        folder.model.eval(), folder.autoencoder, folder.tokenizer, sampling,
        guidance=chosen if chosen.is_on else None, noise=settings.noise if is_noisy else None,
        record_steps=False, is_stop=is_stop,
    )  # fmt: skip
