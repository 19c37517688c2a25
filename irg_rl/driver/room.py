"""The Ray on which a stage of a run works, and the room for the actors of the stage. Without `engine.address` it is a
Ray of the run's own on this machine. With it, it is a cluster. There the room for all actors is reserved first."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from irg_rl.cluster.attached import AttachedRay
from irg_rl.cluster.placement import ActorDemand, ActorRoom, reserve
from irg_rl.cluster.ray_runtime import LocalRay, RaySettings
from irg_rl.cluster.shared_folder import SharedFolder
from irg_rl.cluster.shared_memory import free_shared_memory, store_mb
from irg_rl.config import Recipe, Stage
from irg_rl.driver.run_folder import Run
from irg_rl.driver.scorers import scores_beside_driver
from rollouts.traffic import store_bytes

LEARNER, ROLLOUT, CRITIC = "learner rank", "rollout actor", "critic"
ANYWHERE = {name: ActorRoom(name) for name in (LEARNER, ROLLOUT, CRITIC)}
"""The room on a Ray of the run's own: its actors may start anywhere."""


def asked_by_sft(recipe: Recipe, stage: Stage) -> list[ActorDemand]:
    """Return the actors of an SFT stage. If the stage has only one rank, this is the driver's own process."""
    count = recipe.sft_ranks(stage)
    return [_learners(recipe, count)] if count > 1 else []


def asked_by_rl(recipe: Recipe) -> list[ActorDemand]:
    """Return the actors of RL.

    A critic that is alone and needs no GPU is beside the driver. So the groups that wait for their training are on the
    node without which the run cannot go on anyway. If only the machine of the driver reaches a scorer, all critics are
    there. Critics that need a share of a GPU are asked for last, so that they take what the other actors leave.
    """
    engine = recipe.engine
    if recipe.require_rl().rollouts is not None:
        return [_learners(recipe, engine.learner_ranks)]
    beside = scores_beside_driver(recipe) or engine.critics == 1 and not recipe.critic_gpus
    critics = ActorDemand(CRITIC, engine.critics, 1, recipe.critic_gpus, beside_driver=beside)
    others = [
        _learners(recipe, engine.learner_ranks),
        ActorDemand(ROLLOUT, engine.rollout_actors, engine.thread_share(engine.rollout_actors), recipe.rollout_gpus),
    ]
    return [*others, critics] if recipe.critic_gpus else [critics, *others]


def _learners(recipe: Recipe, count: int) -> ActorDemand:
    engine = recipe.engine
    return ActorDemand(LEARNER, count, engine.thread_share(count), engine.gpus, engine.placement.upper())


def ray_settings(recipe: Recipe) -> RaySettings:
    """Return the settings of Ray for RL. Raises InputError if the shared memory of this machine is too small for
    `engine.object_store_mb`."""
    size = store_mb(store_bytes(recipe), recipe.engine.object_store_mb, free_shared_memory())
    return RaySettings(num_cpus=max(recipe.engine.threads, 2), object_store_mb=size)


@contextmanager
def ray_with_room(run: Run, settings: RaySettings, asked: Sequence[ActorDemand]) -> Iterator[Mapping[str, ActorRoom]]:
    """Give a context (for `with`) in which Ray runs. It yields the room for the actors of each kind.

    With `engine.address`, raises PlacementError if the cluster has no room for the actors in `asked`, and
    SharedFolderError if a node on which they would run does not see the run folder.
    """
    address = run.recipe.engine.address
    if address is None:
        with LocalRay(settings, run.folder):
            yield ANYWHERE
        return
    with AttachedRay(address, run.folder.name, settings.quiet), SharedFolder(run.folder) as shared:
        room = reserve(asked, shared.check)
        shared.check(*(node for kind in room.values() for node in kind.nodes()))
        yield room
