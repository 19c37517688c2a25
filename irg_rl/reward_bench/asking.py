"""Asks one scorer everything that a comparison needs: about the images, again about some of them, about changed images,
and about pairs."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from irg_rl.errors import InputError
from irg_rl.reward_bench.material import BenchMaterial, CompareSettings
from irg_rl.reward_bench.scoring import (
    Advance,
    Item,
    OpenHub,
    ScoreAnswer,
    ScoreLog,
    ScorerCase,
    ask_scorer,
)
from rewards.base import Preference, Preferring, ScorerUnavailable
from rewards.build import scorer_constructor

PAIR_BATCH = 8
_log = logging.getLogger(__name__)


def is_pairwise(kind: str) -> bool:
    """Return whether scorers of this kind can compare two images. Nothing is loaded but the class."""
    made = scorer_constructor(kind, "image")
    return isinstance(made, type) and issubclass(made, Preferring)


@dataclass(frozen=True)
class ScorerAnswers:
    """All answers of one scorer to a `BenchMaterial`. `rounds` has one row per equal call, with the images
    `material.repeated`."""

    case: ScorerCase
    answers: list[ScoreAnswer]
    firsts: list[ScoreAnswer]
    seconds: list[ScoreAnswer]
    changes: dict[str, list[ScoreAnswer]]
    rounds: list[list[ScoreAnswer]]
    preferred: list[Preference | None] = field(default_factory=list)

    @property
    def every(self) -> list[ScoreAnswer]:
        """Return all answers about images, without those whose prompt the scorer is not used for."""
        changed = [answer for answers in self.changes.values() for answer in answers]
        return [answer for answer in (*self.answers, *self.firsts, *self.seconds, *changed) if answer.used]


def numbers(answers: Sequence[ScoreAnswer]) -> Float[np.ndarray, "N"]:
    """Return the scores as an array, with nan for missing ones."""
    return np.array([np.nan if answer.score is None else answer.score for answer in answers], dtype=float)


def ask_everything(
    case: ScorerCase, material: BenchMaterial, settings: CompareSettings, log: ScoreLog, open_hub: OpenHub,
    advance: Advance,
) -> ScorerAnswers:  # fmt: skip
    """Ask one scorer about the whole material. Answers that the log has are not asked for again."""
    once = ask_scorer(case, material.questions, log, open_hub, advance)
    parts = iter(once)
    taken = [[next(parts) for _ in part] for part in (material.items, material.firsts, material.seconds)]
    changes = {name: [next(parts) for _ in items] for name, items in material.changes.items()}
    again = [material.items[place] for place in material.repeated]
    rounds = [[taken[0][place] for place in material.repeated]]
    if any(answer.score is not None for answer in rounds[0]):
        # a new hub for each round, so that no answer comes from a cache
        rounds += [ask_scorer(case, again, log, open_hub, round_=r) for r in range(1, settings.rounds)]
    preferred: list[Preference | None] = []
    if any(answer.score is not None for answer in taken[0]) and is_pairwise(case.kind):
        preferred = ask_pairs(case, material.shown, log, open_hub)
    return ScorerAnswers(case, taken[0], taken[1], taken[2], changes, rounds, preferred)


def ask_pairs(
    case: ScorerCase, pairs: Sequence[tuple[Item, Item]], log: ScoreLog, open_hub: OpenHub
) -> list[Preference | None]:
    """Show pairs of images of one prompt to a scorer that compares two images, each pair in both orders. Pairs
    whose prompt the scorer is not used for are left out. Answers are kept in the log: round 0 is the answer in the
    given order, round 1 the answer in the other one."""
    keys = [_pair_keys(case, pair) for pair in pairs]
    todo = [
        place for place, (first, second) in enumerate(pairs)
        if not (first.problem or second.problem) and not all(key in log.answers for key in keys[place])
        and not _known_unused(case, first, log)
    ]  # fmt: skip
    try:
        if todo:
            with open_hub(case.name) as hub:
                scorer = hub.scorers[case.name]
                assert isinstance(scorer, Preferring)
                todo = [place for place in todo if hub.used(case.name, pairs[place][0].image.prompt)]
                for start in range(0, len(todo), PAIR_BATCH):
                    part = todo[start : start + PAIR_BATCH]
                    found = scorer.prefer(
                        [pairs[i][0].image.prompt for i in part], [pairs[i][0].image.read() for i in part],
                        [pairs[i][1].image.read() for i in part],
                    )  # fmt: skip
                    for place, preference in zip(part, found, strict=True):
                        if preference is not None:
                            for key, value in zip(keys[place], (preference.in_order, preference.swapped)):
                                log.add(key, ScoreAnswer(value))
    except (ScorerUnavailable, InputError) as error:
        _log.warning("%s compares no more pairs: %s", case.name, error)
    return [_known_preference(log, own) for own in keys]


def _known_unused(case: ScorerCase, item: Item, log: ScoreLog) -> bool:
    key = item.key(case.identity, 0)
    return key in log.answers and not log.answers[key].used


def _pair_keys(case: ScorerCase, pair: tuple[Item, Item]) -> list[tuple[str, str, str, int]]:
    first, second = (item.key(case.identity, 0) for item in pair)
    return [(f"{case.identity} prefers", f"{first[1]} {second[1]}", first[2], order) for order in (0, 1)]


def _known_preference(log: ScoreLog, keys: Sequence[tuple[str, str, str, int]]) -> Preference | None:
    scores = [log.answers[key].score for key in keys if key in log.answers]
    known = [score for score in scores if score is not None]
    return Preference(known[0], known[1]) if len(known) == 2 else None
