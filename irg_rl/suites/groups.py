"""Groups of prompts, and means over groups. Most suites (benchmarks) compute their reported numbers with these
functions."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from irg_rl.suites.scores import Figure, Leaf
from irg_rl.trajectory import Prompt

Groups = dict[str, frozenset[str]]


def by_metadata(prompts: Iterable[Prompt], group: Callable[[Prompt], str], order: Sequence[str] = ()) -> Groups:
    """Group prompts by the name that the function `group` returns for each prompt. Return a dict: name of the group ->
    ids of its prompts. Groups named in `order` come first. The other groups follow in order of first appearance. Groups
    without prompts are left out."""
    members: dict[str, set[str]] = {name: set() for name in order}
    for prompt in prompts:
        members.setdefault(group(prompt), set()).add(prompt.id)
    return {name: frozenset(ids) for name, ids in members.items() if ids}


def mean_of_groups(groups: Groups, headline: str, metric: str = "score") -> list[Figure]:
    """Return several figures (reported numbers): the score of each group for `metric`, followed by one figure with the
    name `headline`. This last figure is the unweighted mean of the group scores."""
    leaves = {name: Leaf(metric, ids) for name, ids in groups.items()}
    return [
        *(Figure(name, (leaf,)) for name, leaf in leaves.items()),
        Figure(headline, tuple(leaves.values()), is_headline=True),
    ]


def weighted_mean(groups: Groups, weights: Mapping[str, float], headline: str, metric: str = "score") -> Figure:
    """Return a figure (reported number) with the name `headline`: the weighted mean of the group scores for `metric`.
    `weights` maps the name of each group to its weight. A group that is in `weights` but not in `groups` does not
    count. So the weighted sum is divided by the total weight of the groups in `groups`."""
    leaves = tuple(Leaf(metric, ids, weights[name]) for name, ids in groups.items())
    return Figure(headline, leaves, is_headline=True)


def everyone(prompts: Iterable[Prompt]) -> frozenset[str]:
    return frozenset(prompt.id for prompt in prompts)
