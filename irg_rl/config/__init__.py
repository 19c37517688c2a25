"""The recipe: all settings of a run. The classes of this package declare every setting once, with a type and an
explanation.

A recipe is a YAML file. Overrides on the command line, such as `key.sub=value`, replace its values. An unknown or wrong
setting is an error. The message names the setting. For an unknown setting, it suggests the known setting with the most
similar name. All such errors are reported together, before anything starts (invariant 9 of the project). The digest (a
short hash) of the final recipe is written to every checkpoint, metric file and report.
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
    OWN_REFINED,
    DataSource,
    Dropout,
    LoraRecipe,
    LoraSection,
    OptimizerRecipe,
    OwnTrajectories,
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
    "OWN_REFINED",
    "OptimizerRecipe",
    "OwnTrajectories",
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
