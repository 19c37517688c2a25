"""The critic: an actor that scores a sampled group and assigns credit to its segments."""

from dataclasses import dataclass, replace

from irg_rl import credit
from irg_rl.algorithms.dpo import Preferences
from irg_rl.cluster.ray_runtime import take_thread_share
from irg_rl.config import Recipe
from irg_rl.driver.scorers import reward_weights
from irg_rl.pairs import Pairs, mark
from irg_rl.trajectory import Group
from rewards.hub import RewardHub


@dataclass(frozen=True)
class CreditSettings:
    """How scores become advantages; see irg_rl.credit."""

    scheme: str
    weights: dict[str, float]
    how: str
    options: credit.Options
    preferences: Preferences | None = None  # dpo: pairs decide what is trained, in place of credit

    @classmethod
    def of(cls, recipe: Recipe) -> "CreditSettings":
        rl = recipe.rl
        options = credit.Options(
            gamma=rl.gamma,
            lam=rl.gae_lambda,
            price=rl.edit_price,
            std_floor=rl.std_floor,
            clip=rl.advantage_clip,
            malformed_penalty=rl.malformed_penalty,
        )
        return cls(rl.credit, reward_weights(recipe), recipe.rewards.combine, options, preferences_of(recipe))


def preferences_of(recipe: Recipe) -> Preferences | None:
    """Of a recipe with rl.algorithm dpo."""
    dpo = recipe.rl.dpo
    return None if dpo is None else Preferences(dpo, reward_weights(recipe), recipe.rl.malformed_penalty)


@dataclass(frozen=True)
class Verdict:
    """What the driver wants to know of a scored group without holding it."""

    group: int
    version: int
    dead: bool  # its rewards say nothing
    empty: bool  # no segment has an advantage
    ties: int  # dpo: pairs of its forks that are none
    failures: dict[int, str]  # sample that a rewarding scorer failed on -> why
    trajectories: int
    stopped: int
    images: int  # what siblings share counts once, here and in the next three
    text_tokens: int
    means: dict[str, list[float]]  # scorer -> mean per turn over the images of that turn
    counts: list[int]  # images of each turn
    first: float  # combined reward of the first images, mean over the trained trajectories; a trunk counts once
    last: float  # and of the last ones
    scorers: dict[str, float]  # failures and latency of every scorer since the critic began


class Critic:
    """`ray.remote(Critic)` is the actor. A whole group is one unit of work (idea 4)."""

    def __init__(self, specs: list[dict], settings: CreditSettings, threads: int, max_failure_share: float) -> None:
        take_thread_share(threads)
        self.hub = RewardHub(specs, max_failure_share=max_failure_share)
        self.settings = settings

    def score_group(self, group: Group) -> tuple[Verdict, Group]:
        """Scores every image (one that siblings share, once), sets `rewards` and `advantage`s, returns the summary and
        the scored group."""
        images = group.images
        scores = self.hub.score([image.pixels.numpy() for image in images], [group.prompt] * len(images))
        places = {id(image): place for place, image in enumerate(images)}
        for trajectory in group.trajectories:
            own = [places[id(image)] for image in trajectory.images]
            trajectory.rewards = {name: [values[place] for place in own] for name, values in scores.items()}
        chosen = self.settings
        summary = credit.assign(group, chosen.scheme, chosen.weights, how=chosen.how, options=chosen.options)
        pairs = Pairs([])
        if chosen.preferences is not None:
            pairs = chosen.preferences.pairs([group])
            mark(group, pairs.found)
            summary = replace(summary, dead=not pairs.found, empty=not pairs.found)
        values = credit.combine(group, chosen.weights, "sum")
        valid = [(t, q) for t, q in zip(group.trajectories, values) if None not in q]
        trunks = [credit.by_trunk([t for t, _ in valid], [q[k] for _, q in valid]) for k in (0, -1)]
        first, last = (sum(own) / len(own) if own else float("nan") for own in trunks)
        return self._verdict(group, summary, pairs.ties, first, last), group

    def _verdict(self, group: Group, summary: credit.Summary, ties: int, first: float, last: float) -> Verdict:
        turns = max(t.turns for t in group.trajectories)
        drawn = [list({id(t.images[k]): t for t in group.trajectories if k < t.turns}.values()) for k in range(turns)]
        means = {}
        for name in group.trajectories[0].rewards:
            scored = [[t.rewards[name][k] for t in column] for k, column in enumerate(drawn)]
            columns = [[score for score in column if score is not None] for column in scored]
            means[name] = [sum(column) / len(column) if column else float("nan") for column in columns]
        failures = {}
        for trajectory in group.trajectories:
            failed = [name for name in self.settings.weights if None in trajectory.rewards[name]]
            if failed:
                failures[trajectory.sample] = "; ".join(f"{n}: {self.hub.scorers[n].last_error}" for n in failed)
        return Verdict(
            group=group.id,
            version=group.version,
            dead=summary.dead,
            empty=summary.empty,
            ties=ties,
            failures=failures,
            stopped=sum(t.stopped for t in group.trajectories),
            trajectories=len(group.trajectories),
            images=len(group.images),
            text_tokens=group.tokens(),
            means=means,
            counts=[len(column) for column in drawn],
            first=first,
            last=last,
            scorers=self.hub.log(),
        )
