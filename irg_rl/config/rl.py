"""Reinforcement learning: groups, credit and the algorithms."""

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from irg_rl.config.sampling import GuidanceRecipe, NoiseRecipe
from irg_rl.config.sections import Decay, PathText, Positive, Rate, Section, Seed, Share
from irg_rl.config.training import LoraRecipe, LoraSection, OptimizerRecipe, Stage

ON_DRAWN_IMAGES = ("nft", "awm", "dpo")
"""Algorithms that train on drawn images, noised afresh; each has a section of its name in `rl`."""
OF_SAMPLING = {"forks": "null", "guidance": "null", "staleness": 0, "dump_every": 0}
"""Settings of `rl` that are about sampling alone, and what each is where nothing is sampled."""


class OldPolicyRecipe(Section):
    """The old policy of NFT and AWM: a copy of the trained weights that draws the samples, texts too, and follows after
    each update: old = decay * old + (1 - decay) * new. The decay after update n (from 0) is 0 while n < flat, then
    min(slope * (n - flat), most). DiffusionNFT's two schedules are 0, .001, .5 and 75, .0075, .999."""

    flat: int = Field(0, ge=0)
    slope: float = Field(1e-3, ge=0)
    most: Decay = 0.5

    def decay(self, update: int) -> float:
        return 0.0 if update < self.flat else min(self.slope * (update - self.flat), self.most)


class NoisingRecipe(Section):
    """What nft, awm and dpo share: drawn images are noised afresh and the velocity there is trained."""

    times_per_image: Positive = 4
    """Noise levels of every image in an update, one from each equal part of the (shifted) range."""
    time_range: tuple[float, float] = (0.02, 1.0)
    """Smallest and largest noise level, 1 is noise."""

    @field_validator("time_range")
    @classmethod
    def range_is_of_times(cls, span: tuple[float, float]) -> tuple[float, float]:
        low, high = span
        if not 0 < low < high <= 1:
            raise ValueError(f"[{low}, {high}] must satisfy 0 < smallest < largest <= 1")
        return span


class NFTRecipe(NoisingRecipe):
    """DiffusionNFT, arXiv 2509.16117."""

    old: OldPolicyRecipe = OldPolicyRecipe()
    beta: Rate = 1.0
    """How far the velocities of the good and of the bad policy lie from the old one; .1 in the paper's multi-reward
    runs."""
    bound: Rate = 5.0
    """Advantage at which a sample counts as good for certain."""


class AWMRecipe(NoisingRecipe):
    """Advantage-weighted matching, arXiv 2509.25050."""

    old: OldPolicyRecipe = OldPolicyRecipe()
    weight: Literal["uniform", "t", "t2", "huber", "ghuber"] = "uniform"
    """Of a time's matching error in the log-probability that it stands for."""
    power: Rate = 0.25
    """weight ghuber: its exponent."""
    clip: Rate = 1.0
    """Clip range of the ratio to the old policy."""


class DPORecipe(NoisingRecipe):
    """DPO on texts and images after a fork, arXiv 2305.18290 and 2311.12908; the reference are the first weights of the
    stage."""

    kind: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    beta_text: Rate = 0.1
    """Of the log-ratio of a whole answer's texts; with kind ipo, of its mean over tokens."""
    beta_image: Rate = 100.0
    """Of the difference of squared velocity errors, means over an image's numbers; raise it where the loss jumps."""
    tie: float = Field(0.05, ge=0)
    """Ways of a fork whose rewards (means over their branches) differ by no more are no pair: set it to the noise of
    the judge."""
    pairs_per_fork: Positive = 1
    """Best way against worst, second best against second worst, ..."""


class RLRecipe(Section):
    seed: Seed | None = None
    """Seed of RL: the order of its prompts and every random number of its samples. None: the recipe's. World, SFT and
    evaluation keep the recipe's, so that several seeds of RL share them (`irg-rl fork`)."""
    algorithm: Literal["grpo", "nft", "awm", "dpo"] = Field("grpo", exclude_if=lambda name: name == "grpo")
    """What images are trained with: their noisy denoising steps (grpo), or fresh noisings of what was drawn, whichever
    way it was drawn (nft, awm); texts with `text_loss`. dpo trains both by preference: where siblings part, the way
    with the best last images against the one with the worst."""
    nft: NFTRecipe | None = Field(None, exclude_if=lambda section: section is None)
    """algorithm nft: its settings; None: the defaults."""
    awm: AWMRecipe | None = Field(None, exclude_if=lambda section: section is None)
    """algorithm awm: its settings; None: the defaults."""
    dpo: DPORecipe | None = Field(None, exclude_if=lambda section: section is None)
    """algorithm dpo: its settings; None: the defaults."""
    rollouts: PathText | None = Field(None, exclude_if=lambda folder: folder is None)
    """algorithm dpo: folder of scored groups to learn from, as `irg-rl rollout` or a run's `dump_every` writes it;
    None: the run samples."""
    updates: Positive = 60
    groups: Positive = 8
    """Prompts per update."""
    group_size: Annotated[int, Field(ge=2)] = 8
    forks: dict[Positive, Annotated[int, Field(ge=2)]] = Field({}, exclude_if=lambda forks: not forks)
    """Turn -> ways in which every trajectory branches at its start: {1: 4} draws four reflections and refined images
    from each first image. Several turns multiply, and what they make of one trunk must divide `group_size`. Siblings
    share what precedes their fork, which is sampled, scored and learned from once. Empty or null: no forks."""
    prompts: PathText | None = None
    """jsonl of prompts with metadata; None: the world's training prompts."""
    credit: Literal["trajectory", "turn", "verifier_gae", "improvement", "umm", "no_improve_clamp"] = "turn"
    gamma: Share = 1.0
    gae_lambda: Share = 1.0
    """credit verifier_gae: lambda of its returns; unbiased at 1 only."""
    edit_price: float = Field(0.0, ge=0)
    """credit verifier_gae: taken from the reward for every image after the first."""
    std_floor: float = Field(0.05, ge=0)
    advantage_clip: Rate = 5.0
    malformed_penalty: float = Field(1.0, ge=0)
    """Subtracted from the advantage of a text that never ended; dpo: from what a trajectory with one is worth."""
    text_loss: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = "dapo"
    clip_text: tuple[float, float] = (0.2, 0.28)
    clip_image: Rate = 1e-3
    ratio_norm: bool = False
    text_weight: float = Field(1.0, ge=0)
    image_weight: float = Field(1.0, ge=0)
    kl_text: float = Field(0.0, ge=0)
    kl_image: float = Field(0.0, ge=0)
    noise: NoiseRecipe | None = NoiseRecipe()
    """Stochastic denoising steps, which grpo trains; None (not with grpo): images are drawn without noise."""
    guidance: GuidanceRecipe | None = Field(None, exclude_if=lambda guidance: guidance is None)
    """Not with grpo: guidance of the images that are drawn for training; texts are never guided."""
    points: Annotated[int, Field(ge=2)] | None = Field(None, exclude_if=lambda points: points is None)
    """Time points of the flow in RL; None: those of `sampling`."""
    optimizer: OptimizerRecipe = OptimizerRecipe(lr=5e-5, betas=(0.9, 0.95))
    lora: LoraSection = None
    """None: all weights are trained."""
    minibatches: Positive = 1
    """Optimizer steps per batch of groups; more than one makes the later ones off-policy."""
    staleness: Annotated[int, Field(ge=0)] = 0
    """Weight versions a trained sample may be behind; 0 is synchronous and bit-reproducible on CPU."""
    context_grad: Literal["full", "detached"] = "full"
    max_pack_tokens: Positive = 8192
    ema_decay: Decay | None = None
    """Decay of the averaged weights that evaluation and `models/rl` use; None: the weights of the last update."""
    probe_every: int = Field(0, ge=0)
    """Updates between gradient norms of the image loss alone (does it reach the understanding expert?); 0: never."""
    checkpoint_every: Positive = 20
    dump_every: int = Field(0, ge=0, exclude_if=lambda updates: not updates)
    """Updates between dumps of the trained groups into `rollouts/` of the run, for `irg-rl show` and, when it is 1,
    `irg-rl replay`; 0: none."""

    @field_validator("forks", mode="before")
    @classmethod
    def null_is_no_forks(cls, forks: Any) -> Any:
        """An override cannot empty a mapping: it is merged into the one below."""
        return {} if forks is None else forks

    @property
    def leaves(self) -> int:
        """Trajectories that the forks make of one trunk."""
        return prod(self.forks.values())

    def rows(self, turn: int) -> int:
        """Siblings of a group that are apart in that turn, at most."""
        return self.group_size // prod(ways for at, ways in self.forks.items() if at > turn)

    @model_validator(mode="before")
    @classmethod
    def section_of_the_algorithm(cls, data: Any) -> Any:
        """The algorithm's settings are written down, defaults too."""
        if not isinstance(data, Mapping) or data.get("algorithm") not in ON_DRAWN_IMAGES:
            return data
        return data if data.get(data["algorithm"]) is not None else {**data, data["algorithm"]: {}}

    @property
    def forward_process(self) -> NFTRecipe | AWMRecipe | None:
        """Settings of nft or awm."""
        return {"nft": self.nft, "awm": self.awm}.get(self.algorithm)

    @property
    def noising(self) -> NoisingRecipe | None:
        """Settings of an algorithm that noises drawn images afresh."""
        return {"nft": self.nft, "awm": self.awm, "dpo": self.dpo}.get(self.algorithm)

    @property
    def trains_steps(self) -> bool:
        """Whether the sampler's denoising steps are replayed."""
        return self.algorithm == "grpo"

    def problems(self) -> list[str]:
        """Settings that say nothing under the algorithm, or that it cannot do without."""
        name = self.algorithm
        problems = [
            f"rl.{other} has no effect with rl.algorithm {name}: set rl.{other}=null, or rl.algorithm={other}"
            for other in ON_DRAWN_IMAGES
            if other != name and vars(self)[other] is not None
        ]
        if self.guidance is not None and self.guidance.image_scale > 1 >= self.guidance.text_scale:
            problems.append("rl.guidance.image_scale has no effect without text guidance: set text_scale above 1")
        if self.trains_steps and self.noise is None:
            problems.append(f"rl.algorithm {name} trains noisy denoising steps: give rl.noise, or take nft, awm or dpo")
        if self.trains_steps and self.guidance is not None:
            problems.append(
                f"rl.guidance: no single forward replays a guided step, which rl.algorithm {name} has to do; leave it "
                "out, or take nft, awm or dpo, which train on the drawn images"
            )
        if self.ratio_norm and not self.trains_steps:
            problems.append(f"rl.ratio_norm has no effect with rl.algorithm {name}: no step is replayed")
        if self.forward_process is not None and not self.image_weight:
            problems.append(f"rl.image_weight 0 leaves rl.algorithm {name} nothing to do: take grpo")
        if name == "dpo":
            problems += [
                f"rl.{kl} has no effect with rl.algorithm dpo, whose own reference holds the policy: set it to 0"
                for kl in ("kl_text", "kl_image")
                if vars(self)[kl]
            ]
            if self.rollouts is not None:
                problems += [
                    f"rl.{sampled} has no effect with rl.rollouts, where nothing is sampled: set rl.{sampled}={unset}"
                    for sampled, unset in OF_SAMPLING.items()
                    if vars(self)[sampled]
                ]
        elif self.rollouts is not None:
            problems.append(
                f"rl.rollouts: rl.algorithm {name} learns from samples of its own policy; take dpo, or leave it out"
            )
        return problems


def adapters_of(trained: Stage | RLRecipe) -> LoraRecipe | None:
    """The adapters that a stage trains: those of the experts with a learning rate."""
    if trained.lora is None:
        return None
    rates = trained.optimizer.rates
    experts = tuple(expert for expert in trained.lora.experts if rates[expert])
    return trained.lora.model_copy(update={"experts": experts})
