"""Statistics of the pixels of an image. They show whether refinement makes images smoother than the first ones.

Refinement can please a judge and lose texture all the same (over-smoothing). These numbers need no judge and no prompt.
Only compare them between images of one size, and between turns or arms of the same prompts: they also depend on what an
image shows.

Letters in shapes: H height, W width in pixels.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from irg_rl.evaluate.outcomes import Statistic
from irg_rl.task import Pixels

EDGE = 16.0
"""Smallest gradient of an edge, in grey values per pixel. A step from one grey value to another has an edge if the two
differ by at least 32, an eighth of the range."""
DARK = 64.0
"""Grey values below this one, a quarter of the range, are dark."""
COLOUR_LEVELS = 8
"""Number of steps into which each channel is divided to count colours."""
HIGH = 0.25
"""High frequencies are those above this number of cycles per pixel. It is half of the highest frequency along a row."""


def sharpness(image: Pixels) -> float:
    """Return the variance of the Laplacian of the grey values, in squared grey values (Pech-Pacheco et al. 2000,
    "Diatom autofocusing in brightfield microscopy"). It is small for a blurred image. With the grey value g of pixel
    (y, x):

        L(y, x) = g(y - 1, x) + g(y + 1, x) + g(y, x - 1) + g(y, x + 1) - 4 g(y, x)

    Pixels at the border have no L. The result is nan for an image with a side below 3.
    """
    g = grey(image)
    if min(g.shape) < 3:
        return float("nan")
    around = g[:-2, 1:-1] + g[2:, 1:-1] + g[1:-1, :-2] + g[1:-1, 2:]
    return float((around - 4 * g[1:-1, 1:-1]).var())


def edge_density(image: Pixels) -> float:
    """Return the share of pixels, in [0, 1], at which the grey values have a gradient of at least EDGE. The gradient is
    that of Sobel's 3 x 3 kernels divided by 8, in grey values per pixel. Pixels at the border are left out. The result
    is nan for an image with a side below 3."""
    g = grey(image)
    if min(g.shape) < 3:
        return float("nan")
    across, down = g[:, 2:] - g[:, :-2], g[2:, :] - g[:-2, :]
    x = (across[:-2] + 2 * across[1:-1] + across[2:]) / 8
    y = (down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]) / 8
    return float((np.hypot(x, y) >= EDGE).mean())


def high_frequency_share(image: Pixels) -> float:
    """Return the share, in [0, 1], of the power of the grey values that lies at frequencies above HIGH cycles per
    pixel. The mean grey value is left out. A Hann window hides the borders, whose jumps would look like high
    frequencies. The result is nan for an image of one grey value, and for one with a side below 3."""
    g = grey(image)
    if min(g.shape) < 3 or g.min() == g.max():
        return float("nan")
    window = np.outer(np.hanning(g.shape[0]), np.hanning(g.shape[1]))
    centred = (g - (window * g).sum() / window.sum()) * window
    power = np.abs(np.fft.fft2(centred)) ** 2
    frequency = np.hypot(np.fft.fftfreq(g.shape[0])[:, None], np.fft.fftfreq(g.shape[1])[None, :])
    return float(power[frequency > HIGH].sum() / power.sum())


def dark_share(image: Pixels) -> float:
    """Return the share of pixels, in [0, 1], whose grey value is below DARK."""
    return float((grey(image).round(6) < DARK).mean())  # rounded, as the weights of a grey 64 add up to 63.99..


def colour_entropy(image: Pixels) -> float:
    """Return the entropy of the colours of an image, in bits. Each channel is divided into COLOUR_LEVELS equal steps.
    With the share p_i of pixels of colour i, it is -sum_i p_i log2 p_i. It is 0 for an image of one colour, and at most
    3 log2 COLOUR_LEVELS."""
    steps = image.reshape(-1, 3).astype(np.int64) * COLOUR_LEVELS // 256
    counts = np.bincount(steps @ np.array([COLOUR_LEVELS**2, COLOUR_LEVELS, 1]))
    shares = counts[counts > 0] / len(steps)
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # without the sign of -0.0


def grey(image: Pixels) -> Float[np.ndarray, "H W"]:
    """Return the grey values of an image, from 0 to 255 (ITU-R BT.601)."""
    return image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


STATISTICS: Mapping[str, Statistic] = {
    "sharpness": sharpness,
    "edge_density": edge_density,
    "high_frequency_share": high_frequency_share,
}
"""All statistics, by the name that they have in the tables of an evaluation."""
