"""The learner: one DeepSpeed engine for SFT and RL, packed replay, checkpoints and publishing of weights.

DeepSpeed chooses its accelerator when it is imported. Without this setting it looks for nvcc on a machine without GPU.
"""

import os

import torch

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
