"""The learner trains the model. This package has the DeepSpeed engine for supervised fine-tuning (SFT) and
reinforcement learning (RL). It also has the code for replay (running sampled answers through the model again), for
checkpoints, and for the publishing of new weights to the samplers.

DeepSpeed chooses its accelerator at the moment it is imported, so this module sets DS_ACCELERATOR before that. Without
this setting, DeepSpeed would look for nvcc on a machine that has no GPU.
"""

import os

import torch

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
