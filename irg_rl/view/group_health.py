"""The lines about the health of RL that need stored groups, because metrics.jsonl does not have their numbers."""

from collections.abc import Callable, Sequence
from statistics import fmean

from irg_rl.evaluate.health import HealthLine
from irg_rl.evaluate.health_checks import BAD, GOOD, MISSING, WARN, Judge, above, percent, shown
from irg_rl.view.groups import StoredGroup, advantage_spread

NOT_STORED = "Not in metrics.jsonl. It is computed from stored groups, and there are none yet (rl.look_every)."


def health_of_groups(looks: Sequence[Sequence[StoredGroup]], place: str) -> list[HealthLine]:
    """Return lines that metrics.jsonl does not have, computed from stored groups. `looks` has the groups of each update
    of which some were stored, in the order of the updates. `place` says which update is the newest, in words."""
    rewards = [[group.spread for group in groups if group.spread is not None] for groups in looks]
    spreads = [fmean(found) for found in rewards if found]
    newest = looks[-1] if looks else []
    told = f"From the {len(newest)} stored groups of {place}." if newest else NOT_STORED
    kinds = advantage_spread(newest)
    texts, cut = sum(group.texts for group in newest), sum(group.unfinished for group in newest)
    return [
        _of_groups(
            "Reward spread within groups", spreads, shown, "above 0", told, above_zero,
            "Standard deviation of the rewards of the last images within a group, mean over groups.",
        ),
        _of_groups(
            "Advantage spread per kind of segment", list(kinds.values()), shown, "above 0", told,
            all_above_zero,
            "Standard deviation of the advantages. A kind of segment without a spread is not trained.",
            [(f"{modality} of turn {turn + 1}", shown(value)) for (modality, turn), value in kinds.items()],
        ),
        _of_groups(
            "Texts cut at the token limit", [cut / texts] if texts else [], percent, "at most 5 %", told,
            above(0.05, 0.2), "Share of texts that never ended by themselves.",
        ),
        HealthLine("Malformed texts", MISSING, "\N{EN DASH}", "", "Not logged by this version."),
    ]  # fmt: skip


def above_zero(values: list[float]) -> str:
    return GOOD if values[-1] > 0 else BAD


def all_above_zero(values: list[float]) -> str:
    return GOOD if min(values) > 0 else WARN


def _of_groups(
    title: str, values: list[float], show: Callable[[float], str], limit: str, told: str, judge: Judge, words: str,
    parts: list[tuple[str, str]] | None = None,
) -> HealthLine:
    """Return a line about stored groups. Without values, it says why there are none."""
    if not values:
        return HealthLine(title, MISSING, "\N{EN DASH}", limit, told)
    value = "" if parts else show(values[-1])
    return HealthLine(title, judge(values), value, limit, f"{words} {told}", values if not parts else [], parts or [])
