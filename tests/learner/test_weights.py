"""The weights divided over the ranks: each number once, and copies of the weights as from one rank."""

import pytest
import torch

from irg_rl.learner.ema import EMA
from irg_rl.learner.engine import Engine
from irg_rl.learner.process_group import Rank
from tests.learner.ranks import run_on_ranks
from tests.learner.toy import IDLE, Toy, ToyPack, denominators, loss_of, make_packs, settings

STAGES = [0, 1, 2, 3]
PRECISIONS = ["fp32", "bf16"]
KINDS = [(stage, precision) for stage in STAGES for precision in PRECISIONS if precision == "fp32" or stage >= 2]
DECAY = 0.75


def average_of(place: Rank, kinds) -> dict:
    """For each kind of engine what this rank has after three updates: its part, the joined average, the average that is
    computed from full tensors, and outputs with the first weights."""
    return {kind: trained(place, *kind) for kind in kinds}


def trained(place: Rank, stage: int, precision: str) -> dict:
    idle, *steps = (
        [typed(pack, precision) for pack in packs] for packs in ([IDLE], *(make_packs(4, seed) for seed in range(3)))
    )
    engine = Engine(Toy(), settings(stage, precision=precision), idle[0], place)
    full = {name: tensor.clone() for name, tensor in engine.state().changing()}
    first = {name: part.clone() for name, part in engine.state().own()}
    before = outputs(engine, idle)
    average = EMA(engine.state().own(), DECAY, warmup=False)
    for step in steps:
        packs = step[place.rank :: place.world_size]
        engine.step(packs, loss_of(packs), denominators(packs))
        average.update(engine.state().own())
        for name, tensor in engine.state().changing():
            full[name].lerp_(tensor, 1 - DECAY)
    state = engine.state()
    joined = dict(state.whole(average.weights))
    with engine.holding(first):
        held = outputs(engine, idle)
    zeros = {name: torch.full_like(part, -0.0) for name, part in state.own()}
    own = state.cut(joined)
    return {
        "sizes": {name: len(part) for name, part in first.items()},
        "average": (numbers(joined), numbers(full)),
        "weights": (numbers(dict(state.whole(dict(state.own())))), numbers(dict(state.changing()))),
        "cut": all(torch.equal(own[name], part) for name, part in average.weights.items()),
        "signs": all(bool(torch.signbit(tensor).all()) for _, tensor in state.whole(zeros)),
        "outputs": (before, held, outputs(engine, idle)),
    }


def typed(pack: ToyPack, precision: str) -> ToyPack:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return ToyPack(pack.x.to(dtype), pack.y.to(dtype), pack.kind)


def outputs(engine: Engine, packs: list[ToyPack]) -> list[list[float]]:
    return engine.evaluate(packs, lambda output, index: output.float().tolist())


def numbers(tensors: dict) -> dict:
    return {name: tensor.clone().numpy() for name, tensor in tensors.items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


@pytest.fixture(scope="module")
def alone():
    return average_of(Rank(), KINDS)


@pytest.fixture(scope="module")
def two():
    return run_on_ranks(2, average_of, KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_on_one_rank_the_average_has_the_bits_of_one_of_full_tensors(alone, kind):
    joined, full = alone[kind]["average"]
    assert same(joined, full) and joined.keys() == dict(Toy().named_parameters()).keys()


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_keep_each_number_once_and_join_the_average_of_full_tensors(two, kind):
    sizes = [rank[kind]["sizes"] for rank in two]
    for name, parameter in Toy().named_parameters():
        assert sum(found[name] for found in sizes) == parameter.numel(), name
    assert all(max(found.values()) < 20 for found in sizes), "no rank has all 20 numbers of the trunk"
    for rank in two:
        joined, full = rank[kind]["average"]
        assert joined.keys() == full.keys()
        for name in joined:  # a number at the edge of a part may be computed without fused multiplication
            assert abs(joined[name] - full[name]).max() <= 1e-7 * max(abs(full[name]).max(), 1), name


@pytest.mark.parametrize("kind", KINDS)
def test_joined_weights_have_the_bits_of_the_full_ones_and_can_be_cut_again(alone, two, kind):
    for rank in (alone, *two):
        assert same(*rank[kind]["weights"]) and rank[kind]["cut"] and rank[kind]["signs"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_weights_are_computed_with_and_the_trained_ones_come_back(alone, two, kind):
    for rank in (alone, *two):
        before, held, after = rank[kind]["outputs"]
        assert before == held != after


def test_saved_weights_of_another_model_are_refused_by_name():
    state = Engine(Toy(), settings(2), IDLE).state()
    full = dict(state.changing())
    with pytest.raises(ValueError, match=r"unknown \['extra'\]"):
        state.cut(full | {"extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="trunk.bias has 6 numbers in the checkpoint and 5 in the model"):
        state.cut(full | {"trunk.bias": torch.zeros(6)})
