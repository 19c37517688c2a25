"""How a checkpoint is sampled when it is evaluated, shown or studied. The settings are those of `sampling` in the
recipe, changed by those of `evaluation`."""

from collections.abc import Callable

from irg_rl.config import EvaluationRecipe, GuidanceRecipe, SamplingRecipe
from irg_rl.model.folder import Folder
from rollouts.request import StopPhrase
from rollouts.sampler import Sampler


def evaluation_sampling(sampling: SamplingRecipe, settings: EvaluationRecipe) -> SamplingRecipe:
    """Return the sampling settings of the recipe with the temperature of evaluation. The number of time points and the
    shift are also replaced if the evaluation settings give them."""
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
    """Return a sampler for the model in a folder. The sampler records nothing for training.

    `sampling` is the result of `evaluation_sampling`, or a changed copy of it. `guidance`, if it is given, replaces the
    guidance of `settings`. `is_noisy`: whether to use the noise of `settings`, if it has any.
    """
    chosen = settings.guidance if guidance is None else guidance
    return Sampler(
        folder.model.eval(), folder.autoencoder, folder.tokenizer, sampling,
        guidance=chosen if chosen.is_on else None, noise=settings.noise if is_noisy else None,
        record_steps=False, is_stop=is_stop,
    )  # fmt: skip
