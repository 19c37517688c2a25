"""Pictures and texts that the checks show to a model: plain things of which everybody knows what they show."""

import numpy as np

from irg_rl.task import Pixels

COLOURS = {"red": (200, 40, 40), "green": (40, 150, 60), "blue": (40, 70, 200)}
"""Name of a colour -> its bytes (red, green, blue)."""


def disc(colour: str, size: tuple[int, int]) -> Pixels:
    """Return a picture of `size` (height, width) that shows a disc of this colour on a grey background, which becomes
    lighter to the right."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    distance = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    inside = np.clip(0.3 * min(size) - distance + 0.5, 0.0, 1.0)[..., None]  # one pixel of soft edge
    grey = (150 + 60 * x / max(width - 1, 1))[..., None]
    return (inside * np.array(COLOURS[colour]) + (1 - inside) * grey).round().astype(np.uint8)
