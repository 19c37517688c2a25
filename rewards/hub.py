"""The reward hub scores every image with every scorer, retries failures, and stops the run when a scorer fails too
often.

A failed score stays None (invariant 2 of the project). The hub asks again for exactly the images that failed, a limited
number of times. If a scorer fails on too many images, the run stops and shows the scorer's last error. Without this
rule, the model would be trained only on images that happened to get a score. The hub returns the scores of every
scorer. It does not combine them into a reward; irg_rl/credit/ does.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from irg_rl.prompts import fits
from irg_rl.trajectory import Prompt, Statement
from rewards.base import (
    Counting,
    GroupScorer,
    Image,
    Score,
    Scorer,
    ScorerUnavailable,
    TooManyFailures,
    mean_score,
    require_pairs,
)
from rewards.build import ScorerSpec, build_scorer, can_score
from rewards.pairwise import compare_all

Call = Callable[[Any, list[list[Any]]], list[Score]]
"""Type of a function: (scorer, columns) -> scores. The columns are lists of equal length, such as a list of images and
a list of prompts. The result has one score per position in these lists."""


@dataclass
class ScorerStats:
    """Statistics of one scorer: `images` is the number of scored images. `failed` is the number of images without a
    score after all tries. `retried` counts how often an image was scored again. `calls` is the number of calls.
    `seconds` is the total wall time of the calls, and `slowest` the time of the slowest call."""

    images: int = 0
    failed: int = 0
    retried: int = 0
    calls: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    recent: deque[bool] = field(default_factory=deque)  # one per recent image; True: it failed in all tries

    def log(self, prefix: str) -> dict[str, float]:
        return {
            f"{prefix}/images": self.images,
            f"{prefix}/failed": self.failed,
            f"{prefix}/retried": self.retried,
            f"{prefix}/seconds_per_image": self.seconds / max(self.images, 1),
            f"{prefix}/slowest_call_seconds": self.slowest,
        }


class RewardHub:
    """Scores images with all scorers of a run. `specs` has one entry for each scorer: a ScorerSpec or a plain dict.

    retries: largest number of times that an image is scored again after a scorer has failed for it.
    max_failure_share: largest allowed share of failed images of one scorer. An image has failed if it has no score
    after all tries. The share is computed over the last `window` images of the scorer. Each hub counts for itself, so
    in RL each critic does.
    min_images: the share is not checked before a scorer has seen this number of images.
    """

    def __init__(
        self,
        specs: Sequence[dict | ScorerSpec],
        retries: int = 1,
        max_failure_share: float = 0.2,
        window: int = 256,
        min_images: int = 16,
    ) -> None:
        if not specs:
            raise ValueError("no scorers are configured: name at least one")
        if not 0 <= max_failure_share <= 1:
            raise ValueError(f"max_failure_share is {max_failure_share}: it is a share, between 0 and 1")
        if retries < 0 or not 1 <= min_images <= window:
            raise ValueError(
                f"retries is {retries}, min_images {min_images} and window {window}: "
                "retries is at least 0 and 1 <= min_images <= window"
            )
        self.specs = [spec if isinstance(spec, ScorerSpec) else ScorerSpec.from_dict(spec) for spec in specs]
        names = [spec.name for spec in self.specs]
        if len(set(names)) < len(names):
            raise ValueError(f"scorer names must differ, but they are {names}")
        self.retries = retries
        self.max_failure_share = max_failure_share
        self.min_images = min_images
        self.scorers: dict[str, Scorer] = {spec.name: build_scorer(spec) for spec in self.specs}
        for spec in self.specs:
            if not can_score(self.scorers[spec.name], spec.of):
                raise ScorerUnavailable(f"scorer {spec.name!r} of kind {spec.kind} cannot score a {spec.of}")
        self.conditions = {spec.name: spec.when for spec in self.specs}
        self.stats = {name: ScorerStats(recent=deque(maxlen=window)) for name in names}

    @property
    def held_out(self) -> list[str]:
        """Return the names of the scorers that are logged but are not part of the reward."""
        return [spec.name for spec in self.specs if spec.held_out]

    def check(self) -> None:
        """Check that all scorers can work now. Raises ScorerUnavailable if one cannot; the message names the scorer."""
        for name, scorer in self.scorers.items():
            try:
                scorer.check()
            except ScorerUnavailable as error:
                raise ScorerUnavailable(f"scorer {name!r}: {error}") from error

    def score(self, images: list[Image], prompts: list[Prompt]) -> dict[str, list[Score]]:
        """Score images with all image scorers. (Other scorers score reflections, their statements, edits
        or whole groups.) Returns a
        dict: name of the scorer -> one score per image. `images[i]` was drawn for `prompts[i]`. A score is None if the
        scorer failed in all tries, or if it is not used for the prompt.

        Raises TooManyFailures if the share of recent failures of a scorer is larger than `max_failure_share`.
        """
        require_pairs(images, prompts)
        if not images:
            return {name: [] for name in self.names("image")}
        return {name: self.score_with(name, images, prompts) for name in self.names("image")}

    def score_with(self, name: str, images: list[Image], prompts: list[Prompt]) -> list[Score]:
        """Return one score per image, by the scorer `name` only. `images[i]` was drawn for `prompts[i]`. A score is
        None if the scorer failed in all tries, or if it is not used for the prompt. Raises TooManyFailures if the
        scorer fails too often."""
        return self._values(name, prompts, lambda scorer, chosen: scorer.score(*chosen), images, prompts)

    def score_siblings(self, images: list[Image], prompt: Prompt) -> dict[str, list[Score]]:
        """Score all images of a group (all samples of one prompt) with the scorers of groups that are used for this
        prompt. Returns a dict: name of the scorer -> one score per image. If a scorer failed for some of the images, it
        is asked for the whole group again, because its scores compare the images. A score that then is still missing is
        None. Raises TooManyFailures if a scorer fails too often."""
        require_pairs(images, [prompt] * len(images))
        return {name: self._siblings(name, images, prompt) for name in self.names("group", prompt=prompt)}

    def score_reflections(
        self, images: list[Image], prompts: list[Prompt], texts: list[str]
    ) -> dict[str, list[Score]]:
        """Score reflections with all scorers of reflections. Returns a dict: name of the scorer -> one score per
        reflection. Score i says how true the text `texts[i]` is about `images[i]`, which was drawn for `prompts[i]`. A
        score is None if the scorer failed in all tries, or if it is not used for the prompt. Raises TooManyFailures if
        a scorer fails too often."""
        require_pairs(images, prompts)
        return {
            name: self._values(
                name, prompts, lambda scorer, chosen: scorer.score_reflections(*chosen), images, prompts, texts
            )
            for name in self.names("reflection")
        }

    def score_statements(
        self, images: list[Image], prompts: list[Prompt], texts: list[str]
    ) -> dict[str, list[list[Statement] | None]]:
        """Score the single statements of reflections with all scorers of statements. Returns a dict: name of the
        scorer -> one list of statements per reflection, in the order of the text. The text `texts[i]` is about
        `images[i]`, which was drawn for `prompts[i]`. A list is None if the scorer failed in all tries, or if it is not
        used for the prompt. Raises TooManyFailures if a scorer fails too often."""
        require_pairs(images, prompts)
        return {name: self._statements(name, images, prompts, texts) for name in self.names("statement")}

    def _statements(
        self, name: str, images: list[Image], prompts: list[Prompt], texts: list[str]
    ) -> list[list[Statement] | None]:
        found: list[list[Statement] | None] = [None] * len(texts)

        def call(scorer: Any, columns: list[list[Any]]) -> list[Score]:
            *asked, places = columns
            answers = scorer.score_statements(*asked)
            for place, answer in zip(places, answers, strict=True):
                found[place] = None if answer is None else _plain(answer)
            return [None if (own := found[place]) is None else mean_score(own) for place in places]

        scores = self._values(name, prompts, call, images, prompts, texts, range(len(texts)))
        return [None if score is None else answer for score, answer in zip(scores, found, strict=True)]

    def score_edits(
        self, before: list[Image], texts: list[str], after: list[Image], prompts: list[Prompt]
    ) -> dict[str, list[Score]]:
        """Score refined images with all scorers of edits. (An edit is the change from one image to the next.) Returns a
        dict: name of the scorer -> one score per refined image. The reflection `texts[i]` asks for changes of
        `before[i]`. Score i says how well `after[i]` makes these changes. A score is None if the scorer failed in all
        tries, or if it is not used for the prompt. Raises TooManyFailures if a scorer fails too often."""
        require_pairs(before, prompts)
        return {
            name: self._values(
                name, prompts, lambda scorer, chosen: scorer.score_edits(*chosen), before, texts, after, prompts
            )
            for name in self.names("edit")
        }

    def names(self, *forms: str, prompt: Prompt | None = None) -> list[str]:
        """Return the names of the scorers of these forms ("image", "reflection", "statement", "edit" or "group").
        If `prompt` is given, leave out scorers that are not used for it."""
        return [
            spec.name for spec in self.specs if spec.of in forms and (prompt is None or self.used(spec.name, prompt))
        ]

    def used(self, name: str, prompt: Prompt) -> bool:
        """Return whether the scorer `name` is used for this prompt (the setting `when` in a recipe)."""
        return fits(prompt, self.conditions[name])

    def _values(self, name: str, prompts: Sequence[Prompt], call: Call, *columns: Sequence[Any]) -> list[Score]:
        """Return one score per position in the columns, which are lists of equal length (such as images and prompts).
        `call` gets the scorer and the columns, and returns the scores. Positions for which the scorer failed are scored
        again, up to `retries` times. Positions whose prompt the scorer is not used for have the score None. They are
        not asked for and count nowhere."""
        stats = self.stats[name]
        scores: list[Score] = [None] * len(columns[0])
        asked = [i for i, prompt in enumerate(prompts) if self.used(name, prompt)]
        todo = asked
        for attempt in range(self.retries + 1):
            if not todo:
                break
            stats.retried += len(todo) if attempt else 0
            answers = self._call(name, call, [[column[i] for i in todo] for column in columns])
            for i, answer in zip(todo, answers, strict=True):
                scores[i] = answer
            todo = [i for i in todo if scores[i] is None]
        self._count(name, [scores[i] for i in asked])
        return scores

    def _siblings(self, name: str, images: list[Image], prompt: Prompt) -> list[Score]:
        def call(scorer: Any, columns: list[list[Any]]) -> list[Score]:
            if isinstance(scorer, GroupScorer):
                return scorer.score_group(columns[0], prompt)
            return compare_all(scorer, columns[0], prompt)

        scores = self._call(name, call, [images])
        for _ in range(self.retries):
            if None not in scores:
                break
            self.stats[name].retried += len(images)
            scores = self._call(name, call, [images])
        self._count(name, scores)
        return scores

    def _count(self, name: str, scores: list[Score]) -> None:
        """Add final scores to the statistics of a scorer. Raises TooManyFailures if the scorer fails too often."""
        stats, failed = self.stats[name], [score is None for score in scores]
        stats.images += len(failed)
        stats.failed += sum(failed)
        stats.recent.extend(failed)
        self._stop_if_failing(name)

    def _call(self, name: str, call: Call, columns: list[list[Any]]) -> list[Score]:
        """Call a scorer once and measure the time. Scores that are not finite numbers become None and count as
        failures."""
        scorer, stats = self.scorers[name], self.stats[name]
        start = time.perf_counter()
        try:
            answers = call(scorer, columns)
        except ScorerUnavailable as error:
            raise ScorerUnavailable(f"scorer {name!r}: {error}") from error
        elapsed = time.perf_counter() - start
        stats.calls += 1
        stats.seconds += elapsed
        stats.slowest = max(stats.slowest, elapsed)
        if len(answers) != len(columns[0]):
            raise ValueError(f"scorer {name!r} returned {len(answers)} scores for {len(columns[0])} images")
        clean: list[Score] = []
        for answer in answers:
            if answer is not None and not math.isfinite(answer):
                scorer.last_error = f"the score {answer} is not a finite number"
                answer = None
            clean.append(None if answer is None else float(answer))
        return clean

    def _stop_if_failing(self, name: str) -> None:
        recent = self.stats[name].recent
        failed, seen = sum(recent), len(recent)
        if seen >= self.min_images and failed / seen > self.max_failure_share:
            last = self.scorers[name].last_error or "it gave no reason"
            raise TooManyFailures(
                f"scorer {name!r} failed on {failed} of its last {seen} images "
                f"({failed / seen:.0%}, allowed {self.max_failure_share:.0%}); last error: {last}. "
                "Mend the scorer and resume, or raise max_failure_share"
            )

    def log(self) -> dict[str, float]:
        """Return a flat dict for metrics: `reward/SCORER/METRIC` -> number. For every scorer, it has the numbers of
        images, failures and retries, and the call times. It also has the events that a scorer counts itself."""
        numbers = {key: value for name, s in self.stats.items() for key, value in s.log(f"reward/{name}").items()}
        for name, scorer in self.scorers.items():
            if isinstance(scorer, Counting):
                numbers |= {f"reward/{name}/{key}": value for key, value in scorer.counts().items()}
        return numbers


def _plain(statements: Sequence[Sequence[Any]]) -> list[Statement]:
    """Return the statements of a scorer as plain Python numbers, in the order of the text."""
    return sorted(Statement(int(begin), int(end), float(score)) for begin, end, score in statements)
