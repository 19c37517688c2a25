"""Two ranks equal one: same packs, same update, on every ZeRO stage."""

import numpy as np
import pytest

from irg_rl.learner.engine import Engine, Loss
from irg_rl.learner.process_group import Rank
from tests.learner.ranks import run_on_ranks
from tests.learner.toy import IDLE, Toy, denominators, loss_of, make_packs, settings

STAGES = [0, 1, 2, 3]
STEPS = [make_packs(5, seed=1), make_packs(1, seed=2), make_packs(4, seed=3)]
"""Uneven on two ranks: 3 and 2 packs, then 1 and none (an idle rank), then 2 and 2."""


def train_share(place, stages):
    """{stage: (weights as numpy, [(loss, total norm, sums)], skipped)} with every second pack on each rank."""
    results = {}
    for stage in stages:
        engine = Engine(Toy(), settings(stage), IDLE, place)
        log = []
        for packs in STEPS:
            own = packs[place.rank :: place.world_size]
            result = engine.step(own, loss_of(own), denominators(own))
            log.append((result.loss, result.grad_norms["total"], result.sums["text_sum"]))
        one_bad = engine.step(STEPS[0][:1], _undefined_on_rank_one(place), denominators(STEPS[0][:1]))
        weights = {name: w.numpy() for name, w in engine.state().weights()}
        results[stage] = (weights, log, one_bad.applied)
    return results


def _undefined_on_rank_one(place):
    def loss(output, index, totals):
        return Loss({"text": output.sum() * (float("nan") if place.rank == place.world_size - 1 else 1.0)})

    return loss


@pytest.fixture(scope="module")
def one_rank():
    return train_share(Rank(), STAGES)


@pytest.fixture(scope="module")
def two_ranks():
    return run_on_ranks(2, train_share, STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_make_the_same_update_as_one(one_rank, two_ranks, stage):
    for rank in (0, 1):
        for name, weight in two_ranks[rank][stage][0].items():
            np.testing.assert_allclose(weight, one_rank[stage][0][name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_log_the_same_numbers_as_one(one_rank, two_ranks, stage):
    for rank in (0, 1):
        np.testing.assert_allclose(two_ranks[rank][stage][1], one_rank[stage][1], rtol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_a_loss_that_is_undefined_on_one_rank_skips_the_step_on_all(two_ranks, stage):
    assert [rank[stage][2] for rank in two_ranks] == [False, False]
