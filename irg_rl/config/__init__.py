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
    Recipe,
)
from irg_rl.config.rewards import (
    SCORER_KINDS,
    RewardRecipe,
    ScorerRecipe,
)
from irg_rl.config.rl import (
    ALGORITHMS,
    RLRecipe,
    adapters_of,
    algorithm_class,
)
from irg_rl.config.sampling import (
    GuidanceRecipe,
    NoiseRecipe,
    SamplingRecipe,
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
from irg_rl.sections import (
    Decay,
    Positive,
    Rate,
    Section,
    Seed,
    Share,
    Weight,
    nearest,
)

__all__ = [
    "ALGORITHMS",
    "DataSource",
    "Decay",
    "Dropout",
    "EngineRecipe",
    "EvaluationRecipe",
    "GateRecipe",
    "GuidanceRecipe",
    "LoraRecipe",
    "LoraSection",
    "NoiseRecipe",
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
    "Weight",
    "adapters_of",
    "algorithm_class",
    "changed_recipe",
    "load_recipe",
    "nearest",
    "parse_recipe",
    "recipe_settings",
    "split_override",
]
