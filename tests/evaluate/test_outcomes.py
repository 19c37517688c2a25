import numpy as np
import pyarrow.parquet as pq
import pytest

from irg_rl.errors import InputError
from irg_rl.evaluate import outcomes
from irg_rl.task import Verdict
from tests.evaluate.pixels import Comparison, is_right, read_pixel, trajectory


def test_every_turn_is_verified_and_laid_out_by_turn():
    table = outcomes.collect(
        [trajectory("a", [False, True]), trajectory("b", [True, False])], read_pixel, turns=2, arm="real", seed=3
    )
    assert table.correct.tolist() == [[False, True], [True, False]]
    assert table.score.tolist() == [[0.5, 1.0], [1.0, 0.5]]
    assert (table.prompt_ids, table.tasks, table.arm, table.seed) == (["a", "b"], ["counting"] * 2, "real", 3)


def test_a_stopped_trajectory_keeps_its_last_image_for_later_turns():
    table = outcomes.collect(
        [trajectory("a", [False, True], stops=True, hps=[0.1, 0.3])], read_pixel, turns=4, arm="real", seed=0
    )
    assert table.correct.tolist() == [[False, True, True, True]]
    assert table.stopped.tolist() == [[False, False, True, True]]
    assert table.rewards["hps"].tolist() == [[0.1, 0.3, 0.3, 0.3]]
    assert table.renders == 2.0


def test_a_trajectory_that_lost_a_turn_is_refused():
    with pytest.raises(ValueError, match="'a': 1 images and did not stop; expected 3 turns"):
        outcomes.collect([trajectory("a", [True])], read_pixel, turns=3, arm="real", seed=0)
    with pytest.raises(ValueError, match="3 images"):
        outcomes.collect([trajectory("a", [True] * 3)], read_pixel, turns=2, arm="real", seed=0)


def test_a_failed_scorer_is_nan_and_never_a_number():
    table = outcomes.collect(
        [trajectory("a", [True, True], hps=[0.2, None]), trajectory("b", [True, True], hps=[0.4, 0.6])],
        read_pixel, turns=2, arm="real", seed=0,
    )  # fmt: skip
    assert np.isnan(table.rewards["hps"][0, 1])
    assert table.rewards["hps"][1].tolist() == [0.4, 0.6]


def test_a_reflection_is_judged_on_the_image_before_it_and_so_is_a_stop():
    """The check accepts a claim iff it names a defect exactly when the image it saw is wrong."""

    def check(words, pixels, prompt):
        return (words == "nothing to change") == is_right(pixels)

    table = outcomes.collect(
        [
            trajectory("a", [False, False, True], stops=True),  # true claim, true claim, true stop
            trajectory("b", [True, False], stops=True),  # false claim, false stop
        ],
        read_pixel, turns=4, arm="real", seed=0, check_reflection=check,
    )  # fmt: skip
    np.testing.assert_array_equal(table.reflection_correct, [[np.nan, 1, 1, 1], [np.nan, 0, 0, np.nan]])


def test_every_refined_image_is_compared_with_the_first_one_of_its_trajectory():
    drawn = [
        trajectory("a", [False, True, False]),
        trajectory("b", [True, False], stops=True),  # the image in hand stays that of turn 2
        trajectory("c", [True], stops=True),  # nothing to compare
    ]
    seen = []

    def likes_right(prompts, refined, first):
        seen.extend((prompt.id, is_right(a), is_right(b)) for prompt, a, b in zip(prompts, refined, first))
        return [Comparison(0.5 + (is_right(a) - is_right(b)) / 2) for a, b in zip(refined, first)]

    table = outcomes.collect(drawn, read_pixel, turns=3, arm="real", seed=0, prefer=likes_right)
    assert seen == [("a", True, False), ("a", False, False), ("b", False, True)]
    np.testing.assert_array_equal(table.preferred, [[np.nan, 1, 0.5], [np.nan, 0, 0], [np.nan] * 3])
    assert table.asked.tolist() == [[False, True, True], [False, True, True], [False] * 3]


def test_a_pair_without_an_answer_was_asked_about_and_has_no_number():
    pair = [trajectory("a", [False, True]), trajectory("b", [False, True])]

    def fails_once(prompts, refined, first):
        return [None, Comparison(1.0)]

    table = outcomes.collect(pair, read_pixel, turns=2, arm="real", seed=0, prefer=fails_once)
    np.testing.assert_array_equal(table.preferred[:, 1], [np.nan, 1])
    assert table.asked[:, 1].tolist() == [True, True]


def test_a_statistic_of_the_pixels_is_that_of_the_image_in_hand():
    drawn = [trajectory("a", [False, True, True]), trajectory("b", [False, True], stops=True)]
    of_red = {"red": lambda pixels: float(pixels[0, 0, 0])}
    table = outcomes.collect(drawn, read_pixel, turns=3, arm="real", seed=0, statistics=of_red)
    assert table.statistics["red"].tolist() == [[0, 1, 1], [0, 1, 1]]


def test_a_table_comes_back_from_parquet_as_it_was(tmp_path):
    table = outcomes.collect(
        [trajectory("a", [False, True], hps=[0.2, None]), trajectory("b", [True], stops=True, hps=[0.5])],
        read_pixel, turns=2, arm="shuffled", seed=7, prefer=lambda prompts, refined, first: [Comparison(0.5)],
        statistics={"red": lambda pixels: float(pixels[0, 0, 0])},
    )  # fmt: skip
    outcomes.save(table, tmp_path / "rl.shuffled.parquet")
    back = outcomes.load(tmp_path / "rl.shuffled.parquet")
    assert (back.arm, back.seed, back.prompt_ids, back.tasks) == ("shuffled", 7, ["a", "b"], ["counting"] * 2)
    assert back.sets == table.sets
    for name in ("correct", "score", "stopped", "reflection_correct", "asked", "preferred"):
        np.testing.assert_array_equal(vars(back)[name], vars(table)[name])
    np.testing.assert_array_equal(back.rewards["hps"], table.rewards["hps"])
    assert back.statistics["red"].tolist() == [[0, 1], [1, 1]]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_table_of_an_older_version_has_no_comparisons(tmp_path):
    path = tmp_path / "rl.real.parquet"
    outcomes.save(outcomes.collect([trajectory("a", [True])], read_pixel, turns=1, arm="real", seed=0), path)
    pq.write_table(pq.read_table(path).drop_columns(["asked", "preferred"]), path)
    back = outcomes.load(path)
    assert not back.asked.any() and np.isnan(back.preferred).all()


def test_prompts_that_say_the_same_in_other_words_share_a_set():
    table = outcomes.collect(
        [trajectory("a", [True]), trajectory("b", [True], asks="1 ring"), trajectory("c", [False], asks="1 ring")],
        read_pixel, turns=1, arm="real", seed=0,
    )  # fmt: skip
    assert table.sets == ["a", "1 ring", "1 ring"] and table.take([2, 0]).sets == ["1 ring", "a"]


def test_a_table_that_does_not_name_the_sets_is_refused(tmp_path):
    path = tmp_path / "rl.real.parquet"
    outcomes.save(outcomes.collect([trajectory("a", [True])], read_pixel, turns=1, arm="real", seed=0), path)
    pq.write_table(pq.read_table(path).drop_columns("set"), path)
    with pytest.raises(InputError, match="does not say which set of constraints each row belongs to: evaluate again"):
        outcomes.load(path)


def test_a_damaged_table_is_named(tmp_path):
    path = tmp_path / "rl.real.parquet"
    outcomes.save(outcomes.collect([trajectory("a", [True])], read_pixel, turns=1, arm="real", seed=0), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"rl\.real\.parquet cannot be read as parquet .*; evaluate again"):
        outcomes.load(path)


def test_a_missing_verdict_stays_missing_on_disk(tmp_path):
    def verify(images, prompts):
        return [None if prompt.id == "b" else Verdict(True, 1.0) for prompt in prompts]

    drawn = [trajectory("a", [True, True]), trajectory("b", [True, False])]
    table = outcomes.collect(
        drawn, verify, turns=2, arm="real", seed=0, check_reflection=lambda text, image, prompt: None
    )
    assert table.known.tolist() == [[True, True], [False, False]] and not table.correct[1].any()
    assert np.isnan(table.reflection_correct).all()
    outcomes.save(table, tmp_path / "t.parquet")
    assert outcomes.load(tmp_path / "t.parquet").known.tolist() == table.known.tolist()
