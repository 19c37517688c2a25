"""Converts the settings of a recipe into the settings of a rollout worker (which samples) and of a learner rank (one
process that trains). The worker and the rank can also be used without Ray."""

from dataclasses import replace
from pathlib import Path

from irg_rl.algorithms.base import algorithm_of
from irg_rl.algorithms.learner import LearnerSettings
from irg_rl.config import Recipe, adapters_of
from irg_rl.driver.limits import saving_limit
from irg_rl.learner.from_recipe import engine_settings
from irg_rl.learner.policy import sampling_law
from rollouts.worker import WorkerSettings


def worker_settings(recipe: Recipe, folder: Path | str) -> WorkerSettings:
    """Return the settings of a rollout worker that samples from the model in `folder`. The CPU threads of the machine
    are divided between all rollout actors."""
    rl = recipe.require_rl()
    threads = recipe.engine.thread_share(recipe.engine.rollout_actors)
    guidance = rl.guidance if rl.guidance is not None and rl.guidance.is_on else None
    return WorkerSettings(
        str(folder), recipe.rl_sampling, rl.noise, recipe.rl_seed, threads, recipe.engine.device,
        recipe.engine.dtype, recipe.engine.attention, training_guidance=guidance,
        record_steps=algorithm_of(recipe).records_steps, lora=adapters_of(rl), forks=rl.forks,
    )  # fmt: skip


def learner_settings(recipe: Recipe, folder: Path | str) -> LearnerSettings:
    """Return the settings of a learner rank (one process that trains) for the model in `folder`."""
    rl, sampling = recipe.require_rl(), recipe.rl_sampling
    algorithm = algorithm_of(recipe)
    engine = engine_settings(recipe, rl, rl.updates * rl.minibatches, recipe.engine.zero_stage)
    return LearnerSettings(
        folder=str(folder),
        engine=replace(engine, max_bad_steps=None),  # the driver counts: it also dumps the groups of such updates
        algorithm=algorithm,
        law=sampling_law(sampling, rl.noise if algorithm.records_steps else None, recipe.engine.dtype),
        lora=adapters_of(rl),
        seed=recipe.rl_seed,
        threads=recipe.engine.thread_share(recipe.engine.learner_ranks),
        device=recipe.engine.device,
        system_prompt=sampling.system_prompt,
        attention=recipe.engine.attention,
        max_pack_tokens=rl.max_pack_tokens,
        minibatches=rl.minibatches,
        context_grad=rl.context_grad,
        ema_decay=rl.ema_decay,
        offline=rl.rollouts is not None,
        probe_every=rl.probe_every,
        collective_timeout=saving_limit(recipe, adapters_of(rl)),
    )
