"""Settings of the machine (learner processes, rollout actors, devices) and of tracking in wandb."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from irg_rl.sections import Positive, Rate, Section

AUTO = "auto"
NO_CLIENT = (
    "an address with :// is for Ray Client, whose driver is no node of the cluster and shares no run folder with it: "
    "run irg-rl on a node of the cluster and give auto or host:port"
)


class EngineRecipe(Section):
    address: str | None = Field(default=None, exclude_if=lambda address: address is None)
    """A Ray cluster that exists already, on which the actors run: `host:port` of its head node, or `auto` for the
    address in the environment variable RAY_ADDRESS or the cluster that runs on this machine. null: a Ray of the run's
    own, on this machine alone. This setting does not change the digest."""
    placement: Literal["pack", "spread"] = Field(default="pack", exclude_if=lambda way: way == "pack")
    """How the learner ranks are placed on the nodes of the cluster. pack: on as few nodes as possible, so that the
    network between nodes is used least. spread: on as many as possible, so that they share the main memory of a node
    least. This setting does not change the digest."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    learner_ranks: Positive = 1
    """Number of processes that train together in RL. An SFT stage uses at most `packs_per_step` of them, because every
    process needs a pack (a sequence of several training rows) in each step. On GPUs, each process has its own GPU."""
    rollout_actors: Positive = 2
    critics: Positive = Field(default=1, exclude_if=lambda count: count == 1)
    """Number of actors that score groups in RL. Each has all scorers. On GPUs, each is on the GPU of a rollout actor.
    On a cluster, several critics are spread over the nodes. This setting does not change the digest."""
    threads: Positive = 2
    """Number of torch threads of one process. Actors that run at the same time share these threads."""
    device: Literal["cpu", "cuda"] = "cpu"
    gpu_share: Annotated[float, Field(ge=1e-3, le=1)] = Field(default=1.0, exclude_if=lambda share: share == 1)
    """Share of a GPU for every learner rank and every rollout actor. With 1/3, three of them run on one GPU. It must be
    1 if there are several learner ranks."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = Field(default=False, exclude_if=lambda on: not on)
    """True: compute the activations of every layer again in the backward pass instead of storing them. This takes about
    a third more time. It needs memory for the activations of only one layer, not of all layers."""
    attention: Literal["auto", "sdpa", "flex", "flash"] = Field(
        default="auto", exclude_if=lambda kernels: kernels == "auto"
    )
    """Attention kernels (docs/bagel.md). auto takes SDPA on the CPU. On a GPU, auto takes FlexAttention for packs, and
    flash-attn, if it is installed, for prompts and denoising steps."""
    deadline_s: Rate = 300.0
    """Longest time to wait for an answer of an actor, in seconds. Where an actor loads, saves or sends weights, one
    second is added for every 100 MB of them."""
    silence_s: Rate | None = Field(default=120.0, exclude_if=lambda seconds: seconds == 120)
    """A rollout actor that samples, and a critic whose process lives, send heartbeats. After so many seconds without
    one, the actor counts as hung and is replaced, before `deadline_s` is over. The time must be longer than the writing
    of one batch of texts, which on a GPU is one beat. null: only `deadline_s` counts. This setting does not change the
    digest."""
    stop_grace_s: Rate = Field(default=20.0, exclude_if=lambda seconds: seconds == 20)
    """After a signal (Ctrl-C, SIGTERM or SIGHUP): how many seconds a training step may still take, before it is
    abandoned and the run ends with its last checkpoint. Slurm usually kills a job 30 seconds after SIGTERM."""
    object_store_mb: Annotated[int, Field(ge=80)] | None = Field(default=None, exclude_if=lambda size: size is None)
    """Shared memory for groups and weights on their way between processes, in MiB. What does not fit goes to the disk.
    null: as much as RL needs (`irg-rl plan` shows it), if /dev/shm has it, and at least 512. This setting does not
    change the digest."""
    keep_checkpoints: Positive = 2

    @field_validator("address")
    @classmethod
    def address_is_one_of_ray(cls, address: str | None) -> str | None:
        if address is None or address == AUTO:
            return address
        if "://" in address:
            raise ValueError(f"{address!r:.140}: {NO_CLIENT}")
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError(f"{address!r:.140}: give auto or host:port, such as 10.0.0.1:6379")
        return address

    def thread_share(self, processes: int) -> int:
        """Return the number of torch threads of one of `processes` that run at the same time."""
        return max(self.threads // processes, 1)

    @property
    def processes_per_gpu(self) -> int:
        """How many learner ranks or rollout actors run on one GPU. Ray rounds `gpu_share` in this way, and it never
        gives one of them parts of two GPUs."""
        return 10_000 // round(10_000 * self.gpu_share)

    @property
    def gpus(self) -> float:
        """Number of GPUs that a learner process or a rollout actor requests from Ray. It can be a fraction. It is 0 on
        the CPU."""
        return self.gpu_share if self.device == "cuda" else 0.0


class TrackingRecipe(Section):
    wandb: bool = True
    project: str = "irg-rl"
    """Name of the project in wandb."""

    @field_validator("project")
    @classmethod
    def project_is_a_name(cls, project: str) -> str:
        if not 0 < len(project) <= 128 or set(project) & set("/\\#?%:") or not project.isprintable():
            raise ValueError(f"{project!r:.140}: wandb takes 1 to 128 characters without / \\ # ? % and :")
        return project
