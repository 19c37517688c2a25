"""Named sampling settings (presets) of BAGEL and of IRG (Interleaving Reasoning Generation). They are used by the
setting `evaluation.preset` of a recipe, `irg-rl eval` and `irg-rl generate`.

A preset holds values for a recipe's `evaluation` section. config/evaluation.py explains these settings. The presets and
their sources:

    irg          The two-turn script of IRG, tiif_multi_turn_gen.py (Osilly/Interleaving-Reasoning-Generation, 3eee315).
    irg-paper    As irg, with the guidance scales of the paper (arXiv 2509.06945). The paper gives no other settings.
    bagel-t2i    BAGEL's text-to-image app (ByteDance-Seed/Bagel, 056b5fd), with the image scale of BAGEL's notebook.
                 (The app itself has the image scale 1.5. Without an input image, it acts only as more text guidance.)
                 BAGEL has no refinement, so here a refinement is guided like the first image.
    cfg-free     As bagel-t2i, but without guidance: one model call per step.

The guidance scale `text_scale` applies to every image, and `image_scale` only to refinements. Guidance is used only at
the flow times t inside an interval (low, high], that is, low < t <= high. Here t is the time after the shift, which
moves the time points of the denoising. 50 time points are 49 Euler steps. No noise is added in these steps. At
temperature 0, the most likely token is taken.
"""

import copy
from collections.abc import Iterable
from typing import Any

PRESET = "evaluation.preset"
"""Name of the setting whose value is the name of a preset."""

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
    """Return the settings of a preset (a named set of sampling settings) as a dict: name -> value. The dict is empty
    for an unknown name; the validation of the recipe reports that error."""
    return copy.deepcopy(PRESETS.get(name, {})) if isinstance(name, str) else {}


def presets_first(overrides: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Reorder overrides. An override is a pair (dotted name, value) that replaces a setting of a recipe file. In the
    result, the setting `evaluation.preset` comes first, then all values of that preset, then all other overrides.

    If two overrides have the same name, the later one is used. So the preset replaces values of the recipe file, and
    all other overrides replace values of the preset.
    """
    given = list(overrides)
    named = [pair for pair in given if pair[0] == PRESET]
    values = [(f"evaluation.{name}", value) for _, preset in named for name, value in preset_of(preset).items()]
    return [*named, *values, *(pair for pair in given if pair[0] != PRESET)]
