"""The SFT stages of a run: base training, stage 1, and stage 2. Between stages 1 and 2 the model may draw first images
itself, and stage 2 then also learns to improve these images. Stages 1 and 2 train with IRGL, the six learning modes of
Interleaving Reasoning Generation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch

from irg_rl import faults, stopping
from irg_rl.cluster.ranks import Ranks
from irg_rl.cluster.ray_runtime import RaySettings, actor_options
from irg_rl.config import OWN_REFINED, Stage, adapters_of
from irg_rl.driver.compare import CONTINUED
from irg_rl.driver.limits import saving_limit, start_limit
from irg_rl.driver.prepare import OWN_ROWS, as_world, load_model, model_path, prompts_of, save_trained
from irg_rl.driver.progress import bar, console
from irg_rl.driver.resuming import newest_checkpoint
from irg_rl.driver.room import LEARNER, asked_by_sft, ray_with_room
from irg_rl.driver.run_folder import Run, RunError
from irg_rl.learner.ema import EMA
from irg_rl.learner.engine import Engine
from irg_rl.learner.from_recipe import engine_settings
from irg_rl.learner.lora import load_trainable
from irg_rl.learner.process_group import LOOPBACK, Rank, host_store, join
from irg_rl.learner.reduce import gather_objects
from irg_rl.learner.update import StepResult
from irg_rl.model.folder import Folder, load_autoencoder
from irg_rl.model.pack import Pack, PackBuilder
from irg_rl.report.tracking import Tracker
from irg_rl.task import task_of
from rollouts.images import vit_resize
from rollouts.noise import hashed
from rollouts.request import Request
from rollouts.sampler import Sampler
from sft.dataset import Rejections, RowSource
from sft.digests import FileDigests
from sft.encode import RowEncoder, vae_resize
from sft.latents import LatentStore
from sft.packing import RowLayout
from sft.stream import PackStream
from sft.train import Identity, StageTrainer, is_own, own_weights

VALIDATION_SEED = 987_654_321


def builder_of(folder: Folder) -> PackBuilder:
    config = folder.model.config
    return PackBuilder(folder.tokenizer.special, config.max_latent_size, config.vit.max_patches_per_side)


def idle_pack(folder: Folder) -> Pack:
    """Return a small pack (the token sequence of one forward pass) that uses every module of the model. All ranks
    (training processes) must make the same number of forward passes. So a rank that has fewer packs than the others
    runs this pack."""
    config, builder = folder.model.config, builder_of(folder)
    text = builder.add_text([0], loss=True)
    builder.add_vit(torch.zeros(1, config.vit.patch_dim), (1, 1), text)
    builder.add_noise(torch.zeros(1, config.latent_dim), 0.5, (1, 1), text)
    return builder.build(touch_all=True)


class StageRank:
    """One rank (training process) of the SFT stage `name`. The stage starts from the model folder `start` of the run.
    Each call of `advance` makes one training step.

    With several ranks, each is a Ray actor that is made by `ray.remote(StageRank)`. A single rank runs in the driver's
    own process. All methods except `open_port` must be called on every rank. The driver uses the answer of rank 0.
    """

    def __init__(
        self, run: Run, name: str, start: str, stage: Stage, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        engine = run.recipe.engine
        torch.set_num_threads(max(engine.threads // world_size, 1))
        self.run, self.name, self.start, self.stage, self.seed = run, name, start, stage, seed
        self.place = Rank(rank, world_size, engine.device)
        self.lora = adapters_of(stage)
        self._store = None
        self._told: list[tuple[str, tuple]] = []

    @property
    def _patience(self) -> float:
        """Return for how many seconds a rank waits for the other ranks before it fails. They may load the model, or
        write a checkpoint."""
        recipe = self.run.recipe
        return max(start_limit(recipe, model_path(self.run, self.start)), saving_limit(recipe, self.lora))

    def open_port(self, address: str = LOOPBACK) -> int:
        """Open a network port at which the ranks connect to each other, and return its number. This is called only on
        rank 0. `address` is the address of rank 0 at which the other ranks reach it."""
        self._store = host_store(self.place.world_size, self._patience, address)
        return self._store.port

    def setup(self, port: int | None = None, address: str = LOOPBACK) -> None:
        """Connect to the other ranks (training processes). Then build the model, the stream of training data and the
        trainer. `port` is the number that `open_port` has returned on rank 0 for `address`. It is None if there is only
        one rank."""
        run, recipe, stage, seed = self.run, self.run.recipe, self.stage, self.seed
        sft = recipe.sft
        assert sft is not None
        join(self.place, self._store, port, self._patience, address)
        path = model_path(run, self.start)
        device = recipe.engine.device
        model, tokenizer = load_trainable(
            path, device, recipe.engine.dtype, self.lora, seed, recipe.engine.attention
        )
        folder = Folder(model, load_autoencoder(path, device), tokenizer)
        rejections = Rejections(
            run.path("rejected.jsonl"), self.place.rank == 0, sft.rejected_share, self.place.world_size
        )
        sources = row_sources(run, stage, seed, rejections)
        system = folder.tokenizer.encode(recipe.sampling.system_prompt) if recipe.sampling.system_prompt else None
        layout = RowLayout(sft.dropout, stage.noise_blocks_by_kind, recipe.model.timestep_shift, system)
        stream = PackStream(
            stage, sources, row_encoder(folder, sft.latents), layout, lambda: builder_of(folder), seed,
            lambda number: is_own(number, stage, self.place), sft.data_workers,
        )  # fmt: skip
        settings = engine_settings(recipe, stage, stage.steps, recipe.sft_zero_stage)
        engine = Engine(folder.model.train(), settings, idle_pack(folder), self.place)
        ema = EMA(own_weights(engine), sft.ema_decay)
        fingerprint = "-".join(source.fingerprint for source in sources)
        self.rejections = rejections
        self.trainer = StageTrainer(
            engine, ema, stream, stream.held_out(VALIDATION_SEED), stage, run.path(self.name),
            Identity(recipe.model_dump(mode="json"), recipe.digest(), fingerprint),
            sft.validate_every, sft.checkpoint_every, recipe.engine.keep_checkpoints,
            on_step=lambda *said: self._told.append(("step", said)),
            on_validation=lambda *said: self._told.append(("validation", said)),
            on_checkpoint=lambda *said: self._told.append(("checkpoint", said)),
        )  # fmt: skip

    def resume(self, path: Path) -> int:
        """Load the checkpoint in the folder `path`. Return the number of the training step from which training
        continues."""
        return self.trainer.resume(path)

    def advance(self) -> list[tuple[str, tuple]] | None:
        """Make one training step. The stage's settings say after which steps this method also validates or writes a
        checkpoint. Return a list of the events of this step as (kind, arguments). The kinds are `step`, `validation`
        and `checkpoint`. The arguments describe the event, for example the validation metrics. If the stage is already
        done, make no step and return None."""
        if self.trainer.is_done:
            return None
        faults.at("sft_rank", self.trainer.engine.steps + 1, str(self.place.rank))
        self._told.clear()
        self.trainer.advance()
        return list(self._told)

    def save(self) -> int:
        """Write an extra checkpoint now, whatever the stage's settings say about checkpoints. Return its step."""
        self.trainer.save()
        return self.trainer.engine.steps

    def finish(self) -> dict:
        """Write the moving average of the weights as a model folder (only rank 0 writes). Return a dict with two
        numbers: `steps`, the number of training steps, and `rejected_rows`, the number of broken rows (training
        examples) that were left out."""
        average = self.trainer.average()
        rejected = set[tuple[str, int, int]]().union(*gather_objects(self.rejections.seen))
        if self.place.rank == 0:
            save_trained(self.run, self.start, average, self.name, self.lora)
        return {"steps": self.trainer.engine.steps, "rejected_rows": len(rejected)}


@contextmanager
def stage_ranks(run: Run, name: str, start: str, stage: Stage, seed: int) -> Iterator[Callable[..., Any]]:
    """Give a context (for `with`) in which the ranks (training processes) of the SFT stage `name` run. They start from
    the model folder `start`. The context yields a function. It takes the name of a method of `StageRank` and its
    arguments, calls this method on every rank, and returns the answer of rank 0."""
    engine, count = run.recipe.engine, run.recipe.sft_ranks(stage)
    if count == 1:
        alone = StageRank(run, name, start, stage, seed)
        alone.setup()
        try:
            yield lambda method, *args: getattr(alone, method)(*args)
        finally:
            alone.trainer.stream.close()
            del alone.trainer  # its callbacks refer to the rank, and this cycle would keep the engine in memory
        return
    options = actor_options(
        threads=max(engine.threads // count, 1), cpus=0, gpus=engine.gpus,
        environment={"DS_ACCELERATOR": engine.device},
    )  # fmt: skip
    for source in row_sources(run, stage, seed, Rejections()):
        _ = source.fingerprint  # computed here once, so that not every rank reads all files
    cores = RaySettings(num_cpus=max(engine.threads, 2))
    with ray_with_room(run, cores, asked_by_sft(run.recipe, stage)) as room:
        actor = ray.remote(StageRank)
        ranks = Ranks(
            f"{name} learner",
            lambda rank: actor.options(**options, **room[LEARNER].place(rank)).remote(
                run, name, start, stage, seed, rank, count
            ),
            count, room[LEARNER].meeting_address(),
        )  # fmt: skip
        try:
            ranks.start(start_limit(run.recipe, model_path(run, start)))
            longest = saving_limit(run.recipe, adapters_of(stage))  # any step may write a checkpoint
            yield lambda method, *args: ranks.call(method, *args, timeout=longest)[0]
        finally:
            ranks.stop()


def train_stage(
    run: Run, name: str, start: str, stage: Stage, tracker: Tracker, facts: dict, seed: int | None = None
) -> None:
    """Train one SFT stage, starting from the model folder `start` of the run. Write the moving average of the weights
    as the model folder `name`.

    Metrics are logged in `tracker`. Facts about the stage, such as the number of steps, are put into `facts`. `seed`
    decides the order of the rows (training examples) and their noise. If it is None, the seed of the recipe is used.
    """
    seed = run.recipe.seed if seed is None else seed
    begun = newest_checkpoint(run, name)
    with stage_ranks(run, name, start, stage, seed) as call:
        step = 0 if begun is None else call("resume", begun)
        tracker.rewind(name, step)
        with bar(f"SFT {name}", stage.steps, step) as progress:

            def on_step(result: StepResult) -> None:
                progress.advance(note=f"ce {result.terms['ce']:.3f} mse {result.terms['mse']:.3f}")
                if result.step % 20 == 0:
                    tracker.log(name, result.step, step_metrics(result))

            def on_validation(step: int, metrics: dict) -> None:
                facts["validation"] = metrics
                tracker.log(name, step, {f"validation/{key}": value for key, value in metrics.items()})

            hear = {"step": on_step, "validation": on_validation, "checkpoint": lambda: run.count_time(name)}
            with stopping.loop():
                while (told := call("advance")) is not None:
                    for what, said in told:
                        hear[what](*said)
                    if stopping.asked():
                        saved = call("save")
                        run.count_time(name)
                        stopping.end(f"step {saved} of {name}")
        facts.update(call("finish"))
    if facts["rejected_rows"]:
        console.print(f"{name}: {facts['rejected_rows']} broken rows rejected, see {run.path('rejected.jsonl')}")


def step_metrics(result: StepResult) -> dict[str, float]:
    shared = {f"grad_norm/{part}": norm for part, norm in result.grad_norms.items()}
    tokens = max(result.sums["tokens"], 1.0)
    return {**result.terms, **shared, "right_tokens": result.sums["right"] / tokens, "lr": result.learning_rates["und"]}


def row_sources(run: Run, stage: Stage, seed: int, rejections: Rejections) -> list[RowSource]:
    sft = run.recipe.sft
    assert sft is not None
    own, digests = run.path("world", "rows"), FileDigests(run.path("data_digests.json"), console.print)
    data = Path(sft.data) if sft.data is not None else own
    hold_out = -(-sft.validation_rows // len(stage.sources))
    return [
        RowSource(
            (own if source.folder == OWN_REFINED else data) / source.folder, seed + number, rejections, hold_out,
            digests,
        )  # fmt: skip
        for number, source in enumerate(stage.sources)
    ]


def row_encoder(folder: Folder, latents: str | None = None) -> RowEncoder:
    config = folder.model.config
    store = None if latents is None else LatentStore(Path(latents), folder.autoencoder)
    return RowEncoder(folder.tokenizer, folder.autoencoder, vae_resize(config), vit_resize(config), store=store)


def draw_own_images(run: Run, start: str, facts: dict) -> None:
    """Let the model in the folder `start` draw first images, and make SFT rows (training examples) from these images.
    The rows teach how to improve the images. So the model learns from its own wrong images, and also from its images
    that are already right. The number of images is put into `facts`."""
    recipe, world = run.recipe, as_world(task_of(run.recipe))
    torch.set_num_threads(recipe.engine.threads)
    folder = load_model(run, start)
    folder.model.eval()
    sampling = recipe.sampling.model_copy(update={"points": world.own_image_points})
    sampler = Sampler(folder.model, folder.autoencoder, folder.tokenizer, sampling)
    train = prompts_of(run, "train")
    prompts = [train[i % len(train)] for i in range(world.own_images)]
    images = []
    size = recipe.evaluation.batch_size
    with bar("own first images", len(prompts)) as progress:
        for begin in range(0, len(prompts), size):
            part = prompts[begin : begin + size]
            requests = [Request(p, begin + i, recipe.seed, think=world.think_text(p)) for i, p in enumerate(part)]
            images += [t.images[0].pixels.numpy() for t in sampler.sample(requests, turns=1)]
            progress.advance(len(part))
    world.write_own_rows(run.path("world", "rows", OWN_ROWS), images, prompts)
    facts["images"] = len(images)


def continue_sft(run: Run, tracker: Tracker, facts: dict) -> None:
    """Train a baseline with which the model after RL is compared. For the baseline, the training of the model after SFT
    continues for as long as RL took. It uses the settings of the last SFT stage, but the rows (training examples) come
    in another order. Metrics are logged in `tracker`. Facts such as the number of steps are put into `facts`."""
    order = hashed(run.recipe.seed, CONTINUED) % 2**31
    name = run.sft_model
    assert name is not None
    train_stage(run, CONTINUED, name, continued_stage(run), tracker, facts, order)


def require_finished(run: Run) -> None:
    """Check that a baseline can be made for this run. Raise RunError in three cases: the run has no SFT, it has no RL,
    or it is not finished."""
    if run.sft_model is None or run.recipe.rl is None:
        raise RunError(f"{run.folder}: the baseline continues SFT for as long as RL took, so the run needs both")
    if not run.is_done("report"):
        raise RunError(f"{run.folder}: not finished yet: `irg-rl resume {run.folder}` first, then the baseline")


def continued_stage(run: Run) -> Stage:
    """Return the settings of the last SFT stage, but with as many steps as fit into the time that RL took. Early
    stopping is switched off, so that the baseline gets the same time as RL."""
    require_finished(run)
    sft, done = run.recipe.sft, run.stages[str(run.sft_model)]
    assert sft is not None
    if not done["seconds"] or not done.get("steps"):
        raise RunError(f"{run.folder / 'stages.json'}: {run.sft_model} lacks its seconds or steps; put back a copy")
    steps = max(round(run.stages["rl"]["seconds"] / (done["seconds"] / done["steps"])), 1)
    return list(sft.stages.values())[-1].model_copy(update={"steps": steps, "patience": steps})
