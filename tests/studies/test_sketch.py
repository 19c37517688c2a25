"""Signal and noise of gradients, by hand and against draws whose answer is known."""

import numpy as np
import pytest
import torch

from irg_rl.studies.sketch import alignment, gram, half_cosine, jackknifed, signal, signal_to_noise, sketch


def test_two_batches_by_hand():
    """g = (3, 0) and (1, 0): mean inner product of different batches 3, covariance trace (9 + 1 - 16 / 2) / 1 = 2."""
    table = np.array([[9.0, 3.0], [3.0, 1.0]])
    assert signal(table) == 3 and signal_to_noise(table) == pytest.approx(1.5) and half_cosine(table) == 1


def test_the_ratio_is_unbiased_where_the_plain_one_is_not():
    rng = np.random.default_rng(0)
    mean, dimension, batches = 0.5, 50, 8
    truth = mean**2 * dimension / dimension
    found = []
    for _ in range(400):
        draws = mean + rng.normal(size=(batches, dimension))
        found.append(signal(draws @ draws.T) / dimension)
    assert np.mean(found) == pytest.approx(truth, abs=0.01)
    plain = mean**2 + 1 / batches  # |mean of the batches|^2 keeps an eighth of the noise
    assert abs(np.mean(found) - plain) > 0.1


def test_gradients_of_nothing_have_no_ratio():
    assert np.isnan(signal_to_noise(np.zeros((4, 4)))) and np.isnan(half_cosine(np.zeros((4, 4))))


def test_a_sketch_keeps_inner_products_whatever_the_order_of_parameters():
    generator = torch.Generator().manual_seed(0)
    a, b = ({"u": torch.randn(300, 20, generator=generator), "v": torch.randn(500, generator=generator)} for _ in "ab")
    b = {name: b[name] + 0.5 * a[name] for name in b}
    exact = sum(float((a[name] * b[name]).sum()) for name in a)
    sizes = [sum(float(one[name].square().sum()) for name in a) ** 0.5 for one in (a, b)]
    small = float(sketch(a, 4096) @ sketch(b, 4096))
    assert abs(small - exact) < 4 * np.sqrt(2 / 4096) * sizes[0] * sizes[1]
    assert np.allclose(sketch(a), sketch(dict(reversed(a.items()))))
    assert np.allclose(sketch({"u": a["u"]}) + sketch({"v": a["v"]}), sketch(a))
    assert not sketch({}).any()


def test_alignment_does_not_count_noise_that_batches_share():
    """Both schemes see the same noise in every batch, but expect gradients at right angles."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(400, 40))
    one, other = noise.copy(), noise.copy()
    one[:, 0] += 2
    other[:, 1] += 2
    tables = one @ one.T, other @ other.T, one @ other.T
    assert alignment(*tables) == pytest.approx(0, abs=0.1)
    measure = jackknifed(alignment, *tables)
    assert measure.low < 0 < measure.high and measure.n == 400
    assert alignment(tables[0], tables[0], tables[0]) == pytest.approx(1)


def test_the_interval_is_that_of_leaving_one_batch_out():
    """For a mean the jackknife gives the standard error of the mean."""
    values = np.array([1.0, 2.0, 4.0, 5.0])
    measure = jackknifed(lambda table: float(np.diag(table).mean()), np.diag(values))
    half = 1.96 * values.std(ddof=1) / 2
    assert (measure.value, measure.low, measure.high) == pytest.approx((3.0, 3 - half, 3 + half))


def test_the_diagonal_is_exact():
    assert gram(np.array([[1.0, 0], [0, 1.0]]), np.array([4.0, 9.0])).tolist() == [[4, 0], [0, 9]]
