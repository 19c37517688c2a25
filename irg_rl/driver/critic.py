"""The critic: an actor (a process of Ray) that scores a sampled group and then assigns credit. To assign credit means
to compute an advantage for each segment (a text or an image of a trajectory)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from irg_rl import credit, faults
from irg_rl.algorithms.base import (
    Algorithm,
    Conditions,
    Selection,
    algorithm_of,
    applying,
    held_modalities,
    reward_weights,
    scorer_conditions,
    segment_weights,
    statement_weights,
)
from irg_rl.cluster.beats import beating, no_beat
from irg_rl.cluster.threads import take_thread_share
from irg_rl.config import Recipe
from irg_rl.credit import Right, RightOptions, scheme_named
from irg_rl.driver.drawn import drawn_statistics, scored_statistics
from irg_rl.prompts import fits
from irg_rl.trajectory import Group, Modality, Prompt
from rewards.hub import RewardHub
from rewards.offload import Offload
from rewards.segments import score_group


@dataclass(frozen=True)
class CreditSettings:
    """Settings that decide how scores become advantages (see irg_rl.credit). They are plain data, so that they can be
    sent to an actor. The actor imports the code of the credit scheme itself."""

    scheme: str | None  # None if the algorithm uses no credit scheme
    weights: dict[str, float]
    how: str = "sum"
    options: dict[str, Any] = field(default_factory=dict)
    segment_weights: dict[str, float] = field(default_factory=dict)  # scorer of reflections or edits -> weight
    statement_weights: dict[str, float] = field(default_factory=dict)  # scorer of single statements -> weight
    held: tuple[Modality, ...] = ()  # modalities with a KL term
    perfect_scorer: str | None = None  # an image is right if this scorer gives 1; for None see Right.by
    conditions: Conditions = field(default_factory=dict)  # scorer -> prompts that it is used for

    @classmethod
    def of(cls, recipe: Recipe) -> "CreditSettings":
        rl = recipe.require_rl()
        options = rl.credit_options
        asked = options.perfect_scorer if isinstance(options, RightOptions) else None
        verifiers = [s.name for s in recipe.rewards.scorers if s.kind == "verifier" and not s.held_out]
        perfect = asked or next(iter(verifiers), None)
        return cls(
            rl.credit, reward_weights(recipe), recipe.rewards.combine, options.model_dump(), segment_weights(recipe),
            statement_weights(recipe), held_modalities(recipe), perfect, scorer_conditions(recipe),
        )  # fmt: skip

    def of_prompt(self, prompt: Prompt) -> "CreditSettings":
        """Return the settings with only those scorers that are used for this prompt. If `perfect_scorer` is not used
        for it, the combined reward decides whether an image is right."""
        given = self.weights, self.segment_weights, self.statement_weights
        own = [applying(weights, self.conditions, prompt) for weights in given]
        used = self.perfect_scorer is not None and fits(prompt, self.conditions.get(self.perfect_scorer, {}))
        return replace(
            self, weights=own[0], segment_weights=own[1], statement_weights=own[2],
            perfect_scorer=self.perfect_scorer if used else None,
        )  # fmt: skip

    def give(self, group: Group) -> credit.Summary:
        """Compute the advantages of a scored group and store them in its segments. Return a summary of the group, for
        example how many of its samples can be trained."""
        assert self.scheme is not None
        scheme, own = scheme_named(self.scheme), self.of_prompt(group.prompt)
        options, right = scheme.options.model_validate(self.options), Right.by(own.perfect_scorer, own.weights)
        return credit.assign(
            group, scheme, own.weights, how=self.how, options=options, right=right,
            segment_weights=own.segment_weights if scheme.uses_segment_scores else None,
            statement_weights=own.statement_weights if scheme.uses_segment_scores else None, held=own.held,
        )  # fmt: skip


@dataclass(frozen=True)
class CriticSettings:
    """Everything that a critic needs in addition to its scorers: the RL algorithm, and the settings for credit
    assignment (how rewards become advantages of segments)."""

    algorithm: Algorithm[Any]
    credit: CreditSettings

    @classmethod
    def of(cls, recipe: Recipe) -> "CriticSettings":
        return cls(algorithm_of(recipe), CreditSettings.of(recipe))

    def assign(self, group: Group) -> Selection:
        """Compute the advantages of a scored group and store them in its segments. Return what the algorithm has
        decided about the group, for example whether it can be trained on."""
        return self.algorithm.select(group, lambda: self.credit.give(group))


@dataclass(frozen=True)
class ScoredSummary:
    """Numbers about a scored group. The driver (the main process) reads only these numbers and never loads the group
    itself."""

    group: int
    version: int
    has_spread: bool  # whether the rewards of the group's samples differ
    empty: bool  # whether the group has nothing to train on
    counts: dict[str, float]  # counts that the algorithm wants logged
    failures: dict[int, str]  # sample -> why a scorer of the reward failed
    trajectories: int
    stopped: int
    images: int  # in this and the next three fields, a shared segment counts once
    text_tokens: int
    means: dict[str, list[float]]  # scorer -> mean per turn over the images of that turn
    images_by_turn: list[int]
    first: float  # mean combined reward of first images, without failed trajectories; branches of a trunk count once
    last: float  # the same for last images
    scorers: dict[str, float]  # failures and latency of every scorer since the critic began
    critic: int = 0  # number of the critic
    watched: dict[str, float] = field(default_factory=dict)  # what alarms watch (driver/drawn.py): metric -> value


class Critic:
    """Scores whole groups, one or several in one call. `ray.remote(Critic)` makes a Ray actor of this class."""

    def __init__(
        self, specs: list[dict], settings: CriticSettings, threads: int, max_failure_share: float, number: int = 0,
        beat: Callable[[], None] = no_beat,
    ) -> None:
        take_thread_share(threads)
        self.number = number  # among the critics of a run
        self.beat = beat
        self.hub = RewardHub(specs, max_failure_share=max_failure_share)
        self.offload = Offload(self.hub.scorers.values())
        self.settings = settings

    def score_groups(self, *groups: Group) -> tuple[list[ScoredSummary], *tuple[Group, ...]]:
        """Score the images and segments of each group, and compute the advantages. Store the scores and the advantages
        in the group. Return a tuple: a list with one summary per group, and then the same groups."""
        faults.at("critic", groups[0].version)
        with beating(self.beat):
            self.offload.wake()
            return [self.score_group(group)[0] for group in groups], *groups

    def rest(self) -> None:
        """Move the models of the scorers to main memory. The next call of `score_groups` moves them back."""
        self.offload.rest()

    def score_group(self, group: Group) -> tuple[ScoredSummary, Group]:
        """Score the images and segments of a group, and compute the advantages. Store the scores and the advantages in
        the group. Return (summary, the same group)."""
        score_group(group, self.hub)
        selection = self.settings.assign(group)
        weights = self.settings.credit.of_prompt(group.prompt).weights
        known = [
            (trajectory, [value for value in q if value is not None])
            for trajectory, q in zip(group.trajectories, credit.combine(group, weights))
            if None not in q
        ]
        trunks = [credit.by_trunk([t for t, _ in known], [q[k] for _, q in known]) for k in (0, -1)]
        first, last = (sum(own) / len(own) if own else float("nan") for own in trunks)
        return self._summary(group, selection, first, last), group

    def _summary(self, group: Group, selection: Selection, first: float, last: float) -> ScoredSummary:
        turns = max(t.turns for t in group.trajectories)
        drawn = [list({id(t.images[k]): t for t in group.trajectories if k < t.turns}.values()) for k in range(turns)]
        means = {}
        for name in group.trajectories[0].rewards:
            scored = [[t.rewards[name][k] for t in column] for k, column in enumerate(drawn)]
            columns = [[score for score in column if score is not None] for column in scored]
            means[name] = [sum(column) / len(column) if column else float("nan") for column in columns]
        for name in self.hub.names("reflection", "statement", "edit", prompt=group.prompt):
            columns = [[s.scores.get(name) for s in group.segments if s.turn == turn] for turn in range(turns)]
            known = [[score for score in column if score is not None] for column in columns]
            means[name] = [sum(column) / len(column) if column else float("nan") for column in known]
        failures, credit_settings = {}, self.settings.credit.of_prompt(group.prompt)
        of_segments = credit_settings.segment_weights | credit_settings.statement_weights
        for trajectory in group.trajectories:
            failed = [name for name in credit_settings.weights if None in trajectory.rewards[name]]
            failed += [
                name for name in of_segments
                if any(segment.scores.get(name, 0.0) is None for segment in trajectory.segments)
            ]  # fmt: skip
            if failed:
                failures[trajectory.sample] = "; ".join(f"{n}: {self.hub.scorers[n].last_error}" for n in failed)
        return ScoredSummary(
            group=group.id,
            version=group.version,
            has_spread=selection.has_spread,
            empty=selection.empty,
            counts=dict(selection.counts),
            failures=failures,
            stopped=sum(t.stopped for t in group.trajectories),
            trajectories=len(group.trajectories),
            images=len(group.images),
            text_tokens=group.tokens(),
            means=means,
            images_by_turn=[len(column) for column in drawn],
            first=first,
            last=last,
            scorers=self.hub.log(),
            critic=self.number,
            watched=drawn_statistics(group)
            | scored_statistics(group, self.hub.held_out, last, of_segments),
        )
