"""Reinforcement learning algorithms, and the learner that runs them."""
