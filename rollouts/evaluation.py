"""Create the sampler for a checkpoint that is evaluated, shown or studied. It uses the section `sampling` of the
recipe, but some of these values are replaced by those of the section `evaluation`."""

from collections.abc import Callable

from irg_rl.config import EvaluationRecipe, GuidanceRecipe, SamplingRecipe
from irg_rl.model.folder import Folder
from rollouts.sampler import Sampler


def evaluation_sampling(sampling: SamplingRecipe, settings: EvaluationRecipe) -> SamplingRecipe:
    """Return a copy of `sampling`, a section of the recipe, for use in evaluation. The temperature is replaced by that
    of the section `settings` (`evaluation` in the recipe). The number of time points and the time shift are replaced
    only if `settings` gives them."""
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
