"""The learner: one DeepSpeed engine for SFT and RL, the packed replay, checkpoints and weight publishing.

DeepSpeed chooses its accelerator while it is imported, and looks for nvcc on a machine without a GPU unless told.
"""

import os

import torch

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
