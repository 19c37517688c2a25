"""Weights of scorers, and the tie of DPO, from measured noise.

Let s_i be the score of scorer i, sd_i its standard deviation inside groups, and N_i the standard deviation of its
noise. The best linear estimate of a quality from s_i alone has the weight (correlation with the quality) / sd_i. Noise
lowers the correlation, so a noisy scorer gets less. This module uses

    w_i = voice_i / sd_i            (rewards.combine: sum)
    w_i = voice_i                   (rewards.combine: zscore_sum, which divides by sd_i itself)

where voice_i is what is known of the correlation, and at least 0:

* with verdicts: the correlation with the verdict inside groups;
* else with preferences: 2 p - 1, where p is the share of pairs in the right order;
* else sqrt(1 - N_i^2 / sd_i^2), the correlation of the score with itself without noise.

A scorer that cannot be told apart from chance gets the weight 0. The tie of DPO is the difference of two rewards that
noise alone exceeds in one of ten pairs of equally good images:

    tie = z sqrt(2 sum_i w_i^2 N_i^2),   z = 1.645
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10, sqrt
from typing import Any

from irg_rl.errors import InputError

TIE_QUANTILE = 1.645
"""Quantile z of the normal distribution with P(|Z| > z) = .1."""
CHANCE = 0.5


@dataclass(frozen=True)
class Calibrated:
    """The weights of the rewarding scorers, the tie of DPO for these weights, and how they were found."""

    weights: dict[str, float]
    tie: float
    voices: dict[str, float]
    notes: list[str]


def calibrate(comparison: Mapping[str, Any], combine: str = "sum") -> Calibrated:
    """Compute weights and tie (see the module) from the JSON of a comparison. The sum is scaled so that a verifier
    keeps its weight; without a verifier, the largest voice gets the weight 1. Raises InputError if no scorer is usable.
    """
    basis, notes, voices, per_unit = comparison["basis"], [], {}, {}
    for name, measured in comparison["scorers"].items():
        if measured["held_out"]:
            continue
        voices[name] = _voice(name, measured, basis, notes)
        spread = measured["spread"] or 0.0
        if not spread and voices[name]:
            notes.append(f"{name}: no spread inside groups was measured, so it gets no weight")
        per_unit[name] = 0.0 if not spread else voices[name] / (spread if combine == "sum" else 1.0)
    anchor = _anchor(comparison["scorers"], voices, per_unit)
    if anchor is None:
        raise InputError("no scorer is above chance and has a spread inside groups: there is nothing to weigh")
    of_anchor = comparison["scorers"][anchor]
    kept = of_anchor["weight"] if of_anchor["kind"] == "verifier" and of_anchor["weight"] > 0 else 1.0
    weights = {name: rounded(value * kept / per_unit[anchor]) for name, value in per_unit.items()}
    noises = {name: comparison["scorers"][name]["noise"] for name in weights}
    notes += [f"{name}: its noise was not measured and counts as 0" for name, n in noises.items() if n is None]
    variance = sum((weights[name] * (noise or 0.0)) ** 2 for name, noise in noises.items())
    return Calibrated(weights, rounded(TIE_QUANTILE * sqrt(2 * variance)), voices, notes)


def _voice(name: str, measured: Mapping[str, Any], basis: str, notes: list[str]) -> float:
    """Return what is known of a scorer's correlation with the quality, in [0, 1]."""
    if not measured["scored"]:
        notes.append(f"{name}: it gave no score")
        return 0.0
    if basis:
        share = measured["order" if basis == "verdict" else "preferences"]
        if share["value"] is None or (share["low"] if share["low"] is not None else share["value"]) <= CHANCE:
            notes.append(f"{name}: cannot be told apart from chance")
            return 0.0
        known = measured["correlation"] if basis == "verdict" else 2 * share["value"] - 1
        return max(0.0, known or 0.0)
    return sqrt(measured["reliability"] or 0.0)


def _anchor(
    scorers: Mapping[str, Any], voices: Mapping[str, float], per_unit: Mapping[str, float]
) -> str | None:
    """Return the scorer that fixes the scale: a verifier with a weight, else the one with the largest voice."""
    usable = [name for name, value in per_unit.items() if value > 0]
    verifiers = [name for name in usable if scorers[name]["kind"] == "verifier"]
    return max(verifiers or usable, key=lambda name: voices[name], default=None)


def rounded(value: float, digits: int = 3) -> float:
    """Return the value with this number of significant digits."""
    return 0.0 if value == 0 else round(value, digits - 1 - floor(log10(abs(value))))


def with_weights(scorers: Sequence[Mapping[str, Any]], weights: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the scorers of a recipe with new weights. Scorers that have none in `weights` are not changed."""
    return [{**scorer, **({"weight": weights[scorer["name"]]} if scorer["name"] in weights else {})}
            for scorer in scorers]  # fmt: skip
