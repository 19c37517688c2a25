"""Outcomes built straight from rows of verdicts."""

import numpy as np

from irg_rl.evaluate.outcomes import Outcomes


def build(rows, arm="real", seed=0, prompts=None, stopped=None, task="counting", rewards=None, sets=None) -> Outcomes:
    """`build([[1, 0], [0, 1]])`: one row per trajectory, one column per turn."""
    correct = np.array(rows, dtype=bool)
    n = len(correct)
    return Outcomes(
        arm=arm,
        seed=seed,
        prompt_ids=prompts or [f"p{i}" for i in range(n)],
        sets=sets or prompts or [f"p{i}" for i in range(n)],
        tasks=[task] * n,
        correct=correct,
        score=np.where(correct, 1.0, 0.5),
        stopped=np.zeros(correct.shape, bool) if stopped is None else np.array(stopped, dtype=bool),
        reflection_correct=np.full(correct.shape, np.nan),
        asked=np.zeros(correct.shape, bool),
        preferred=np.full(correct.shape, np.nan),
        rewards=rewards or {},
    )
