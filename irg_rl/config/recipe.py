"""The whole recipe, and what its sections have to agree on."""

import hashlib
import json
import re

import yaml
from pydantic import field_validator, model_validator

from irg_rl.config.engine import EngineRecipe, TrackingRecipe
from irg_rl.config.evaluation import EvaluationRecipe, GateRecipe
from irg_rl.config.rewards import RewardRecipe
from irg_rl.config.rl import RLRecipe
from irg_rl.config.sampling import SamplingRecipe
from irg_rl.config.sections import PathText, Section, Seed, nearest
from irg_rl.config.training import SFTRecipe, Stage
from irg_rl.config.world import VAETraining, WorldRecipe
from irg_rl.errors import InputError
from irg_rl.model.config import ModelConfig

OWN_ROWS = "own"
"""Folder of the rows made from the model's own images, among those of `sft.data`."""
OWN_MODES = ("improving_full_learning", "improving_thinking_generation_learning")
"""Learning modes of these rows."""
WHOLE_TRAJECTORIES = ("umm", "no_improve_clamp")
"""Schemes of `rl.credit` that have no meaning where siblings share segments."""
STAGES = (
    "world", "vae", "scorers", "pretrain", "sft1", "own_images", "sft2", "evaluate_sft", "rl", "evaluate_rl", "report",
    "sft_continued", "evaluate_sft_continued",
)  # fmt: skip
"""What a run goes through, in order, and the two that `irg-rl baseline` adds: the keys of `budget_minutes`."""


class Recipe(Section):
    """Everything that defines a run."""

    name: str
    description: str = ""
    seed: Seed = 0
    output_dir: PathText = "runs"
    """Folder that receives one folder per run."""
    budget_minutes: dict[str, float] = {}
    """Expected minutes per stage, printed beside the measured ones."""
    init_from: PathText | None = None
    """Checkpoint folder in the released BAGEL layout; None: a small model from scratch on the shapes world."""
    model: ModelConfig
    world: WorldRecipe = WorldRecipe()
    vae: VAETraining = VAETraining()
    sft: SFTRecipe | None = None
    sampling: SamplingRecipe = SamplingRecipe()
    rewards: RewardRecipe = RewardRecipe()
    rl: RLRecipe | None = None
    engine: EngineRecipe = EngineRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()
    gate: GateRecipe = GateRecipe()
    tracking: TrackingRecipe = TrackingRecipe()

    @field_validator("name")
    @classmethod
    def name_is_of_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[\w+=-][\w.+=, -]{0,119}", name) or name != name.strip():
            raise ValueError(
                f"{name!r:.140} becomes the name of a folder: 1 to 120 letters, digits, spaces and . , + = - _, not "
                "beginning with a point"
            )
        return name

    @field_validator("budget_minutes")
    @classmethod
    def stages_are_known(cls, budget: dict[str, float]) -> dict[str, float]:
        unknown = [stage for stage in budget if stage not in STAGES]
        if unknown:
            raise ValueError("\n".join(f"unknown stage {stage!r}{nearest(stage, STAGES)}" for stage in unknown))
        return budget

    @model_validator(mode="after")
    def settings_fit_together(self):
        problems = self._of_sampling() + self._of_rl() + self._of_engine() + self._of_lora() + self._of_the_world()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _of_sampling(self) -> list[str]:
        problems = []
        pixels, table = self.model.pixels_per_token, self.model.max_latent_size
        if any(side % pixels or not 0 < side <= pixels * table for side in self.sampling.image_size):
            problems.append(
                f"sampling.image_size {list(self.sampling.image_size)}: sides must be multiples of {pixels} pixels "
                f"(one latent token) and at most {pixels * table} (model.max_latent_size)"
            )
        smallest = pixels * table // 2
        if self.sft is not None and min(self.sampling.image_size) < smallest:
            problems.append(
                f"sampling.image_size {list(self.sampling.image_size)}: SFT enlarges smaller pictures to {smallest} "
                f"pixels (half of model.max_latent_size {table}): these would be drawn in a size never trained"
            )
        guidance = self.evaluation.guidance
        if guidance.image_scale > 1 >= guidance.text_scale:
            problems.append(
                f"evaluation.guidance.image_scale {guidance.image_scale} has no effect without text guidance: set "
                "text_scale above 1"
            )
        return problems

    def _of_rl(self) -> list[str]:
        if self.rl is None:
            return []
        problems = self.rl.problems() + self._of_rl_noise()
        if not self.rewards.scorers:
            problems.append("rl needs a reward: add a scorer to rewards.scorers")
        credit = self.rl.credit
        if credit in ("improvement", "umm") and self.rewards.combine == "zscore_sum":
            problems.append(
                f"rl.credit {credit} asks if an image is right, which a z-score cannot say: set rewards.combine=sum"
            )
        if self.rl.algorithm == "dpo" and self.rewards.combine == "zscore_sum":
            problems.append(
                "rl.algorithm dpo asks if a gap is larger than rl.dpo.tie, which a z-score cannot say: set "
                "rewards.combine=sum"
            )
        if credit in ("umm", "no_improve_clamp") and self.sampling.turns == 1:
            problems.append(f"rl.credit {credit} trains the turns after the first: set sampling.turns to at least 2")
        if self.rl.group_size % self.rl.leaves:
            problems.append(
                f"rl.group_size {self.rl.group_size} must be a multiple of {self.rl.leaves}, the trajectories that "
                f"rl.forks {self.rl.forks} makes of one trunk"
            )
        if late := [turn for turn in self.rl.forks if turn >= self.sampling.turns]:
            problems.append(
                f"rl.forks: turn {max(late)} is never reached: sampling.turns {self.sampling.turns} has turns up to "
                f"{self.sampling.turns - 1}"
            )
        if self.rl.forks and credit in WHOLE_TRAJECTORIES:
            problems.append(
                f"rl.credit {credit} judges whole trajectories and knows no forks: choose trajectory, turn, "
                "verifier_gae or improvement, or leave rl.forks out"
            )
        if self.rl.probe_every and self.engine.zero_stage == 3:
            problems.append("rl.probe_every needs engine.zero_stage 0, 1 or 2: gradients are scattered under 3")
        if self.rl.groups % self.engine.learner_ranks:
            problems.append(
                f"rl.groups {self.rl.groups} must be a multiple of engine.learner_ranks {self.engine.learner_ranks}"
            )
        return problems

    def _of_rl_noise(self) -> list[str]:
        noise, name = self.rl.noise, "sampling.points" if self.rl.points is None else "rl.points"
        if noise is None or noise.window == "all":
            return []
        (low, high), size, limit = noise.window_range, noise.window_size, self.rl_sampling.points - 1
        if not 0 <= low < high <= limit:
            return [f"rl.noise.window_range [{low}, {high}) must lie in [0, {name} - 1 = {limit})"]
        if size > high - low:
            return [f"rl.noise.window_size {size} is wider than rl.noise.window_range [{low}, {high})"]
        return []

    def _of_engine(self) -> list[str]:
        problems = []
        if self.engine.dtype == "bf16" and self.engine.device == "cpu":
            problems.append("engine.dtype bf16 needs engine.device cuda; use fp32 on the CPU")
        if self.engine.dtype == "bf16" and self.engine.zero_stage < 2:
            problems.append(f"engine.dtype bf16 needs engine.zero_stage 2 or 3, found {self.engine.zero_stage}")
        if self.engine.gpu_share < 1 and self.engine.device == "cpu":
            problems.append("engine.gpu_share needs engine.device cuda; leave it out on the CPU")
        if self.engine.gpu_share < 1 and self.engine.learner_ranks > 1:
            problems.append("engine.gpu_share: several learner ranks talk over NCCL, which wants a whole GPU for each")
        problems += self._of_attention()
        if self.rl is not None and self.rl.optimizer.muon_lr and self.engine.zero_stage:
            problems.append("rl.optimizer.muon_lr needs engine.zero_stage 0: Muon works on whole matrices")
        if self.sft is None:
            return problems
        if self.sft_zero_stage and any(stage.optimizer.muon_lr for stage in self.sft.stages.values()):
            problems.append("sft: optimizer.muon_lr needs sft.zero_stage 0: Muon works on whole matrices")
        if self.engine.dtype == "bf16" and self.sft_zero_stage < 2:
            problems.append(f"engine.dtype bf16 needs sft.zero_stage 2 or 3, found {self.sft_zero_stage}")
        return problems

    def _of_attention(self) -> list[str]:
        engine, head = self.engine, self.model.llm.head_dim
        if engine.attention in ("auto", "sdpa"):
            return []
        problems = []
        if engine.device != "cuda":
            problems.append(f"engine.attention {engine.attention} needs engine.device cuda; leave it out on the CPU")
        if engine.attention == "flash" and engine.dtype != "bf16":
            problems.append(f"engine.attention flash needs engine.dtype bf16, found {engine.dtype}")
        if head < 16:
            problems.append(
                f"engine.attention {engine.attention} needs heads of at least 16 numbers, model.llm has {head}: choose "
                "auto or sdpa"
            )
        return problems

    def _of_lora(self) -> list[str]:
        adapted = {place: stage for place, stage in self.trained.items() if stage.lora is not None}
        problems = [
            f"{place}.{problem}" for place, stage in adapted.items() for problem in stage.lora.problems(stage.optimizer)
        ]
        if self.init_from is None and "sft.base" in adapted:
            problems.append(
                "sft.base.lora: there is no trained base to put adapters on; set init_from or leave the section out"
            )
        return problems

    @property
    def trained(self) -> dict[str, Stage | RLRecipe]:
        """The stages that train the model, by the names of their sections."""
        stages = {} if self.sft is None else {f"sft.{name}": stage for name, stage in self.sft.stages.items()}
        return stages if self.rl is None else stages | {"rl": self.rl}

    @property
    def rl_sampling(self) -> SamplingRecipe:
        """How RL samples: `sampling` with the time points of `rl`."""
        points = None if self.rl is None else self.rl.points
        return self.sampling if points is None else self.sampling.model_copy(update={"points": points})

    @property
    def rl_seed(self) -> int:
        """Seed of RL."""
        own = None if self.rl is None else self.rl.seed
        return self.seed if own is None else own

    def require_rl(self) -> RLRecipe:
        """The `rl` section. InputError where the recipe has none."""
        if self.rl is None:
            raise InputError(f"recipe {self.name}: this needs RL, and there is no section rl: add one")
        return self.rl

    def require_sft(self) -> SFTRecipe:
        """The `sft` section. InputError where the recipe has none."""
        if self.sft is None:
            raise InputError(f"recipe {self.name}: this needs SFT, and there is no section sft: add one")
        return self.sft

    def sft_ranks(self, stage: Stage) -> int:
        """Learner ranks of a stage: no more than have a pack in every step."""
        return min(self.engine.learner_ranks, stage.packs_per_step)

    @property
    def sft_zero_stage(self) -> int:
        """ZeRO stage of the SFT engine."""
        own = None if self.sft is None else self.sft.zero_stage
        return self.engine.zero_stage if own is None else own

    def _of_the_world(self) -> list[str]:
        """What a recipe asks of the rows and prompts that it makes for itself."""
        problems = []
        asked, there = self.evaluation.prompts, self.world.test_prompts
        if asked > there:
            problems.append(f"evaluation.prompts {asked} is more than world.test_prompts {there}")
        if self.sft is None or self.sft.data is not None:
            return problems
        made = set(self.world.sft_rows)
        for name, stage in self.sft.stages.items():
            if name == "stage2" and self.sft.stage1 is not None and self.world.own_images:
                made |= {f"{OWN_ROWS}/{mode}" for mode in OWN_MODES}
            for index, source in enumerate(stage.sources):
                if source.folder not in made:
                    problems.append(
                        f"sft.{name}.sources.{index}.folder {source.folder!r} is not made by the world at that stage; "
                        f"there are {', '.join(sorted(made))}"
                    )
        return problems

    def digest(self) -> str:
        """First 12 hex digits of the sha256 of the settings that change the result: not the output folder, nor the
        name of a preset, whose values are there, nor what `evaluation` leaves to `sampling`."""
        data = self.model_dump(mode="json", exclude={"output_dir", "description", "budget_minutes", "tracking"})
        evaluation = data["evaluation"].items()
        data["evaluation"] = {name: value for name, value in evaluation if name != "preset" and value is not None}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=110)
