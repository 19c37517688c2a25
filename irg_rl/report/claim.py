"""The claim of a run: what its report says first, computed from the evaluations."""

from collections.abc import Sequence
from dataclasses import dataclass

from irg_rl.evaluate.gate import NOT_PASSED, PASSED, gate_verdict, gate_words
from irg_rl.report.tables import MISSING, REAL, points, share
from irg_rl.report.words import arm_words

ARTICLES = {"redraw": "a "}
SFT_CHECKPOINT = "SFT checkpoint"


@dataclass(frozen=True)
class Claim:
    """`head` is a short sentence, `details` are sentences with the numbers. `good` is None if the claim is neither a
    success nor a failure."""

    head: str
    details: list[str]
    good: bool | None


def claim(evaluations: Sequence[dict], comparison: dict | None) -> Claim | None:
    """Return the claim about the latest evaluation, or None if nothing was evaluated. `comparison` is the comparison of
    RL with its baselines, if there is one."""
    if not evaluations:
        return None
    latest = evaluations[-1]
    gate = latest["gate"]
    head = f"{gate_words(gate['lines']).capitalize()}." if gate else ""
    details = [_turns(latest), *_against_sft(comparison)]
    good = {PASSED: True, NOT_PASSED: False}.get(gate_verdict(gate["lines"])) if gate else None
    return Claim(head, [text for text in details if text], good)


def _turns(evaluation: dict) -> str:
    """Return a sentence: how many images are right at first and at last, and how far this is above each control."""
    real = evaluation["arms"][REAL]
    first, last = real["accuracy"][0], real["accuracy"][-1]
    if first["value"] is None:
        return ""
    begin = f"{share(first).text} of the first images are right"
    if real["turns"] < 2 or last["value"] is None:
        return f"{begin} (checkpoint {evaluation['name']}, {real['prompts']} prompts)."
    above = []
    for control, differences in evaluation["differences"].items():
        lead = points(differences["accuracy"][-1])
        if lead.text != MISSING:
            above.append(f"{lead.text} points [{lead.interval}] above {ARTICLES.get(control, '')}{arm_words(control)}")
    beside = f": {', and '.join(above)}" if above else ""
    return (
        f"{begin}, and {share(last).text} are right after {real['turns']} turns{beside} "
        f"(checkpoint {evaluation['name']}, {real['prompts']} prompts)."
    )


def _against_sft(comparison: dict | None) -> list[str]:
    """Return a sentence about RL and the SFT checkpoint. If several seeds were compared, it is about all of them."""
    rows = [row for row in comparison["rows"] if row["baseline"] == SFT_CHECKPOINT] if comparison else []
    if not rows:
        return []
    row = next((row for row in rows if row["seed"] is None), rows[0])
    gained = points(row["gained"])
    interval = f" [{gained.interval}]" if gained.interval else ""
    return [
        f"RL: {share(row['rl_accuracy']).text} after the last turn, the SFT checkpoint "
        f"{share(row['baseline_accuracy']).text}: {gained.text} points{interval}."
    ]
