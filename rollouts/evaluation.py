"""Create the sampler that draws images of a checkpoint for evaluation, for display or for a study. Its settings come
from the section `sampling` of the recipe. The section `evaluation` replaces some of these settings."""

from collections.abc import Callable

from irg_rl.config import EvaluationRecipe, GuidanceRecipe, SamplingRecipe
from irg_rl.model.folder import Folder
from rollouts.sampler import Sampler


def evaluation_sampling(sampling: SamplingRecipe, settings: EvaluationRecipe) -> SamplingRecipe:
    """Return the sampling settings for evaluation. `sampling` and `settings` are the sections `sampling` and
    `evaluation` of the recipe. The result is a copy of `sampling` with some values from `settings`. The temperature is
    always replaced. The number of time points and the time shift are replaced only if `settings` gives them."""
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
    is_stop: Callable[[str], bool] | None = None,
) -> Sampler:
    """Return a sampler for the model that was loaded from a folder. The sampler records nothing for training.

    `sampling` is the result of `evaluation_sampling`, or a changed copy of it. `settings` is the section `evaluation`
    of the recipe. If `guidance` is given, it replaces the guidance in `settings`. If `is_noisy` is False, the noise in
    `settings` is not used. `is_stop` takes a reflection and returns whether it ends the trajectory. If it is None, the
    stop phrase of `sampling` decides.
    """
    chosen = settings.guidance if guidance is None else guidance
    return Sampler(
        folder.model.eval(), folder.autoencoder, folder.tokenizer, sampling,
        guidance=chosen if chosen.is_on else None, noise=settings.noise if is_noisy else None,
        record_steps=False, is_stop=is_stop,
    )  # fmt: skip
