"""Credit schemes on a group small enough to check by hand (docs/methods.md), against the reference advantages, and the
properties every scheme must have.

Reference cases left out: `ddpo` (rolling buffer per prompt: groups are whole here); `*_global1`, `*/global1` and trl's
`sum_then_normalize_batch` (std over all prompts around a group mean: not offered, credit never looks past its group);
`flow_grpo/{rwr,sft}` (labels for other losses) and `flow_grpo/dpo` (its pairs are tests/losses/test_preference.py's);
`nft_tracker/*/top*` (a logged quantity); trl's `*_nan` (a missing reward counts as 0 there; here the sample leaves the
group); `r3_multi_round/{default,global,std}` (operations that R3's trainer does not use).
"""

import hypothesis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irg_rl.credit import (
    SCHEMES,
    CreditScheme,
    Right,
    assign,
    broadcast,
    by_trunk,
    combine,
    normalise,
    scheme_named,
)
from irg_rl.errors import InputError
from irg_rl.trajectory import Group, ImageSegment, Modality, Prompt, TextSegment, Trajectory
from tests.golden import agree, golden

PROMPT = Prompt("p", "a red circle")
CENTRED = {"mean_only": True, "advantage_clip": None}
USUAL = {}
TEXT, IMAGE = Modality.TEXT, Modality.IMAGE


def text_segment(turn, finished=True, stop=False):
    return TextSegment(turn, torch.zeros(1, dtype=torch.long), torch.zeros(1), "", finished, stop)


def image_segment(turn):
    empty = torch.zeros(0)
    pixels = torch.zeros(1, 1, 3, dtype=torch.uint8)
    return ImageSegment(turn, pixels, empty, empty, empty, empty, empty, empty, empty)


def sample(i, q, stopped=True, cut_off=(), name="score"):
    """A trajectory with image values q; a stop text closes it when `stopped`; texts of turns `cut_off` never ended."""
    segments = []
    for turn in range(len(q)):
        segments += [text_segment(turn, finished=turn not in cut_off), image_segment(turn)]
    if stopped:
        segments.append(text_segment(len(q), stop=True))
    return Trajectory(PROMPT, i, segments, stopped=stopped, rewards={name: list(q)})


def group_of(*trajectories):
    return Group(0, PROMPT, list(trajectories))


def example():
    """Two edits; a stop at once; an edit that harms, then a stop; an edit that finishes, then a stop."""
    return group_of(
        sample(0, [0.25, 0.75, 1.0], stopped=False),
        sample(1, [0.5]),
        sample(2, [0.5, 0.25]),
        sample(3, [0.75, 1.0]),
    )


def leave_one_out(values):
    """What verifier_gae makes of images that stand alone, with coefficient 0: RLOO."""
    group = group_of(*(sample(i, [value]) for i, value in enumerate(values)))
    return credited(group, "verifier_gae", CENTRED | {"coefficient": 0.0})[0][0, IMAGE]


def credited(group, scheme, options=CENTRED, **settings_):
    """Advantages by place: {(turn, modality): [value per sample, None where it lacks the place]}."""
    kind = scheme_named(scheme).options
    options = kind(**{name: value for name, value in options.items() if name in kind.model_fields})
    summary = assign(group, scheme, {"score": 1.0}, options=options, **settings_)
    places = {(s.turn, s.modality) for t in group.trajectories for s in t.segments}
    table = {
        place: [
            next((s.advantage for s in t.segments if (s.turn, s.modality) == place), None) for t in group.trajectories
        ]
        for place in places
    }
    return table, summary


def close(values, expected, tolerance=1e-9):
    assert [v is None for v in values] == [e is None for e in expected], (values, expected)
    values, expected = ([v for v in row if v is not None] for row in (values, expected))
    agree(torch.tensor(values, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64), tolerance, tolerance)


def test_worked_example_trajectory():
    table, summary = credited(example(), "trajectory")
    for place in [(0, TEXT), (0, IMAGE), (1, TEXT)]:
        close(table[place], [0.3125, -0.1875, -0.4375, 0.3125])
    close(table[1, IMAGE], [0.3125, None, -0.4375, 0.3125])
    close(table[2, TEXT], [0.3125, None, -0.4375, 0.3125])
    close(table[2, IMAGE], [0.3125, None, None, None])
    assert (summary.trained, summary.dropped, summary.has_spread, summary.reward_mean) == (4, 0, True, 0.6875)


def test_worked_example_turn():
    table, _ = credited(example(), "turn")
    close(table[0, TEXT], [0.3125, -0.1875, -0.4375, 0.3125])
    close(table[0, IMAGE], [0.3125, -0.1875, -0.4375, 0.3125])
    close(table[1, TEXT], [0.5625, -0.1875, -0.4375, 0.0625])
    close(table[1, IMAGE], [0.5, None, -0.5, 0.0])
    close(table[2, TEXT], [1 / 6, None, -1 / 12, -1 / 12])
    close(table[2, IMAGE], [0.0, None, None, None])


def test_worked_example_turn_with_discount():
    table, _ = credited(example(), "turn", CENTRED | {"gamma": 0.5})
    close(table[0, TEXT], [-0.015625, -0.078125, -0.203125, 0.296875])


def test_worked_example_verifier_gae_with_the_plain_baseline():
    options = CENTRED | {"lam": 0.5, "price": 0.05, "coefficient": 1.0}
    table, _ = credited(example(), "verifier_gae", options)
    close(table[1, TEXT], [0.55 + 0.1 / 3, -0.15, -0.55, 0.2 - 0.25 / 3])
    close(table[1, IMAGE], [0.6, None, -0.675, 0.075])
    close(table[2, TEXT], [0.2, None, -0.1, -0.1])
    close(table[2, IMAGE], [0.0, None, None, None])


def test_worked_example_verifier_gae_with_a_fitted_baseline():
    rows = [[0.2, 0.5], [0.4, 0.5], [0.6, 0.9], [0.8, 0.9]]
    table, summary = credited(group_of(*(sample(i, q, stopped=False) for i, q in enumerate(rows))), "verifier_gae")
    # without sample 0: q = (.4, .6, .8), y = (.5, .9, .9), slope (.2 * .2667 + .2 * .1333) / .08 = 1
    assert table[1, TEXT][0] == pytest.approx(0.5 - (2.3 / 3 - 0.4))
    # without sample 3: q = (.2, .4, .6), y = (.5, .5, .9), slope 1
    assert table[1, TEXT][3] == pytest.approx(0.9 - (1.9 / 3 + 0.4))
    # without sample 1: q = (.2, .6, .8), y = (.5, .9, .9): sum of products .13333, of squares .18667, slope 5/7
    assert table[1, TEXT][1] == pytest.approx(0.5 - (2.3 / 3 + 5 / 7 * (0.4 - 1.6 / 3)))


def test_worked_example_improvement():
    table, _ = credited(example(), "improvement")
    close(table[0, TEXT], [-0.25, 0.0, 0.0, 0.25])
    close(table[1, TEXT], [0.375, -0.125, -0.375, 0.125])
    close(table[1, IMAGE], [1 / 3, None, -5 / 12, 1 / 12])
    close(table[2, TEXT], [0.25 - 1.25 / 3, None, -1.25 / 3, 1 - 1.25 / 3])
    close(table[2, IMAGE], [0.0, None, None, None])


def test_worked_example_umm():
    table, _ = credited(example(), "umm", USUAL)
    std = 0.4965625**0.5
    expected = [1.0, -0.5 / std, -1.0, 0.575 / std]
    close(table[0, TEXT], [None] * 4)
    close(table[0, IMAGE], [None] * 4)
    close(table[1, TEXT], expected)
    close(table[1, IMAGE], [expected[0], None, expected[2], expected[3]])


def test_worked_example_no_improve_clamp():
    table, _ = credited(example(), "no_improve_clamp")
    close(table[0, TEXT], [None] * 4)
    close(table[1, TEXT], [0.5, -0.25, -0.25, 0.0])
    close(table[1, IMAGE], [0.5, None, -0.25, 0.0])


def test_when_no_sibling_improved_the_clamp_trains_nothing():
    table, summary = credited(group_of(sample(0, [0.5, 0.25]), sample(1, [0.5, 0.5])), "no_improve_clamp")
    assert not summary.has_spread and summary.empty and all(v is None for values in table.values() for v in values)


def test_a_spread_below_the_floor_is_not_blown_up_and_large_advantages_are_clipped():
    group = group_of(sample(0, [0.500]), sample(1, [0.501]))
    table, _ = credited(group, "trajectory", {"std_floor": 0.05})
    close(table[0, IMAGE], [-0.01, 0.01])
    group = group_of(*(sample(i, [float(i == 0)]) for i in range(16)))
    table, _ = credited(group, "trajectory", {"advantage_clip": 2.0})
    assert table[0, IMAGE][0] == 2.0


def test_the_malformed_penalty_acts_after_normalisation_and_clipping_on_the_text_alone():
    group = group_of(sample(0, [1.0], cut_off={0}), sample(1, [0.0]))
    table, _ = credited(group, "trajectory", {"advantage_clip": 1.0, "malformed_penalty": 3.0})
    close(table[0, TEXT], [1.0 - 3.0, -1.0])
    close(table[0, IMAGE], [1.0, -1.0])


def test_umm_makes_a_malformed_winner_negative_in_all_its_segments():
    group = group_of(sample(0, [0.5, 1.0], cut_off={1}), sample(1, [0.5, 0.5], stopped=False))
    table, _ = credited(group, "umm", USUAL)
    close(table[1, TEXT], [-0.5, -1.0])
    close(table[1, IMAGE], [-0.5, -1.0])


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_a_sample_without_a_valid_reward_leaves_statistics_and_training(scheme):
    failed = sample(9, [0.5, 0.9])
    failed.rewards["score"][1] = None
    whole, without = example(), example()
    whole.trajectories.insert(2, failed)
    table, summary = credited(whole, scheme)
    expected, _ = credited(without, scheme)
    assert summary.dropped == 1
    for place, values in expected.items():
        dropped = table[place].pop(2)
        assert dropped is None
        close(table[place], values)


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_a_group_with_one_valid_sample_trains_nothing(scheme):
    table, summary = credited(group_of(sample(0, [0.5, 1.0]), sample(1, [None])), scheme)
    assert not summary.has_spread and summary.empty and summary.dropped == 1
    assert all(v is None for values in table.values() for v in values)


def test_equal_rewards_make_a_group_without_spread():
    for scheme in ("trajectory", "turn", "verifier_gae", "improvement"):
        group = group_of(*(sample(i, [0.1, 0.3]) for i in range(3)))
        assert not credited(group, scheme, {"std_floor": 0.0})[1].has_spread, scheme


def test_several_rewards_weighted_sum_and_zscores():
    group = group_of(sample(0, [0.0, 1.0]), sample(1, [1.0]))
    for t, clip in zip(group.trajectories, ([10.0, 10.0], [40.0])):
        t.rewards["clip"] = clip
    assert combine(group, {"score": 1.0, "clip": 0.1}) == [[1.0, 2.0], [5.0]]
    scores = combine(group, {"score": 1.0, "clip": 0.5}, "zscore_sum")
    # scores 0 1 1: mean 2/3, std sqrt(2)/3; clip 10 10 40: mean 20, std sqrt(200)
    close(scores[0] + scores[1], [-(2**0.5) - 0.5 * 0.5**0.5, 0.5**0.5 - 0.5 * 0.5**0.5, 0.5**0.5 + 0.5 * 2**0.5])


def test_mistakes_are_named():
    group = example()
    with pytest.raises(ValueError, match=r"no reward 'clip'; it has \['score'\]"):
        assign(group, "trajectory", {"clip": 1.0})
    with pytest.raises(ValueError, match="'sum' or 'zscore_sum'"):
        combine(group, {"score": 1.0}, "product")
    with pytest.raises(ValueError, match="how='sum'"):
        assign(group, "umm", {"score": 1.0}, how="zscore_sum")
    with pytest.raises(ValueError, match="name at least one"):
        combine(group, {})
    group.trajectories[0].rewards["score"].pop()
    with pytest.raises(ValueError, match="3 images but 2 values"):
        assign(group, "trajectory", {"score": 1.0})


def forked(*qs, shared):
    """Trajectories with image values `qs`, of which `shared[i]` = (j, n): sample i begins with n segments of j."""
    branches = [sample(i, q) for i, q in enumerate(qs)]
    for i, (j, count) in shared.items():
        branches[i].segments[:count] = branches[j].segments[:count]
    return group_of(*branches)


def pairs():
    """Two first images with two edits each."""
    return forked([0.2, 0.4], [0.2, 1.0], [0.6, 0.8], [0.6, 0.2], shared={1: (0, 2), 3: (2, 2)})


@pytest.mark.parametrize("scheme", ["trajectory", "turn"])
def test_siblings_of_a_fork_are_each_others_baseline_and_what_they_share_has_one_advantage(scheme):
    table, _ = credited(pairs(), scheme)
    for place in [(0, TEXT), (0, IMAGE)]:
        close(table[place], [0.1, 0.1, -0.1, -0.1])  # .7 and .5, the means over the edits
    for place in [(1, TEXT), (1, IMAGE)]:
        close(table[place], [-0.3, 0.3, 0.3, -0.3])


def scored_pairs():
    """`pairs`, with the truth of each reflection and how well each edit was done."""
    group = pairs()
    for trajectory, truth, edit in zip(group.trajectories, (1.0, 0.0, 0.5, 0.5), (0.0, 1.0, 0.8, 0.2)):
        trajectory.text(2).scores = {"truth": truth}
        trajectory.image(3).scores = {"edit": edit}
    return group


SEGMENTS = {"segment_weights": {"truth": 1.0, "edit": 1.0}}


def test_worked_example_factorised():
    """Text 1: final reward .4, 1 | .8, .2 and truth 1, 0 | .5, .5. Image 1: its own reward, the same numbers, and the
    edit 0, 1 | .8, .2. All centred between the two ways of each first image."""
    table, _ = credited(scored_pairs(), "factorised", CENTRED, **SEGMENTS)
    close(table[1, TEXT], [-0.3 + 0.5, 0.3 - 0.5, 0.3, -0.3])
    close(table[1, IMAGE], [-0.3 - 0.5, 0.3 + 0.5, 0.3 + 0.3, -0.3 - 0.3])
    close(table[2, TEXT], [-0.3, 0.3, 0.3, -0.3])  # the stops after both ways, by what each ended with
    close(table[0, TEXT], [0.1, 0.1, -0.1, -0.1])


def test_factorised_weighs_outcome_truth_and_edit():
    options = CENTRED | {"outcome": 0.0, "truth": 2.0, "edit": 0.5}
    table, _ = credited(scored_pairs(), "factorised", options, **SEGMENTS)
    close(table[1, TEXT], [1.0, -1.0, 0.0, 0.0])
    close(table[1, IMAGE], [-0.25, 0.25, 0.15, -0.15])


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_the_truth_term_of_a_text_does_not_depend_on_the_luck_of_the_drawing(finals):
    group = scored_pairs()
    for trajectory, final in zip(group.trajectories, finals):
        trajectory.rewards["score"][-1] = final
    table, _ = credited(group, "factorised", CENTRED | {"outcome": 0.0}, **SEGMENTS)
    close(table[1, TEXT], [0.5, -0.5, 0.0, 0.0])


def test_a_sample_whose_reflection_could_not_be_scored_is_not_trained():
    group = scored_pairs()
    group.trajectories[0].text(2).scores["truth"] = None
    table, summary = credited(group, "factorised", CENTRED, **SEGMENTS)
    assert summary.dropped == 1 and table[1, TEXT][:2] == [None, None]  # the other way has no sibling left


def test_a_lone_trunk_is_not_trained_by_factorised():
    group = forked([0.2, 0.4], [0.2, 1.0], shared={1: (0, 2)})
    table, _ = credited(group, "factorised")
    assert table[0, TEXT] == table[0, IMAGE] == [None, None]
    close(table[1, TEXT], [-0.3, 0.3])


def test_the_baseline_of_verifier_gae_after_a_fork_is_the_mean_of_the_other_ways():
    table, _ = credited(pairs(), "verifier_gae")
    close(table[0, IMAGE], [0.2, 0.2, -0.2, -0.2])
    close(table[1, TEXT], [-0.6, 0.6, 0.6, -0.6])


def test_improvement_compares_what_the_edits_of_one_image_gained():
    table, _ = credited(pairs(), "improvement")
    close(table[0, IMAGE], [-0.2, -0.2, 0.2, 0.2])
    close(table[1, IMAGE], [-0.3, 0.3, 0.3, -0.3])


def tree_of_uneven_ways():
    """A first image with two edits; the first edit ends with a stop, and the second is edited again, twice. Beside it a
    trunk that was never forked."""
    return forked([0.4, 0.5], [0.4, 0.6, 0.6], [0.4, 0.6, 1.0], [0.2, 0.25], shared={1: (0, 2), 2: (1, 4)})


def test_a_way_counts_once_however_often_it_forks_later():
    table, _ = credited(tree_of_uneven_ways(), "turn")
    trunks = [(0.5 + (0.6 + 1.0) / 2) / 2, 0.25]  # .65, where the mean over three leaves would be .7
    close(table[0, TEXT], [0.2, 0.2, 0.2, -0.2])
    assert trunks == [pytest.approx(0.65), 0.25]
    close(table[1, IMAGE], [-0.15, 0.15, 0.15, 0.0])  # gains .1 and (.2 + .6) / 2; the other trunk is alone
    close(table[2, IMAGE], [None, -0.2, 0.2, None])
    close(table[2, TEXT], [0.0, -0.2, 0.2, 0.0])  # two stops, each without a sibling that came from the same fork
    assert by_trunk(tree_of_uneven_ways().trajectories, [0.5, 0.6, 1.0, 0.25]) == pytest.approx(trunks)


def test_under_trajectory_a_segment_is_credited_with_the_way_it_lies_on():
    table, _ = credited(tree_of_uneven_ways(), "trajectory")
    close(table[0, IMAGE], [0.2, 0.2, 0.2, -0.2])
    close(table[1, TEXT], [-0.15, 0.15, 0.15, -0.2])
    close(table[2, TEXT], [-0.15, -0.2, 0.2, -0.2])


def test_a_way_whose_siblings_failed_has_no_baseline_and_its_trunk_goes_on_without_them():
    group = pairs()
    group.trajectories[0].rewards["score"][1] = None
    table, summary = credited(group, "turn")
    assert summary.dropped == 1
    close(table[0, IMAGE], [0.25, 0.25, -0.25, -0.25])  # 1 and .5
    close(table[1, TEXT], [None, 0.0, 0.3, -0.3])


def test_what_is_shared_enters_a_zscore_once():
    group = forked([0.0, 1.0], [0.0, 1.0], shared={1: (0, 2)})
    scores = combine(group, {"score": 1.0}, "zscore_sum")  # 0 1 1: mean 2/3, std sqrt(2) / 3
    close(scores[0], [-(2**0.5), 0.5**0.5])
    assert scores[0] == scores[1]


@pytest.mark.parametrize("scheme", ["umm", "no_improve_clamp"])
def test_schemes_about_whole_trajectories_refuse_forks(scheme):
    with pytest.raises(ValueError, match=f"credit {scheme} judges whole trajectories"):
        credited(pairs(), scheme)


quality = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
histories = st.lists(st.lists(quality, min_size=1, max_size=4), min_size=2, max_size=6)


@given(histories, st.sampled_from(list(SCHEMES)), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_siblings_does_not_matter(qs, scheme, random):
    order = list(range(len(qs)))
    random.shuffle(order)
    options = {"lam": 0.7, "gamma": 0.9, "price": 0.05}
    table, _ = credited(group_of(*(sample(i, q) for i, q in enumerate(qs))), scheme, options)
    shuffled, _ = credited(group_of(*(sample(i, qs[i]) for i in order)), scheme, options)
    for place, values in table.items():
        close(shuffled[place], [values[i] for i in order])


@given(histories)
@settings(max_examples=60, deadline=None)
def test_at_lambda_one_the_deltas_telescope_to_the_final_reward(qs):
    """verifier_gae with c = 1 is the return-to-go of turn (up to n / (n - 1)); with c = 0 it is leave-one-out GRPO."""
    group = group_of(*(sample(i, q) for i, q in enumerate(qs)))
    turns, _ = credited(group, "turn")
    plain, _ = credited(group, "verifier_gae", CENTRED | {"coefficient": 1.0})
    absolute, _ = credited(group, "verifier_gae", CENTRED | {"coefficient": 0.0})
    for place in turns:
        members = [i for i, v in enumerate(turns[place]) if v is not None]
        n = len(members)
        if n < 2:
            continue
        close([plain[place][i] for i in members], [turns[place][i] * n / (n - 1) for i in members])
        close([absolute[place][i] for i in members], leave_one_out([qs[i][-1] for i in members]))


@given(quality, st.lists(st.lists(quality, min_size=1, max_size=3), min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_when_siblings_share_the_first_image_delta_and_absolute_rewards_agree(first, rests):
    group = group_of(*(sample(i, [first, *rest]) for i, rest in enumerate(rests)))
    delta, _ = credited(group, "turn")
    absolute, _ = credited(group, "trajectory")
    close(delta[1, TEXT], absolute[1, TEXT])
    assert all(abs(v) < 1e-9 for v in credited(group, "improvement")[0][0, IMAGE])


@given(histories, st.sampled_from(["trajectory", "turn", "verifier_gae", "improvement"]))
@settings(max_examples=60, deadline=None)
def test_ways_of_one_state_are_credited_as_a_group_of_their_own(rests, scheme):
    """All siblings fork from one first image beside another trunk; without a fork they would be these numbers too if
    they were the whole group."""
    qs = [[0.5, *rest] for rest in rests]
    options = {"lam": 0.7, "gamma": 0.9, "price": 0.05}
    alone, _ = credited(group_of(*(sample(i, q) for i, q in enumerate(qs))), scheme, options)
    tree = forked(*qs, [0.25], shared={i: (0, 2) for i in range(1, len(qs))})
    together, _ = credited(tree, scheme, options)
    for place, values in alone.items():
        if place[0]:
            close(together[place][: len(qs)], values)


@given(histories, st.floats(0.0, 0.3))
@settings(max_examples=40, deadline=None)
def test_a_price_taxes_edits_and_never_stops(qs, price):
    """Stalling does not pay: an edit that changes nothing is worth exactly the price less than stopping."""
    qs = [[0.5, 0.5], [0.5], *qs]
    group = group_of(*(sample(i, q) for i, q in enumerate(qs)))
    options = CENTRED | {"coefficient": 1.0, "price": price}
    table, _ = credited(group, "verifier_gae", options)
    n = len(qs)
    stall, stop = table[1, TEXT][:2]
    assert stop - stall == pytest.approx(price * n / (n - 1), abs=1e-9)


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=8), st.integers(0, 7), st.floats(-1, 1))
@hypothesis.example([0.0, 0.0, 5e-257, 2e-278], 0, 0.0)  # distinct, and their squares are 0
@settings(max_examples=60, deadline=None)
def test_the_fitted_baseline_of_a_sample_does_not_see_its_own_outcome(finals, which, other):
    """Unbiasedness at lambda = 1: changing my outcome moves my advantage by exactly that much."""
    which %= len(finals)
    starts = [0.1 * i for i in range(len(finals))]

    def advantage(outcomes):
        group = group_of(*(sample(i, [a, b]) for i, (a, b) in enumerate(zip(starts, outcomes))))
        return credited(group, "verifier_gae")[0][1, IMAGE][which]

    changed = [other if i == which else value for i, value in enumerate(finals)]
    assert advantage(changed) - advantage(finals) == pytest.approx(other - finals[which], abs=1e-9)


def groups(g, key="rewards1"):
    return g.input(key).double().view(3, 4)


def test_group_normalisation_equals_the_references():
    g = golden("rl/6_advantages")
    first, second = groups(g), groups(g, "rewards2")
    perm = g.input("perm")

    def flat(rows, **how):
        return torch.tensor([normalise(row.tolist(), **how) for row in rows], dtype=torch.float64).flatten()

    both = first + 0.6 * second
    agree(flat(first, eps=1e-4)[perm], g["flow_grpo/grpo_global0/r1"], 1e-7, 1e-9)
    agree(flat(second, eps=1e-4)[perm], g["flow_grpo/grpo_global0/r2"], 1e-7, 1e-9)
    agree(flat(first, eps=1e-4)[perm], g["nft_tracker/global0/r1"], 1e-7, 1e-9)
    agree(flat(first, ddof=1, eps=1e-8), g["dance/group/f64"], 1e-7, 1e-9)
    agree(flat(first.view(1, 12), ddof=1, eps=1e-8), g["dance/batch/f64"], 1e-7, 1e-9)
    for kind in ("distributed_k_repeat", "group_contiguous"):
        agree(flat(both, floor=1e-6)[perm], g[f"flow_factory/{kind}/sum_global0"], 1e-6, 1e-8)
    agree(flat(both, ddof=1, eps=1e-4), g["trl_grpo/sum_then_normalize_group/f64"], 1e-6, 1e-8)
    agree(flat(both, mean_only=True), g["trl_grpo/sum_then_normalize_none/f64"], 1e-6, 1e-8)
    rloo = torch.tensor([leave_one_out(row.tolist()) for row in both]).double().flatten()
    agree(rloo, g["trl_rloo/normalize0/f64"], 1e-6, 1e-7)
    agree(flat(rloo.view(1, 12), ddof=1, eps=1e-4), g["trl_rloo/normalize1/f64"], 1e-5, 1e-6)
    summed = flat(first, ddof=1, eps=1e-4) + 0.6 * flat(second, ddof=1, eps=1e-4)
    agree(flat(summed.view(1, 12), ddof=1, eps=1e-4), g["trl_grpo/normalize_then_sum_group/f64"], 1e-6, 1e-6)
    rounds = g.input("r3_round_rewards").double()
    agree(flat(rounds[None, :, 0], ddof=1, eps=1e-6), g["r3_policy_group/advantage"])
    agree(flat(rounds[None, :, 0], mean_only=True), g["r3_multi_round/trainer"][:, 0], 1e-5, 1e-6)


def test_per_reward_zscores_equal_gdpo_of_flow_factory():
    g = golden("rl/6_advantages")
    whitened = []
    for row_a, row_b in zip(groups(g), groups(g, "rewards2")):
        group = group_of(*(sample(i, [a], name="a") for i, a in enumerate(row_a.tolist())))
        for t, b in zip(group.trajectories, row_b.tolist()):
            t.rewards["b"] = [b]
        whitened += [q for (q,) in combine(group, {"a": 1.0, "b": 0.6}, "zscore_sum")]
    batch = torch.tensor(normalise(whitened, floor=1e-6)).double()
    agree(batch[g.input("perm")], g["flow_factory/group_contiguous/gdpo_global0"], 1e-6, 1e-7)


def test_mean_only_improvement_is_r3s_round_difference():
    """R3's optional `subtract_prev, subtract_mean`, before it divides by the std of the raw round rewards."""
    g = golden("rl/6_advantages")
    rounds = g.input("r3_round_rewards").double()
    group = group_of(*(sample(i, row, stopped=False) for i, row in enumerate(rounds.tolist())))
    table, _ = credited(group, "improvement", right=Right(None, 1e9))
    for k in (1, 2):
        scaled = torch.tensor(table[k, IMAGE]).double() / rounds[:, k].std() * 0.5
        agree(scaled, g["r3_multi_round/prev_std"][:, k], 1e-3, 1e-4)


def test_an_image_is_right_by_the_scorer_that_says_so_and_not_by_the_sum_that_others_add_to():
    """A wrong image whose taste scores lift its reward over 1, and its sibling who stops at a right one."""
    def group():
        made = group_of(sample(0, [0.9, 1.0], stopped=False), sample(1, [1.0]))
        for trajectory, taste in zip(made.trajectories, ([4.0, 1.0], [2.0])):
            trajectory.rewards["taste"] = taste
        return made

    advantages = []
    for right in (Right.by("score", {}), Right(None, 1.0), Right.by(None, {"score": 1.0, "taste": 0.1})):
        made = group()
        options = scheme_named("improvement").options(**CENTRED)
        assign(made, "improvement", {"score": 1.0, "taste": 0.1}, options=options, right=right)
        advantages.append([t.segments[2].advantage for t in made.trajectories])
    # by the verifier: gains 1.1 - 1.3 = -.2 against 1 for stopping on a right image
    close(advantages[0], [-0.6, 0.6])
    # by a sum of 1: the wrong image counts as right, and going on from it is worth 0
    close(advantages[1], [-0.5, 0.5])
    # by the largest sum, 1.1: as above, because taste has more than its 1
    close(advantages[2], [-0.5, 0.5])


def last_image_alone(samples, options):
    """A scheme of a user's: the centred value of the last image, on the last turn."""
    values = normalise([sample.q[-1] for sample in samples], mean_only=True)
    return [row for row in broadcast(samples, values, first_turn=1)]


OWN = CreditScheme(last_image_alone, penalise=None)


def test_a_scheme_of_one_s_own_is_one_object_named_by_its_path():
    table, summary = credited(example(), "tests.test_credit:OWN", USUAL)
    close(table[0, TEXT], [None] * 4)
    close(table[1, TEXT], [0.3125, -0.1875, -0.4375, 0.3125])
    assert summary.has_spread


@pytest.mark.parametrize(("name", "says"), [
    ("tunr", "unknown rl.credit 'tunr'; did you mean turn?"),
    ("tests.test_credit:OWNS", "module tests.test_credit has no 'OWNS'; did you mean OWN"),
    ("tests.no_such_module:OWN", "cannot be imported: the module tests.no_such_module"),
    ("tests.test_credit:last_image_alone", "is not a CreditScheme but a function"),
])  # fmt: skip
def test_a_scheme_that_is_not_there_is_named_with_its_module(name, says):
    with pytest.raises(InputError, match=says):
        scheme_named(name)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 1e308])
def test_a_reward_that_is_not_finite_is_an_error_and_no_largest_advantage(weight):
    """A weight of NaN gave every segment the bound of the advantages, +5."""
    group = Group(7, PROMPT, [sample(0, [0.0, 5.0]), sample(1, [10.0, 20.0])])
    with pytest.raises(ValueError, match="group 7: a (reward|advantage) is (nan|inf)"):
        assign(group, "turn", {"score": weight})
