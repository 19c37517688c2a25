"""The whole recipe, and checks that its sections fit together."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from irg_rl.config.alarms import FEWEST
from irg_rl.config.engine import EngineRecipe, TrackingRecipe
from irg_rl.config.evaluation import EvaluationRecipe, GateRecipe
from irg_rl.config.faults import Fault
from irg_rl.config.rewards import CRITIC_SHARE, OF_IMAGES, WITH_MODEL, RewardRecipe, ScorerRecipe
from irg_rl.config.rl import RLRecipe, algorithm_class
from irg_rl.config.sampling import SamplingRecipe
from irg_rl.config.task import task_class, task_settings
from irg_rl.config.training import OWN_REFINED, SFTRecipe, Stage, VAETraining
from irg_rl.credit import SCHEMES, RightOptions, scheme_named
from irg_rl.errors import InputError
from irg_rl.model.config import ModelConfig
from irg_rl.model.released import BAGEL_7B_MOT
from irg_rl.sections import PathText, Section, Seed, nearest


class Recipe(Section):
    """A recipe: all settings that define a run, from the model and its training to the evaluation."""

    name: str
    description: str = ""
    seed: Seed = 0
    output_dir: PathText = "runs"
    """Folder in which each run creates its own folder."""
    budget_minutes: dict[str, float] = {}
    """Expected minutes of each stage of the run. They are printed next to the measured minutes."""
    task: str = "shapes_world"
    """Name of the task: shapes_world, prompts (a file of your own prompts), or your class as package.module:Class."""
    task_options: SerializeAsAny[Section] = Field(default_factory=Section, validate_default=True)
    """Settings of the task. The class of the task declares which settings exist (`settings_type`)."""
    init_from: PathText | None = None
    """Checkpoint folder to start from, in the layout of the released BAGEL. null: a small model is trained from scratch
    on pictures of the task."""
    model: ModelConfig
    """Sizes of the model. With `init_from`, leave out `llm`, `vit` and `vae`: their sizes, and those of the latent
    tokens, are then read from the folder. If there is no such folder on this machine, the sizes are those of the
    released BAGEL-7B-MoT, so that the recipe can be planned."""
    vae: VAETraining = VAETraining()
    sft: SFTRecipe | None = None
    sampling: SamplingRecipe = SamplingRecipe()
    rewards: RewardRecipe = RewardRecipe()
    rl: RLRecipe | None = None
    engine: EngineRecipe = EngineRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()
    gate: GateRecipe = GateRecipe()
    tracking: TrackingRecipe = TrackingRecipe()
    faults: list[Fault] = Field(default=[], exclude_if=lambda faults: not faults)
    """Faults that happen on purpose (docs/reliability.md). They need IRG_RL_FAULTS=1 in the environment. This setting
    does not change the digest."""

    @model_validator(mode="before")
    @classmethod
    def sizes_are_those_of_the_folder(cls, data: Any) -> Any:
        """Return the settings `data` with the sizes of the model folder `init_from` added. A size that `data` gives is
        kept. If it gives all sections of sizes, the folder is not read."""
        if not isinstance(data, Mapping) or not isinstance(start := data.get("init_from"), str):
            return data
        given = data.get("model") or {}
        if not isinstance(given, Mapping) or {"llm", "vit", "vae"} <= given.keys():
            return data
        model = _sizes_of(start)
        for name, value in given.items():
            both = isinstance(value, Mapping) and isinstance(model.get(name), Mapping)
            model[name] = {**model[name], **value} if both else value
        return {**data, "model": model}

    @field_validator("name")
    @classmethod
    def name_is_of_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[\w+=-][\w.+=, -]{0,119}", name) or name != name.strip():
            raise ValueError(
                f"{name!r:.140} becomes the name of a folder: 1 to 120 letters, digits, spaces and . , + = - _, not "
                "beginning with a point"
            )
        return name

    @field_validator("task")
    @classmethod
    def task_is_known(cls, name: str) -> str:
        task_class(name)
        return name

    @field_validator("task_options", mode="before")
    @classmethod
    def options_are_the_tasks_own(cls, options: Any, info: ValidationInfo) -> Section:
        name = info.data.get("task")  # missing if the task itself is invalid, which is reported
        return Section() if name is None else task_settings(name, options)

    @model_validator(mode="after")
    def settings_fit_together(self):
        problems = self._of_sampling() + self._of_rl() + self._of_engine() + self._of_lora() + self._of_own()
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
        return problems + self._of_judge("evaluation.preference", self.evaluation.preference)

    def _of_judge(self, setting: str, name: str | None) -> list[str]:
        """Return a message if `setting` names a judge that is not in `rewards.scorers`."""
        judges = [scorer.name for scorer in self.rewards.scorers if scorer.kind == "judge"]
        if name is None or name in judges:
            return []
        there = nearest(name, judges) if judges else "; there is none"
        return [f"{setting}: no judge {name!r} in rewards.scorers{there}"]

    def _of_own(self) -> list[str]:
        """Check that rows which the model makes itself are made before they are trained on, and are trained on."""
        if self.sft is None:
            return []
        sft, problems = self.sft, []
        users = [name for name, stage in sft.stages.items() if OWN_REFINED in [s.folder for s in stage.sources]]
        if sft.own is None:
            return [f"sft.{name}.sources: {OWN_REFINED} is made only with sft.own: give it a judge" for name in users]
        if users != ["stage2"]:
            problems.append(f"sft.own makes rows for stage 2: name {OWN_REFINED} in sft.stage2.sources alone")
        return problems + self._of_judge("sft.own.judge", sft.own.judge)

    def _of_rl(self) -> list[str]:
        if self.rl is None:
            return []
        rl = self.rl
        problems = algorithm_class(rl.algorithm).of(self).problems(self) + self._of_rl_noise(rl) + self._of_credit(rl)
        if not any(scorer.of in OF_IMAGES and not scorer.held_out for scorer in self.rewards.scorers):
            problems.append("rl needs a reward: add a scorer of images to rewards.scorers")
        elif not any(scorer.weight for scorer in self.rewards.scorers if not scorer.held_out):
            problems.append("rewards.scorers: all weights are 0, so every reward is 0: give a scorer a weight")
        if rl.credit is None or not scheme_named(rl.credit).uses_segment_scores:
            problems += [
                f"rewards.scorers: {scorer.name} scores {scorer.of}s, which rl.credit {rl.credit} does not use: set "
                "rl.credit=factorised, or held_out: true to log it alone"
                for scorer in self.rewards.scorers if scorer.of not in OF_IMAGES and not scorer.held_out
            ]  # fmt: skip
        problems += _without_effect(rl, self.engine.dtype) + self._of_alarms(rl)
        if rl.group_size % rl.leaves:
            problems.append(
                f"rl.group_size {rl.group_size} must be a multiple of {rl.leaves}, the trajectories that rl.forks "
                f"{rl.forks} makes of one trunk"
            )
        if late := [turn for turn in rl.forks if turn >= self.sampling.turns]:
            problems.append(
                f"rl.forks: turn {max(late)} is never reached: sampling.turns {self.sampling.turns} has turns up to "
                f"{self.sampling.turns - 1}"
            )
        if rl.probe_every and self.engine.zero_stage == 3:
            problems.append("rl.probe_every needs engine.zero_stage 0, 1 or 2: gradients are scattered under 3")
        if rl.groups % self.engine.learner_ranks:
            problems.append(
                f"rl.groups {rl.groups} must be a multiple of engine.learner_ranks {self.engine.learner_ranks}"
            )
        return problems

    def _of_alarms(self, rl: RLRecipe) -> list[str]:
        """Check that alarms which the recipe sets can ring. The usual ones need not: most recipes do not name them."""
        given, problems = set(rl.alarms.given), []
        if "held_out" in given and not any(scorer.held_out for scorer in self.rewards.scorers):
            problems.append("rl.alarms.held_out has no effect: no scorer of rewards.scorers has held_out: true")
        first = rl.alarms.baseline + FEWEST
        if given and rl.rollouts is None and first > rl.updates:
            problems.append(
                f"rl.alarms has no effect: with rl.alarms.baseline {rl.alarms.baseline} an alarm can ring from update "
                f"{first} on, and rl.updates is {rl.updates}"
            )
        return problems

    def _of_credit(self, rl: RLRecipe) -> list[str]:
        if rl.credit is None:
            return []
        scheme, problems = scheme_named(rl.credit), []
        if scheme.asks_if_right and self.rewards.combine == "zscore_sum":
            problems.append(
                f"rl.credit {rl.credit} asks if an image is right, which a z-score cannot say: set rewards.combine=sum"
            )
        if scheme.first_trained_turn >= self.sampling.turns:
            needed = scheme.first_trained_turn + 1
            problems.append(
                f"rl.credit {rl.credit} trains turns from number {needed} on: set sampling.turns to at least {needed}"
            )
        if rl.forks and scheme.whole_trajectories:
            others = [name for name in SCHEMES if not scheme_named(name).whole_trajectories]
            problems.append(
                f"rl.credit {rl.credit} judges whole trajectories and knows no forks: choose {', '.join(others)}, or "
                "leave rl.forks out"
            )
        of_statements = [s.name for s in self.rewards.scorers if s.of == "statement" and not s.held_out]
        if of_statements and rl.importance == "sequence":
            problems.append(
                "rl.importance sequence gives all tokens of a text the mean of their advantages, and "
                f"{of_statements[0]} scores single statements: set rl.importance=token"
            )
        names = [scorer.name for scorer in self.rewards.scorers]
        asked = rl.credit_options.perfect_scorer if isinstance(rl.credit_options, RightOptions) else None
        if asked is not None and asked not in names:
            problems.append(f"rl.credit_options.perfect_scorer: no scorer {asked!r} in rewards{nearest(asked, names)}")
        return problems

    def _of_rl_noise(self, rl: RLRecipe) -> list[str]:
        noise, name = rl.noise, "sampling.points" if rl.points is None else "rl.points"
        if noise is None:
            return []
        limit = self.rl_sampling.points - 1
        noisy = limit - (noise.kind == "cps")  # its last step is deterministic
        if not noisy:
            return [f"{name} {limit + 1} leaves no noisy step with rl.noise.kind {noise.kind}: give at least 3"]
        if noise.window == "all":
            return []
        (low, high), size = noise.window_range, noise.window_size
        if not 0 <= low < min(high, noisy) or high > limit:
            return [f"rl.noise.window_range [{low}, {high}) must lie in [0, {name} - 1 = {limit})"]
        if size > min(high, noisy) - low:
            last = "" if high <= noisy else f", of which cps draws the last without noise (step {limit - 1})"
            return [f"rl.noise.window_size {size} is wider than rl.noise.window_range [{low}, {high}){last}"]
        return []

    def _of_offload(self) -> list[str]:
        if not self.rewards.offload:
            return []
        if self.rl is not None and self.rl.rollouts is not None:
            return ["rewards.offload has no effect with rl.rollouts: stored trajectories are scored already"]
        if self.rl is None or not self.scores_on_gpu:
            return ["rewards.offload has no effect: it moves models of scorers that are on a GPU in RL"]
        if self.engine.gpu_share == 1:
            return ["rewards.offload has no use: with engine.gpu_share 1 no learner is on the GPU of the scorers"]
        if self.rl.staleness:
            return [f"rewards.offload needs rl.staleness 0, not {self.rl.staleness}: they pause while RL learns"]
        return []

    def _of_engine(self) -> list[str]:
        problems = []
        if self.engine.dtype == "bf16" and self.engine.device == "cpu":
            problems.append("engine.dtype bf16 needs engine.device cuda; use fp32 on the CPU")
        if self.engine.dtype == "bf16" and self.engine.zero_stage < 2:
            problems.append(f"engine.dtype bf16 needs engine.zero_stage 2 or 3, found {self.engine.zero_stage}")
        if self.rewards.device == "cuda" and self.engine.device == "cpu":
            problems.append("rewards.device cuda needs engine.device cuda; leave it out on the CPU")
        problems += self._of_offload()
        if self.engine.gpu_share < 1 and self.engine.device == "cpu":
            problems.append("engine.gpu_share needs engine.device cuda; leave it out on the CPU")
        if self.engine.gpu_share < 1 and self.engine.learner_ranks > 1:
            problems.append("engine.gpu_share: several learner ranks talk over NCCL, which wants a whole GPU for each")
        if self.engine.object_store_mb is not None and self.engine.address is not None:
            problems.append(
                "engine.object_store_mb has no effect with engine.address: `ray start` has set it; leave it out"
            )
        if self.engine.placement != "pack" and self.engine.address is None:
            problems.append("engine.placement is about the nodes of a cluster: set engine.address, or leave it out")
        if self.scores_on_gpu and self.engine.device == "cuda" and self.engine.critics > self.engine.rollout_actors:
            problems.append(
                f"engine.critics {self.engine.critics} is more than engine.rollout_actors "
                f"{self.engine.rollout_actors}: each critic is on the GPU of a rollout actor"
            )
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
        adapted = {place: (stage, stage.lora) for place, stage in self.trained.items() if stage.lora is not None}
        problems = [
            f"{place}.{problem}"
            for place, (stage, lora) in adapted.items()
            for problem in lora.problems(stage.optimizer)
        ]
        if self.init_from is None and "sft.base" in adapted:
            problems.append(
                "sft.base.lora: there is no trained base to put adapters on; set init_from or leave the section out"
            )
        return problems

    @property
    def trained(self) -> dict[str, Stage | RLRecipe]:
        """The settings of the stages that train the model, in the order of the stages. The key is the name of the
        stage's section in the recipe, such as sft.stage1 or rl."""
        stages: dict[str, Stage | RLRecipe] = {}
        if self.sft is not None:
            stages |= {f"sft.{name}": stage for name, stage in self.sft.stages.items()}
        return stages if self.rl is None else stages | {"rl": self.rl}

    @property
    def rl_sampling(self) -> SamplingRecipe:
        """The sampling settings of RL. They come from the section `sampling`, with one possible change. If `rl.points`
        (the number of time points of the flow) is given, it replaces `sampling.points`."""
        points = None if self.rl is None else self.rl.points
        return self.sampling if points is None else self.sampling.model_copy(update={"points": points})

    @property
    def rl_seed(self) -> int:
        """The seed of RL: `rl.seed` if it is given, otherwise `seed`."""
        own = None if self.rl is None else self.rl.seed
        return self.seed if own is None else own

    def scorer_device(self, scorer: ScorerRecipe) -> str:
        """Return the device of a scorer's model. If the scorer has the option `device`, this option decides. Otherwise
        the device depends on the kind of the scorer. For the kinds clip, hps, pickscore and mllm it is
        `rewards.device`. If `rewards.device` is null, it is `engine.device`. For all other kinds, it is the CPU."""
        usual = (self.rewards.device or self.engine.device) if scorer.kind in WITH_MODEL else "cpu"
        return str(scorer.options.get("device", usual))

    @property
    def scores_on_gpu(self) -> bool:
        """Whether at least one scorer of the recipe has its model on a GPU."""
        return any(self.scorer_device(scorer).startswith("cuda") for scorer in self.rewards.scorers)

    @property
    def critic_gpus(self) -> float:
        """Number of GPUs that a critic of RL requests from Ray. If no scorer is on a GPU, it is 0. Otherwise it is a
        small share of the GPU of a rollout actor."""
        return self.engine.gpus * CRITIC_SHARE if self.scores_on_gpu else 0.0

    @property
    def rollout_gpus(self) -> float:
        """Number of GPUs that a rollout actor requests from Ray. It leaves room for the critic."""
        return self.engine.gpus - self.critic_gpus

    def require_rl(self) -> RLRecipe:
        """Return the `rl` section. Raises InputError if the recipe has none."""
        if self.rl is None:
            raise InputError(f"recipe {self.name}: this needs RL, and there is no section rl: add one")
        return self.rl

    def require_sft(self) -> SFTRecipe:
        """Return the `sft` section. Raises InputError if the recipe has none."""
        if self.sft is None:
            raise InputError(f"recipe {self.name}: this needs SFT, and there is no section sft: add one")
        return self.sft

    def sft_ranks(self, stage: Stage) -> int:
        """Return the number of learner ranks of an SFT stage. It is at most `packs_per_step`, because every rank needs
        at least one pack in each step."""
        return min(self.most_sft_ranks, stage.packs_per_step)

    @property
    def most_sft_ranks(self) -> int:
        """The largest number of learner ranks of SFT: `sft.learner_ranks` if it is given, otherwise
        `engine.learner_ranks`."""
        own = None if self.sft is None else self.sft.learner_ranks
        return self.engine.learner_ranks if own is None else own

    @property
    def model_processes(self) -> dict[str, int]:
        """How many processes with a model run at the same time in each stage that trains: name of the stage -> number.
        In RL these are the learner ranks and the rollout actors, if there are any."""
        stages = {} if self.sft is None else self.sft.stages
        found = {f"sft.{name}": self.sft_ranks(stage) for name, stage in stages.items()}
        if self.rl is not None:
            found["rl"] = self.engine.learner_ranks + (self.engine.rollout_actors if self.rl.rollouts is None else 0)
        return found

    @property
    def sft_zero_stage(self) -> int:
        """The ZeRO stage of the SFT engine: `sft.zero_stage` if it is given, otherwise `engine.zero_stage`."""
        own = None if self.sft is None else self.sft.zero_stage
        return self.engine.zero_stage if own is None else own

    def digest(self) -> str:
        """Return the first 12 hex digits of the sha256 of all settings that change the result.

        Some settings are left out: those of WITHOUT_EFFECT, the name of a preset (but not its values), and settings of
        `evaluation` that are null.
        """
        data = self.model_dump(mode="json", exclude=WITHOUT_EFFECT)
        evaluation = data["evaluation"].items()
        data["evaluation"] = {name: value for name, value in evaluation if name != "preset" and value is not None}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=110)


WITHOUT_EFFECT: dict[str, Any] = {
    "output_dir": True, "description": True, "budget_minutes": True, "tracking": True, "faults": True,
    "engine": {"object_store_mb", "stop_grace_s", "address", "placement", "critics", "silence_s"},
    "evaluation": {"keep_mb"},
    "sft": {"data_workers", "latents", "rejected_share"}, "rl": {"alarms", "look_every", "look_mb"},
    "rewards": {"offload"},
}  # fmt: skip
"""Settings that do not change the result of a run. They are not part of the digest, so they may be changed in the
`recipe.yaml` of a run before it is resumed."""


def _sizes_of(folder: str) -> dict[str, Any]:
    """Return the sizes of the model in a folder, or those of the released BAGEL-7B-MoT if the folder is missing or
    broken. (`irg-rl check` and `irg-rl train` report such a folder.) The timestep shift is left out, because it is a
    choice of the training and no size."""
    from irg_rl.model.folder import folder_sizes  # needs transformers, which takes seconds to import

    try:
        sizes = folder_sizes(Path(os.path.expanduser(folder))).to_dict()
    except (InputError, OSError, ValueError):  # ValueError: a name that no file can have
        sizes = dict(BAGEL_7B_MOT)
    sizes.pop("timestep_shift", None)
    return sizes


def _without_effect(rl: RLRecipe, dtype: str) -> list[str]:
    """Return one line for each setting of `rl` that has no effect together with the other settings."""
    problems = []
    if not rl.text_weight and not rl.image_weight:
        problems.append("rl.text_weight and rl.image_weight are both 0: nothing is trained")
    problems += [
        f"rl.kl_{name} has no effect with rl.{name}_weight 0: set rl.kl_{name}=0"
        for name, weight, kl in (("text", rl.text_weight, rl.kl_text), ("image", rl.image_weight, rl.kl_image))
        if kl and not weight
    ]
    usual = RLRecipe.model_fields["mismatch_cap"].default
    if rl.mismatch_cap != usual and dtype != "bf16":
        problems.append(f"rl.mismatch_cap has no effect with engine.dtype {dtype}: set rl.mismatch_cap={usual}")
    if rl.rollouts is not None:
        problems += [
            f"rl.{name} has no effect with rl.rollouts: leave it out"
            for name in ("prompt_mix", "groups_per_batch", "alarms")
            if vars(rl)[name] != type(rl).model_fields[name].default
        ]
    if rl.guidance is not None and rl.guidance.image_scale > 1 >= rl.guidance.text_scale:
        problems.append("rl.guidance.image_scale has no effect without text guidance: set text_scale above 1")
    return problems
