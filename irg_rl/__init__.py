"""Reinforcement learning for models that think, draw, look at what they drew, and draw again."""

__version__ = "0.2.0"
