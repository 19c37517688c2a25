"""The words that the report uses for names of the program: arms of an evaluation, and logged numbers."""

import re

ARMS = {"real": "refined", "redraw": "blind redraw", "shuffled": "another prompt's critique"}
"""Arm of an evaluation -> what it is."""
PARTS = {
    "und": "understanding expert", "gen": "generation expert", "vision": "vision tower", "total": "all weights",
    "ce": "text loss", "mse": "image loss", "right_tokens": "tokens predicted right", "kl": "KL", "rl": "RL",
    "approx_kl": "approximate KL", "clipfrac": "share of clipped ratios", "grad_norm": "gradient norm",
    "lr": "learning rate", "pretrain": "base training", "sft1": "SFT, stage 1", "sft2": "SFT, stage 2",
    "ledger": "groups so far", "held_out": "held-out",
}  # fmt: skip
"""Part of a logged name -> words. In other parts, underscores become spaces, if the part has only small letters."""


def arm_words(arm: str) -> str:
    return ARMS.get(arm, arm)


def number_words(name: str) -> str:
    """Return the name of a logged number in words. Readers count turns from 1.

    >>> number_words("rl/text/turn0/log_ratio_max")
    'RL: text, turn 1, log ratio max'
    """
    stage, _, rest = name.partition("/")
    parts = [part_words(part) for part in rest.split("/")] if rest else []
    return f"{part_words(stage)}: {', '.join(parts)}" if parts else part_words(stage)


def part_words(part: str) -> str:
    turn = re.fullmatch(r"turn(\d+)", part)
    if turn:
        return f"turn {int(turn[1]) + 1}"
    return PARTS.get(part, part.replace("_", " ") if re.fullmatch(r"[a-z_]+", part) else part)
