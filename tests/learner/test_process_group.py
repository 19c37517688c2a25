"""Where the ranks of a learner meet: at one address, which may be one that other machines reach."""

import socket

import psutil
import pytest
import torch
import torch.distributed as dist

from irg_rl.errors import InputError
from irg_rl.learner.process_group import LOOPBACK, host_store, interface_to
from tests.learner.ranks import run_on_ranks


def outward() -> str:
    """An address of this machine that is not the loopback address. Skips the test if there is none."""
    up = [name for name, state in psutil.net_if_stats().items() if state.isup]
    for name in up:
        for one in psutil.net_if_addrs().get(name, []):
            if one.family == socket.AF_INET and not one.address.startswith("127."):
                return one.address
    pytest.skip("this machine has only its loopback address")


def listening(port: int) -> set[str]:
    found = psutil.Process().net_connections("tcp")
    return {one.laddr.ip for one in found if one.status == "LISTEN" and one.laddr.port == port}


def test_the_store_listens_at_its_address_only():
    """It listened at every address of the machine."""
    for address in (LOOPBACK, outward()):
        store = host_store(2, timeout=5, address=address)
        assert listening(store.port) == {address}


def test_the_interface_is_the_one_that_has_the_address():
    address = outward()
    for own in (LOOPBACK, address):
        assert own in {one.address for one in psutil.net_if_addrs()[interface_to(own)]}
    assert interface_to(LOOPBACK) != interface_to(address)


def test_an_address_of_another_machine_is_no_place_to_listen():
    with pytest.raises(InputError, match="rank 0 cannot listen at 203.0.113.7 .*--node-ip-address"):
        host_store(2, timeout=5, address="203.0.113.7")  # RFC 5737: an address for documentation


def add_up(place) -> tuple[float, set[str]]:
    """The sum over all ranks, and the addresses at which this rank talks to the others."""
    total = torch.tensor([float(place.rank + 1)])
    dist.all_reduce(total)
    found = [one for one in psutil.Process().net_connections("tcp") if one.status == "ESTABLISHED"]
    ends = [None] * place.world_size
    dist.all_gather_object(ends, [tuple(one.laddr) for one in found])
    others = {end for rank, of_rank in enumerate(ends) if rank != place.rank for end in of_rank}
    return float(total), {one.laddr.ip.removeprefix("::ffff:") for one in found if tuple(one.raddr) in others}


def test_two_ranks_meet_and_talk_at_an_outward_address():
    address = outward()
    assert run_on_ranks(2, add_up, address=address) == [(3.0, {address})] * 2
