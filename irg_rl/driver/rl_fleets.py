"""The two fleets of RL: rollout actors, which sample groups, and critics, which score them."""

from collections.abc import Mapping
from pathlib import Path

import ray
from ray.actor import ActorProxy

from irg_rl.cluster.beats import no_beat
from irg_rl.cluster.fleet import Fleet, FleetSettings, actor_name
from irg_rl.cluster.placement import ActorRoom
from irg_rl.cluster.pulse import Pulse
from irg_rl.cluster.ray_runtime import actor_options
from irg_rl.config import adapters_of
from irg_rl.driver.critic import Critic, CriticSettings
from irg_rl.driver.learners import Learners
from irg_rl.driver.limits import sending_limit, start_limit
from irg_rl.driver.prepare import model_path
from irg_rl.driver.rl_settings import worker_settings
from irg_rl.driver.room import ANYWHERE, CRITIC, ROLLOUT
from irg_rl.driver.run_folder import Run
from rollouts.worker import RolloutWorker

ROLLOUTS, CRITICS = "rollout", "critic"
"""Names of the two fleets."""


def rl_fleets(
    run: Run, start: str, learners: Learners, specs: list[dict], room: Mapping[str, ActorRoom] = ANYWHERE
) -> tuple[Fleet, Fleet]:
    """Start the rollout actors and the critics of a run, and return their fleets. With `engine.silence_s`, both fleets
    listen to the heartbeats of their actors. `specs` are the scorers (scorers.py). `start` is the model folder from
    which RL starts."""
    silence = run.recipe.engine.silence_s
    pulse = None if silence is None else Pulse(silence)
    return rollout_fleet(run, start, learners, room[ROLLOUT], pulse), critic_fleet(run, specs, room[CRITIC], pulse)


def rollout_fleet(
    run: Run, start: str, learners: Learners, room: ActorRoom = ANYWHERE[ROLLOUT], pulse: Pulse | None = None
) -> Fleet:
    recipe = run.recipe
    settings = worker_settings(recipe, model_path(run, start))
    options = actor_options(threads=settings.threads, cpus=0, gpus=recipe.rollout_gpus)
    actor = ray.remote(RolloutWorker)

    def start_worker(index: int) -> ActorProxy[RolloutWorker]:
        beat = None if pulse is None else pulse.beat(actor_name(ROLLOUTS, index))
        return actor.options(**options, **room.place(index)).remote(settings, beat)

    return Fleet(
        ROLLOUTS, start_worker,
        FleetSettings(
            recipe.engine.rollout_actors, recipe.engine.deadline_s,
            start_limit(recipe, model_path(run, start)) + sending_limit(recipe, adapters_of(recipe.require_rl())),
        ),
        prepare=lambda handle: handle.set_weights.remote(*arguments(learners)), pulse=pulse,
    )  # fmt: skip


def arguments(learners: Learners) -> tuple:
    """Return the newest published weights as a tuple (reference to the weights, version, digest). The samplers' method
    `set_weights` takes these three values as arguments. The digest is a hash of the weights."""
    message = learners.message
    return message.arrays, message.version, message.digest


def critic_fleet(
    run: Run, specs: list[dict], room: ActorRoom = ANYWHERE[CRITIC], pulse: Pulse | None = None
) -> Fleet:
    recipe = run.recipe
    settings, paths = CriticSettings.of(recipe), [s.path for s in recipe.rewards.scorers if s.path is not None]
    actor, options = ray.remote(Critic), actor_options(threads=1, cpus=0, gpus=recipe.critic_gpus)
    share = recipe.rewards.max_failure_share

    def start_critic(index: int) -> ActorProxy[Critic]:
        beat = no_beat if pulse is None else pulse.beat(actor_name(CRITICS, index))
        return actor.options(**options, **room.place(index)).remote(specs, settings, 1, share, index, beat)

    limits = FleetSettings(recipe.engine.critics, recipe.engine.deadline_s, start_limit(recipe, *map(Path, paths)))
    return Fleet(CRITICS, start_critic, limits, pulse=pulse)
