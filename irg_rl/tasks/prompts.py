"""The task `prompts`, for prompts from the user's own files. A scorer of the recipe can decide which images are right.
If the recipe names no scorer for this, images are not judged as right or wrong."""

import hashlib
from collections.abc import Mapping, Sequence

from pydantic import model_validator

from irg_rl.config import Recipe, Section, Share, nearest
from irg_rl.errors import InputError
from irg_rl.prompts import read_prompts
from irg_rl.task import SPLITS, Pixels, Task, Verdict
from irg_rl.trajectory import Prompt


class SplitShares(Section):
    """Shares of the splits train, validation and test, if one file has all prompts. If their sum is below 1, the rest
    of the prompts is not used."""

    train: Share = 0.9
    validation: Share = 0.05
    test: Share = 0.05

    @model_validator(mode="after")
    def no_more_than_there_are(self):
        if self.train + self.validation + self.test > 1 + 1e-9:
            raise ValueError("train, validation and test together are more than 1")
        return self


class VerdictByScorer(Section):
    """The rule that decides which pictures are right in the task `prompts`: a scorer gives the picture a score, and the
    picture is right if this score is high enough."""

    scorer: str
    """Name of a scorer in the recipe. Its score is also used as the graded score of the picture."""
    threshold: float = 0.5
    """A picture is right if its score is at least this value."""


class PromptsSettings(Section):
    """Options of the task `prompts`. There are two ways to give the prompts. Either the file `file` has all prompts,
    and the program divides them into the splits. Or each split has its own file: `test` (required), `validation`, and
    `train` (needed for RL)."""

    file: str | None = None
    """Path of a file with one JSON object per line. Each line has a `prompt` and, if known, its `id` and `metadata`. A
    hash of the prompt's text decides which split it belongs to."""
    shares: SplitShares = SplitShares()
    """Shares of the splits, if all prompts are in `file`."""
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    verdict: VerdictByScorer | None = None
    """The rule that decides which pictures are right. If null, there are no verdicts, and an evaluation shows only
    scores, texts and pictures."""

    @model_validator(mode="after")
    def prompts_come_from_somewhere(self):
        apart = [split for split in SPLITS if vars(self)[split] is not None]
        if self.file is not None and apart:
            raise ValueError(f"file is split by itself: leave out either file or {', '.join(apart)}")
        if self.file is None and self.test is None:
            raise ValueError("no prompts: name one `file`, or a file for `test` and, for RL, one for `train`")
        return self


class OwnPrompts(Task[PromptsSettings]):
    """The task for prompts from the user's own files. A scorer, often a judge, decides whether a picture is right."""

    settings_type = PromptsSettings

    @property
    def verdict_scorer(self) -> str | None:
        verdict = self.settings.verdict
        return None if verdict is None else verdict.scorer

    def prompts(self, split: str) -> list[Prompt]:
        own = self.settings
        if own.file is None:
            path = vars(own)[split]
            return [] if path is None else read_prompts(path)
        return [prompt for prompt in read_prompts(own.file) if split_of(prompt.text, own.shares.model_dump()) == split]

    def judges(self, prompt: Prompt) -> bool:
        return self.settings.verdict is not None

    def verdicts(self, images: list[Pixels], prompts: list[Prompt]) -> Sequence[Verdict | None]:
        """Return one verdict per picture. A picture is right if its score is at least `verdict.threshold`. A verdict is
        None if the scorer failed for this picture. All verdicts are None if the options of the task do not name a
        scorer that decides."""
        by = self.settings.verdict
        if by is None or self.score is None:
            self.last_error = "no scorer says which pictures are right: set task_options.verdict"
            return [None] * len(images)
        scores = self.score(by.scorer, images, prompts)
        return [None if score is None else Verdict(score >= by.threshold, score) for score in scores]

    def problems(self, recipe: Recipe) -> list[str]:
        problems, by = [], self.settings.verdict
        names = [scorer.name for scorer in recipe.rewards.scorers]
        if by is not None and by.scorer not in names:
            problems.append(f"task_options.verdict.scorer: no scorer {by.scorer!r} in rewards.scorers" + (
                nearest(by.scorer, names) if names else "; there is none"
            ))  # fmt: skip
        samples = recipe.rl is not None and recipe.rl.prompts is None and recipe.rl.rollouts is None
        if samples and self.settings.file is None and self.settings.train is None:
            problems.append("task_options.train: RL samples for prompts of this split: name a file")
        problems += [
            f"rewards.scorers: {scorer.name}: the task prompts has no checker of its own; use another kind"
            for scorer in recipe.rewards.scorers if scorer.kind == "verifier"
        ]  # fmt: skip
        return problems

    def missing(self) -> list[str]:
        """Return messages about problems with the prompt files. There are three kinds of problems:
        * A file cannot be read.
        * The test split has no prompt.
        * A prompt is in train and also in test."""
        try:
            texts = {split: {prompt.text for prompt in self.prompts(split)} for split in SPLITS}
        except (InputError, OSError) as error:
            return [f"task_options: {error}"]
        problems = []
        if not texts["test"]:
            problems.append("task_options: no prompt falls into the split test: take more prompts or a larger share")
        if twice := texts["train"] & texts["test"]:
            problems.append(
                f"task_options: {len(twice)} prompt(s) are in train and in test, {min(twice)[:60]!r} first: hold test "
                "prompts out"
            )
        return problems


def split_of(text: str, shares: Mapping[str, float]) -> str | None:
    """Return the name of the split to which the prompt with the text `text` belongs. `shares` maps the name of each
    split to its share of all prompts. The text is hashed to a number in [0, 1). Each split has a part of this interval,
    and the length of the part is the share. The part that contains the number gives the split. Return None if no part
    contains the number. This happens only if the shares add up to less than 1.

    The split does not depend on the other prompts in the file, and the same text is never in two splits. The hash is
    the first 8 bytes of the sha256 of the text without outer white space.
    """
    digest = hashlib.sha256(text.strip().encode()).digest()
    place, end = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for split, share in shares.items():
        end += share
        if place < end:
            return split
    return None
