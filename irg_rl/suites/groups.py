"""Groups of prompts, and means over them: what most suites aggregate by."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from irg_rl.suites.scores import Figure, Leaf
from irg_rl.trajectory import Prompt

Groups = dict[str, frozenset[str]]


def by_metadata(prompts: Iterable[Prompt], group: Callable[[Prompt], str], order: Sequence[str] = ()) -> Groups:
    """Name -> prompt ids; groups in `order` first, then others as they come. Groups without prompts are left out."""
    members: dict[str, set[str]] = {name: set() for name in order}
    for prompt in prompts:
        members.setdefault(group(prompt), set()).add(prompt.id)
    return {name: frozenset(ids) for name, ids in members.items() if ids}


def mean_of_groups(groups: Groups, headline: str, metric: str = "score") -> list[Figure]:
    """Every group, then their plain mean."""
    leaves = {name: Leaf(metric, ids) for name, ids in groups.items()}
    return [
        *(Figure(name, (leaf,)) for name, leaf in leaves.items()),
        Figure(headline, tuple(leaves.values()), is_headline=True),
    ]


def weighted_mean(groups: Groups, weights: Mapping[str, float], headline: str, metric: str = "score") -> Figure:
    """The groups by these weights; a group without prompts takes its weight along."""
    leaves = tuple(Leaf(metric, ids, weights[name]) for name, ids in groups.items())
    return Figure(headline, leaves, is_headline=True)


def everyone(prompts: Iterable[Prompt]) -> frozenset[str]:
    return frozenset(prompt.id for prompt in prompts)
