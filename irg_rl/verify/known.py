"""What is known about the weights of the released BAGEL-7B-MoT, so that a check can tell right weights from wrong ones
without a second copy of them.

These facts hold for every model that was trained from the released one. They do not hold for random weights, or for a
model of other sizes.
"""

from irg_rl.model.config import ModelConfig
from irg_rl.model.released import BAGEL_7B_MOT

SPECIAL_IDS = {"bos": 151644, "eos": 151645, "soi": 151652, "eoi": 151653}
"""Ids of the four boundary tokens in Qwen2.5's vocabulary."""
KNOWN_IDS = {"Hello, world!": [9707, 11, 1879, 0]}
"""Text -> its token ids in Qwen2.5's vocabulary."""
MOST_NATS = 4.0
"""Largest loss of the passage that the language check reads, in nats per token. Chance is ln 152064 = 11.9. A language
model that has read this passage before is far below 4."""
LEAST_ORDER_GAIN = 1.5
"""Smallest gain of the passage over the same tokens in random order, in nats per token."""
LEAST_PSNR = 25.0
"""Smallest quality of the autoencoder's picture, in dB. FLUX.1's autoencoder reaches more than 30 dB on photographs."""
MOST_VELOCITY_ERROR = 0.6
"""Largest error of a velocity at t = 0.5, as a share of the velocity's energy. A model that has learned nothing about
pictures has at least 1, because at this time a noisy latent and its velocity are uncorrelated."""
LEAST_SMOOTHNESS = 0.7
"""Smallest correlation of neighbouring pixels in a drawn picture. Noise has 0, photographs and drawings about 0.95."""


def has_released_sizes(config: ModelConfig) -> bool:
    """Return whether a model has the sizes of the released BAGEL-7B-MoT. The timestep shift of training is no size."""
    released = ModelConfig.model_validate(BAGEL_7B_MOT)
    return config.model_copy(update={"timestep_shift": released.timestep_shift}) == released
