"""The learner trains the model. It has one DeepSpeed engine for both SFT and RL, the replay of samples in packs,
checkpoints, and the publishing of new weights to the samplers.

DeepSpeed chooses its accelerator at the moment it is imported, so this module sets DS_ACCELERATOR before that. Without
this setting, DeepSpeed would look for nvcc on a machine that has no GPU.
"""

import os

import torch

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
