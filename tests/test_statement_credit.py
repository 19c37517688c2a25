"""Credit of single statements: from characters to tokens, and what the loss makes of it."""

import numpy as np
import pytest
import torch

from irg_rl.credit import assign
from irg_rl.credit.statements import on_tokens
from irg_rl.errors import InputError
from irg_rl.records import for_looking, load_groups, save_groups
from irg_rl.trajectory import Group, Modality, Statement
from rewards.base import TooManyFailures
from rewards.hub import RewardHub
from rewards.segments import score_segments
from tests.learner.test_replay import gradients
from tests.learner.world import make_world
from tests.test_credit import IMAGE, TEXT, example, group_of, sample, text_segment

WEIGHTS = {"truth": 2.0}


def text_of(*statements, ends=(2, 5, 9, 9), turn=1):
    """A text of four tokens, the last of which is the end-of-text token."""
    text = text_segment(turn)
    text.ids, text.logprobs, text.text = torch.zeros(4, dtype=torch.long), torch.zeros(4), "abcdefghi"
    text.ends, text.scores = torch.tensor(ends), {"truth": 0.5}
    text.statements = {"truth": [Statement(*one) for one in statements]}
    return text


def group_with(*texts, q=1.0):
    """One trajectory of two images for each reflection."""
    trajectories = []
    for number, text in enumerate(texts):
        made = sample(number, [q, q], stopped=False)
        made.segments[2] = text
        trajectories.append(made)
    return group_of(*trajectories)


def test_a_token_belongs_to_the_statement_of_its_last_character():
    text = text_of((0, 4, 1.0), (5, 9, 0.0))
    assert on_tokens(text, text.statements["truth"], 0.5).tolist() == [0.5, 0.0, -0.5, -0.5]


def test_worked_example():
    """Three of four statements are true: the mean is .75, and the weight is 2."""
    group = group_with(text_of((0, 5, 1.0), (5, 9, 0.0)), text_of((0, 2, 1.0), (2, 5, 1.0)))
    summary = assign(group, "factorised", {"score": 1.0}, statement_weights=WEIGHTS)
    first, second = (t.texts[1] for t in group.trajectories)
    assert first.token_advantages.tolist() == [0.5, 0.5, -1.5, -1.5]
    assert second.token_advantages.tolist() == [0.5, 0.5, 0.0, 0.0]
    assert first.advantage == second.advantage == 0.0, "equal rewards give the whole texts nothing"
    assert summary.has_spread
    assert not summary.empty


def test_statements_that_are_all_true_train_nothing():
    group = group_with(text_of((0, 9, 1.0)), text_of((0, 9, 1.0)))
    summary = assign(group, "factorised", {"score": 1.0}, statement_weights=WEIGHTS)
    assert not summary.has_spread


def test_a_lone_reflection_is_trained_by_its_statements():
    """A reflection that has no sibling at its fork has no other advantage."""
    one, other = text_of((0, 5, 1.0), (5, 9, 0.0)), text_of((0, 9, 1.0))
    group = group_with(one, other)
    group.trajectories[1].segments[2] = one
    summary = assign(group, "factorised", {"score": 1.0}, statement_weights=WEIGHTS)
    assert one.advantage == 0.0
    assert one.token_advantages.tolist() == [1.0, 1.0, -1.0, -1.0]
    assert summary.has_spread


def test_the_end_of_a_text_belongs_to_its_last_statement():
    empty = text_of((0, 0, 0.0), ends=(0, 0, 0, 0))
    empty.text = ""
    assert on_tokens(empty, empty.statements["truth"], 0.5).tolist() == [0, 0, 0, -0.5]
    cut = text_of((0, 5, 1.0))
    cut.finished = False
    assert on_tokens(cut, cut.statements["truth"], 0.5).tolist() == [0.5, 0.5, 0, 0]


def test_a_text_without_ends_is_an_error_that_says_what_to_do():
    text = text_of((0, 9, 1.0))
    text.ends = None
    with pytest.raises(InputError, match="sample it with this version"):
        on_tokens(text, text.statements["truth"], 0.5)


def test_a_lone_text_that_was_cut_off_has_its_penalty():
    one, other = text_of((0, 5, 1.0), (5, 9, 0.0)), text_of((0, 9, 1.0))
    one.finished = False
    group = group_with(one, other)
    group.trajectories[1].segments[2] = one
    assign(group, "factorised", {"score": 1.0}, statement_weights=WEIGHTS)
    assert one.advantage == -1.0


def test_token_advantages_of_another_scheme_are_forgotten():
    group = group_with(text_of((0, 5, 1.0), (5, 9, 0.0)), text_of((0, 9, 1.0)))
    assign(group, "factorised", {"score": 1.0}, statement_weights=WEIGHTS)
    assign(group, "trajectory", {"score": 1.0})
    assert all(text.token_advantages is None for t in group.trajectories for text in t.texts)


def test_a_sample_whose_statements_could_not_be_scored_is_not_trained():
    failed = text_of()
    failed.scores, failed.statements = {"truth": None}, {}
    group = group_with(failed, text_of((0, 5, 1.0), (5, 9, 0.0)), text_of((0, 9, 1.0)))
    summary = assign(group, "factorised", {"score": 1.0}, statement_weights=WEIGHTS)
    assert (summary.trained, summary.dropped) == (2, 1)
    assert failed.token_advantages is None
    assert failed.advantage is None


def test_what_a_kl_term_holds_has_the_advantage_0():
    """One first image for all siblings has no baseline; a KL term of images is about it all the same."""
    def advantages(held):
        group = example()
        for trajectory in group.trajectories[1:]:
            trajectory.segments[:2] = group.trajectories[0].segments[:2]
        assign(group, "factorised", {"score": 1.0}, held=held)
        trunk = group.trajectories[0].segments[:2]
        return [segment.advantage for segment in trunk]

    assert advantages(()) == [None, None]
    assert advantages((Modality.IMAGE,)) == [None, 0.0]
    assert advantages((Modality.TEXT,)) == [0.0, None]
    assert advantages((TEXT, IMAGE)) == [0.0, 0.0]


def test_nothing_is_held_where_nothing_is_trained():
    group = group_of(sample(0, [1.0]), sample(1, [None]))
    assert assign(group, "factorised", {"score": 1.0}, held=(IMAGE,)).empty
    assert all(segment.advantage is None for segment in group.segments)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("tokenizer"))


def test_the_sampler_says_where_tokens_end(world):
    for trajectory in world.sample(3):
        for text in trajectory.texts:
            ids = text.ids.tolist()
            whole = ids[:-1] if text.finished else ids
            assert text.ends.tolist()[: len(whole)] == world.tokenizer.ends(whole)
            assert len(text.ends) == len(ids)
            if text.finished:
                assert text.ends[-1] == len(text.text)


def test_a_token_is_trained_by_its_own_advantage(world):
    """The gradient of one text is the sum over tokens: two halves with their own advantages add up to it."""
    def gradient(*token_advantages):
        [trajectory] = world.sample(1)
        for segment in trajectory.segments:
            segment.advantage = None
        text = trajectory.texts[1]
        text.advantage = 0.0
        text.token_advantages = torch.zeros(len(text.ids))
        text.token_advantages[: len(token_advantages)] = torch.tensor(token_advantages)
        return gradients(world, [trajectory], world.replay().packs([trajectory]))[0]

    first, second, both = gradient(1.0, 0.0), gradient(0.0, -2.0), gradient(1.0, -2.0)
    assert any(float(value.abs().max()) > 1e-6 for value in first.values())
    for name, value in both.items():
        assert torch.allclose(value, first[name] + second[name], atol=1e-6), name


def test_a_group_comes_back_from_a_folder_with_its_statements(world, tmp_path):
    drawn = world.sample(2)
    for trajectory in drawn:
        text = trajectory.texts[1]
        text.statements = {"truth": [Statement(0, 3, 0.25), Statement(3, len(text.text), 1.0)]}
        text.token_advantages = torch.linspace(-1, 1, len(text.ids))
    group = Group(0, drawn[0].prompt, drawn, 0)
    save_groups(tmp_path / "g", [group])
    [back] = load_groups(tmp_path / "g")
    for before, after in zip(group.trajectories, back.trajectories):
        one, two = before.texts[1], after.texts[1]
        assert one.statements == two.statements
        assert isinstance(two.statements["truth"][0], Statement)
        assert torch.equal(one.token_advantages, two.token_advantages)
        assert torch.equal(one.ends, two.ends)
    [look] = for_looking([group], 1, 10**6)
    assert look.trajectories[0].texts[1].token_advantages is None
    assert look.trajectories[0].texts[1].statements == drawn[0].texts[1].statements


class Halves:
    """The first half of a text is true. Says nothing at the first `failures` calls."""

    def __init__(self, name, failures=0):
        self.name, self.last_error, self.failures = name, "asleep", failures

    def check(self):
        pass

    def score_statements(self, images, prompts, texts):
        self.failures -= 1
        if self.failures >= 0:
            return [None] * len(texts)
        halves = [np.int64(len(t) // 2) for t in texts]  # in another order, and as numbers that JSON does not know
        return [[Statement(k, len(t), 0.0), Statement(0, k, np.float32(1))] for k, t in zip(halves, texts)]


def hub_of(failures, **settings):
    spec = {"name": "halves", "kind": f"{__name__}:Halves", "of": "statement", "options": {"failures": failures}}
    return RewardHub([spec], **settings)


@pytest.mark.parametrize(("failures", "expected"), [(0, 0.5), (1, 0.5), (2, None)])
def test_the_hub_asks_again_and_a_failure_is_no_statement(world, failures, expected):
    drawn = world.sample(2)
    score_segments(Group(0, drawn[0].prompt, drawn, 0), hub_of(failures))
    for trajectory in drawn:
        text = trajectory.texts[1]
        assert text.scores == {"halves": expected}
        scores = [[one.score for one in own] for own in text.statements.values()]
        assert scores == ([] if expected is None else [[1, 0]])
        assert all(type(value) in (int, float) for own in text.statements.values() for one in own for value in one)
        assert trajectory.texts[0].statements == {}


def test_a_scorer_of_statements_that_keeps_failing_stops_the_run(world):
    drawn = world.sample(2)
    with pytest.raises(TooManyFailures, match="asleep"):
        score_segments(Group(0, drawn[0].prompt, drawn, 0), hub_of(99, min_images=1))
