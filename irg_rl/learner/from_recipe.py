"""Convert the settings of a recipe to the settings that the engine takes."""

import torch

from irg_rl.config import LoraRecipe, OptimizerRecipe, Recipe, RLRecipe, Stage, adapters_of
from irg_rl.learner.parts import OptimizerSettings, Schedule
from irg_rl.learner.update import EngineSettings


def optimizer_settings(recipe: OptimizerRecipe, lora: LoraRecipe | None, steps: int) -> OptimizerSettings:
    """Return the optimizer settings for the training engine. `steps` is the number of updates of the whole training; a
    cosine schedule ends there. If `lora` is given, only the parts of the model that get adapters are trained. All other
    parts get learning rate 0, which freezes them."""
    rates = {part: rate if lora is None or part in lora.experts else 0.0 for part, rate in recipe.rates.items()}
    total = steps if recipe.schedule == "cosine" else None
    schedule = Schedule(recipe.warmup, total, recipe.final_lr_share)
    return OptimizerSettings(rates, recipe.muon_lr, recipe.weight_decay, recipe.betas, recipe.eps, schedule)


def engine_settings(recipe: Recipe, trained: Stage | RLRecipe, steps: int, zero_stage: int) -> EngineSettings:
    optimizer = optimizer_settings(trained.optimizer, adapters_of(trained), steps)
    engine = recipe.engine
    return EngineSettings(
        optimizer, zero_stage, engine.dtype, trained.optimizer.grad_clip,
        activation_checkpointing=engine.activation_checkpointing,
    )  # fmt: skip


def precision(recipe: Recipe) -> torch.dtype:
    """Return the number type of the forward pass, as the setting `engine.dtype` of the recipe says."""
    return torch.bfloat16 if recipe.engine.dtype == "bf16" else torch.float32
