"""Pairs of siblings: where they part, who is held against whom, and what ties are."""

import pytest

from irg_rl.credit import assign, scheme_named
from irg_rl.pairs import find_pairs, mark
from irg_rl.trajectory import Group
from tests.test_credit import CENTRED, PROMPT, sample, tree_of_uneven_ways


def group(*trajectories) -> Group:
    return Group(7, PROMPT, list(trajectories))


def plain(count: int) -> Group:
    return group(*(sample(number, [0.0, 0.0], stopped=False) for number in range(count)))


def tree() -> Group:
    """Two first turns, of which the first goes on in three ways and the second in two."""
    made = [sample(number, [0.0, 0.0], stopped=False) for number in range(5)]
    for number, trunk in ((1, 0), (2, 0), (4, 3)):
        made[number].segments[:2] = made[trunk].segments[:2]
    return group(*made)


def who(pairs) -> list[tuple[int, int, int]]:
    return [(pair.fork, pair.chosen.sample, pair.rejected.sample) for pair in pairs.found]


def test_siblings_that_share_the_prompt_alone_part_at_the_beginning_best_against_worst():
    pairs = find_pairs(plain(4), [0.2, 0.9, 0.1, 0.5], tie=0.05)
    assert who(pairs) == [(0, 1, 2)] and pairs.ties == 0
    assert pairs.found[0].gap == pytest.approx(0.8) and pairs.found[0].group == 7


def test_further_pairs_come_from_the_inside():
    assert who(find_pairs(plain(5), [0.2, 0.9, 0.1, 0.5, 0.6], 0.05, per_fork=3)) == [(0, 1, 2), (0, 4, 0)]


def test_near_ties_are_left_out_and_counted():
    for values, ties in (([0.5, 0.5], 1), ([0.5, 0.75], 1), ([0.5, 0.76], 0)):
        pairs = find_pairs(plain(2), values, tie=0.25)
        assert (len(pairs.found), pairs.ties) == (1 - ties, ties)
    assert find_pairs(plain(4), [0.0, 1.0, 0.5, 0.52], 0.05, per_fork=2).ties == 1


def test_a_trajectory_without_a_value_takes_no_part():
    assert who(find_pairs(plain(3), [None, 0.1, 0.9], 0.0)) == [(0, 2, 1)]
    assert find_pairs(plain(2), [None, 0.1], 0.0).found == []


def test_every_fork_of_a_tree_has_its_pair_and_sides_come_from_different_branches():
    values = [1.0, 0.0, 0.8, 0.4, 0.6]
    for per_fork in (1, 3):  # two ways make one pair
        found = who(find_pairs(tree(), values, 0.05, per_fork))
        assert found == [(0, 0, 3), (2, 0, 1), (2, 4, 3)]


def test_a_luckier_leaf_makes_no_better_way():
    """Means .4 and .55: the better trunk is shown by its best leaf, the worse one by its worst."""
    pairs = find_pairs(tree(), [1.0, 0.0, 0.2, 0.6, 0.5], 0.05)
    assert who(pairs)[0] == (0, 3, 1) and pairs.found[0].gap == pytest.approx(0.15)


def test_ways_of_equal_means_are_a_tie_however_far_their_leaves_are_apart():
    pairs = find_pairs(tree(), [1.0, 0.0, 0.5, 0.4, 0.6], 0.05)
    assert who(pairs) == [(2, 0, 1), (2, 4, 3)] and pairs.ties == 1


def test_what_is_preferred_has_the_larger_advantage_also_where_ways_fork_unequally():
    """The first trunk is worth .5, the mean over its ways, where the mean over its leaves would be .37."""
    made, finals = tree_of_uneven_ways(), [0.9, 0.1, 0.1, 0.45]
    for trajectory, final in zip(made.trajectories, finals):
        trajectory.rewards["score"][-1] = final
    pairs = find_pairs(made, finals, tie=0.0)
    assert who(pairs) == [(0, 0, 3), (2, 0, 1)] and pairs.ties == 1
    assign(made, "trajectory", {"score": 1.0}, options=scheme_named("trajectory").options(**CENTRED))
    for pair in pairs.found:
        chosen, rejected = (side.segments[pair.fork].advantage for side in (pair.chosen, pair.rejected))
        assert chosen > rejected


def test_what_siblings_share_is_not_told_apart_by_equality():
    made = tree()
    made.trajectories[4].segments[:2] = sample(9, [0.0], stopped=False).segments  # equal to no trunk
    assert (2, 4, 3) not in who(find_pairs(made, [1.0, 0.0, 0.8, 0.4, 0.6], 0.05))


def test_marks_name_the_segments_after_the_fork_and_the_rest_is_not_trained():
    made = tree()
    mark(made, find_pairs(made, [1.0, 0.0, 0.8, 0.4, 0.6], 0.05).found)
    advantages = [[segment.advantage for segment in t.segments] for t in made.trajectories]
    assert advantages[0] == [1, 1, 2, 2]  # better than the other trunk's worst, and best of its own
    assert advantages[1] == [1, 1, -1, -1]
    assert advantages[2] == [1, 1, None, None]
    assert advantages[3] == [-1, -1, -2, -2]
    assert advantages[4] == [-1, -1, 1, 1]


def test_what_two_sides_share_is_marked_by_no_pair():
    """Fails where segments before the fork are marked too: they would be on both sides, and count 0."""
    made = tree()
    mark(made, [pair for pair in find_pairs(made, [1.0, 0.0, 0.8, 0.4, 0.6], 0.05).found if pair.fork == 2][:1])
    advantages = [[segment.advantage for segment in t.segments] for t in made.trajectories[:3]]
    assert advantages == [[None, None, 1, 1], [None, None, -1, -1], [None] * 4]
