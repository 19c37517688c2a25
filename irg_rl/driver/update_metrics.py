"""What an RL update logs of its groups. A group has several samples of one prompt."""

import math
from collections.abc import Mapping

from irg_rl.driver.critic import ScoredSummary


def summary(groups: list[ScoredSummary], update: int) -> dict[str, float]:
    """Return a dict of metrics of one update: metric name -> value. `groups` has a summary of each group that this
    update was trained on. `update` is the version of the weights that it has changed. Examples of metrics are the mean
    rewards per turn, the mean number of text tokens, and the age of the groups: how many updates were made between
    their sampling and this update."""
    trajectories = sum(v.trajectories for v in groups)
    ages = [update - v.version for v in groups]
    out = {
        "stopped": sum(v.stopped for v in groups) / trajectories,
        "images": sum(v.images for v in groups) / trajectories,
        "text_tokens": sum(v.text_tokens for v in groups) / trajectories,
        "dropped_samples": sum(len(v.failures) for v in groups),
        "reward/first": _mean([v.first for v in groups]),
        "reward/last": _mean([v.last for v in groups]),
        "age/mean": sum(ages) / len(ages),
        "age/max": float(max(ages)),
    }
    for name in dict.fromkeys(name for v in groups for name in v.means):  # groups may have different scorers
        scored = [v for v in groups if name in v.means]
        for turn in range(max(len(v.images_by_turn) for v in scored)):
            pairs = [(v.means[name][turn], v.images_by_turn[turn]) for v in scored if turn < len(v.images_by_turn)]
            pairs = [(mean, count) for mean, count in pairs if not math.isnan(mean)]
            if pairs:
                out[f"reward/{name}/turn{turn}"] = sum(m * c for m, c in pairs) / sum(c for _, c in pairs)
    return out


def hear_critics(known: dict[int, Mapping[str, float]], left: list[ScoredSummary]) -> None:
    """Bring `known` up to date. It has the newest metrics of the scorers of each critic, by the number of the critic.
    `left` has the summaries of all groups that were scored since the last update. The metrics are counts since the
    critic began. So those with the most images are the newest ones. Those of a critic that was started again count once
    it has scored more images than the one before it."""
    for group in left:
        if _images(group.scorers) >= _images(known.get(group.critic, {})):
            known[group.critic] = group.scorers


def _images(scorers: Mapping[str, float]) -> float:
    """Return how many images all scorers of a critic have scored."""
    return sum(count for name, count in scorers.items() if name.endswith("/images"))


def pooled(critics: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Return what all critics together say of their scorers. `critics` has the newest metrics of each critic since it
    began, from RewardHub.log. Seconds per image are weighted by the images, the slowest call is the largest one, and
    all other metrics are sums."""
    out: dict[str, float] = {}
    for name in dict.fromkeys(name for told in critics.values() for name in told):
        values = [(told[name], told.get(f"{name.rpartition('/')[0]}/images", 0.0)) for told in critics.values()
                  if name in told]  # fmt: skip
        if name.endswith("/seconds_per_image"):
            out[name] = sum(value * images for value, images in values) / max(sum(images for _, images in values), 1)
        elif name.endswith("/slowest_call_seconds"):
            out[name] = max(value for value, _ in values)
        else:
            out[name] = sum(value for value, _ in values)
    return out


def drawn(left: list[ScoredSummary]) -> dict[str, float]:
    """Return metrics of all groups that were sampled and scored since the last update. `left` has the summaries of
    these groups, also of groups that the algorithm cannot train on. There are four kinds of metrics: the mean rewards,
    the number of groups, the share of groups in which the rewards differ, and means of what the alarms watch
    (driver/drawn.py). Such a mean is over the groups that have the value."""
    watched = {name: [one.watched[name] for one in left if name in one.watched] for one in left for name in one.watched}
    return {name: _mean(values) for name, values in watched.items()} | {
        "drawn/first": _mean([group.first for group in left]),
        "drawn/last": _mean([group.last for group in left]),
        "drawn/groups": float(len(left)),
        "drawn/spread": _mean([float(group.has_spread) for group in left]),
    }


def _mean(values: list[float]) -> float:
    """Return the mean of the values that are not nan, or nan if there are none. A value of nan belongs to a group
    without a reward."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")
