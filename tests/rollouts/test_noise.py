"""Random numbers are functions of their names."""

import torch

from rollouts.noise import Noise, Use, group_seed, hashed, window_seed


def test_a_stream_depends_on_every_part_of_its_name():
    base = dict(seed=1, prompt_id="p", sample=0)
    drawn = [Noise(**base).normal(Use.STEP, (4,), 0, 0)]
    for change in ({"seed": 2}, {"prompt_id": "q"}, {"sample": 1}):
        drawn.append(Noise(**(base | change)).normal(Use.STEP, (4,), 0, 0))
    drawn += [Noise(**base).normal(use, (4,), turn, step)
              for use, turn, step in ((Use.INITIAL, 0, 0), (Use.STEP, 1, 0), (Use.STEP, 0, 1))]  # fmt: skip
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == len(drawn)
    assert torch.equal(drawn[0], Noise(**base).normal(Use.STEP, (4,), 0, 0))


def test_seeds_that_agree_in_their_low_bits_differ():
    assert Noise(5, "p", 0).uniform(Use.TOKENS, 1, 0) != Noise(5 + 2**32, "p", 0).uniform(Use.TOKENS, 1, 0)


def test_names_do_not_run_into_each_other():
    assert hashed("a", "bc") != hashed("ab", "c")
    assert hashed(1, "1") != hashed("1", 1)


def test_the_window_seed_is_the_group_s_and_a_group_s_seed_is_its_own():
    assert window_seed(0, "p", 1) != window_seed(0, "p", 2)
    assert group_seed(0, 1) != group_seed(0, 2) != group_seed(1, 2)


def test_normal_numbers_are_standard_normal():
    numbers = Noise(0, "p", 0).normal(Use.INITIAL, (100, 100), 0)
    assert numbers.dtype == torch.float32
    assert abs(float(numbers.mean())) < 0.03 and abs(float(numbers.std()) - 1) < 0.03


def test_more_tokens_do_not_change_the_first_ones():
    short, long = (Noise(0, "p", 0).uniform(Use.TOKENS, count, 3) for count in (5, 50))
    assert torch.equal(short, long[:5])
    assert long.dtype == torch.float64 and long.min() >= 0 and long.max() < 1
