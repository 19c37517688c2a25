"""The recipe: every setting of a run, once, typed and documented.

A recipe is a YAML file; `key.sub=value` overrides on the command line go on top. Unknown or mistyped settings are
errors that name the setting and the nearest known one; all are reported at once, before anything starts (invariant 9).
The resolved recipe has a digest that every checkpoint, metric file and report carries.
"""

from irg_rl.config.engine import (
    EngineRecipe,
    TrackingRecipe,
)
from irg_rl.config.evaluation import (
    EvaluationRecipe,
    GateRecipe,
)
from irg_rl.config.load import (
    SHORT_NAMES,
    RecipeError,
    changed_recipe,
    load_recipe,
    parse_recipe,
    recipe_settings,
    split_override,
)
from irg_rl.config.recipe import (
    WHOLE_TRAJECTORIES,
    Recipe,
)
from irg_rl.config.rewards import (
    SCORER_KINDS,
    RewardRecipe,
    ScorerRecipe,
)
from irg_rl.config.rl import (
    ON_DRAWN_IMAGES,
    AWMRecipe,
    DPORecipe,
    NFTRecipe,
    NoisingRecipe,
    OldPolicyRecipe,
    RLRecipe,
    adapters_of,
)
from irg_rl.config.sampling import (
    GuidanceRecipe,
    NoiseRecipe,
    SamplingRecipe,
)
from irg_rl.config.sections import (
    Decay,
    Positive,
    Rate,
    Section,
    Seed,
    Share,
    nearest,
)
from irg_rl.config.training import (
    DataSource,
    Dropout,
    LoraRecipe,
    LoraSection,
    OptimizerRecipe,
    Projection,
    SFTRecipe,
    Stage,
    VAETraining,
)

__all__ = [
    "AWMRecipe",
    "DPORecipe",
    "DataSource",
    "Decay",
    "Dropout",
    "EngineRecipe",
    "EvaluationRecipe",
    "GateRecipe",
    "GuidanceRecipe",
    "LoraRecipe",
    "LoraSection",
    "NFTRecipe",
    "NoiseRecipe",
    "NoisingRecipe",
    "ON_DRAWN_IMAGES",
    "OldPolicyRecipe",
    "OptimizerRecipe",
    "Positive",
    "Projection",
    "RLRecipe",
    "Rate",
    "Recipe",
    "RecipeError",
    "RewardRecipe",
    "SCORER_KINDS",
    "SFTRecipe",
    "SHORT_NAMES",
    "SamplingRecipe",
    "ScorerRecipe",
    "Section",
    "Seed",
    "Share",
    "Stage",
    "TrackingRecipe",
    "VAETraining",
    "WHOLE_TRAJECTORIES",
    "adapters_of",
    "changed_recipe",
    "load_recipe",
    "nearest",
    "parse_recipe",
    "recipe_settings",
    "split_override",
]
