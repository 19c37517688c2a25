"""How BAGEL and IRG sample, by name: for `evaluation.preset` of a recipe, `irg-rl eval` and `irg-rl generate`.

A preset is a part of a recipe's `evaluation` section; config/evaluation.py says what the settings mean. Sources:

    irg          IRG's two-turn script, tiif_multi_turn_gen.py (Osilly/Interleaving-Reasoning-Generation, 3eee315)
    irg-paper    the same with the guidance of the paper (arXiv 2509.06945), which leaves all else open
    bagel-t2i    BAGEL's app, text to image (ByteDance-Seed/Bagel, 056b5fd), with the image scale of its notebook: the
                 app's 1.5 is text guidance in disguise. A refinement, which it has not, is guided like the first image
    cfg-free     one model call per step, otherwise as bagel-t2i

Scales guide the text of every image and the images of refinements; intervals are (low, high] on the shifted time;
50 points are 49 Euler steps, none of them noisy; temperature 0 takes the most likely token.
"""

import copy
from collections.abc import Iterable
from typing import Any

PRESET = "evaluation.preset"
"""The setting that takes a name."""

_FLOW = {"points": 50, "shift": 3.0, "noise": None}
_EARLY = {"first_interval": [0.4, 1.0], "first_renorm": "global", "renorm_min": 0.0}
_IRG = _EARLY | {"interval": [0.0, 1.0], "renorm": "text_channel"}
_BAGEL = _EARLY | {"interval": [0.4, 1.0], "renorm": "global"}

PRESETS: dict[str, dict] = {
    "irg": {"temperature": 0.3, **_FLOW, "guidance": {"text_scale": 4.0, "image_scale": 2.0, **_IRG}},
    "irg-paper": {"temperature": 0.3, **_FLOW, "guidance": {"text_scale": 2.0, "image_scale": 2.0, **_IRG}},
    "bagel-t2i": {"temperature": 0.0, **_FLOW, "guidance": {"text_scale": 4.0, "image_scale": 1.0, **_BAGEL}},
    "cfg-free": {"temperature": 0.0, **_FLOW, "guidance": {"text_scale": 1.0, "image_scale": 1.0, **_BAGEL}},
}


def preset_of(name: Any) -> dict:
    """What a preset stands for; nothing where none has that name, which the recipe's validation complains of."""
    return copy.deepcopy(PRESETS.get(name, {})) if isinstance(name, str) else {}


def presets_first(overrides: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Overrides (dotted name, value) with a preset before all others and followed by its values: these replace the
    file's, and what is set beside the preset counts more, wherever it stands."""
    given = list(overrides)
    named = [pair for pair in given if pair[0] == PRESET]
    values = [(f"evaluation.{name}", value) for _, preset in named for name, value in preset_of(preset).items()]
    return [*named, *values, *(pair for pair in given if pair[0] != PRESET)]
