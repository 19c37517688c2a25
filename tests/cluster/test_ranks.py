"""Ranks, when one of them dies and another one notices it first."""

import os
import signal
import time

import pytest
import ray

from irg_rl.cluster.ranks import RankError, Ranks


@ray.remote(num_cpus=0)
class Partner:
    def __init__(self, rank: int):
        self.rank = rank

    def talk(self) -> None:
        """Rank 1 dies. Rank 0 finds its connection broken, as in a collective call, and says so before Ray does."""
        if self.rank == 1:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("Connection closed by peer")

    def pid(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise RuntimeError(f"rank {self.rank} cannot count")


@pytest.fixture
def ranks(local_ray):
    made = Ranks("learner", Partner.remote, 2)
    yield made
    made.stop()


def test_a_dead_rank_is_named_even_if_another_one_complains_first(ranks):
    """The run ended with a traceback of the connection."""
    with pytest.raises(RankError, match="learner 1 died in talk .*; resume the run") as caught:
        ranks.call("talk", timeout=60)
    assert str(caught.value.__cause__) == "Connection closed by peer"


def test_a_rank_that_dies_while_nothing_is_called_is_found_by_a_check(ranks):
    pids = ranks.call("pid", timeout=60)
    for _ in range(3):
        ranks.check()
    os.kill(pids[1], signal.SIGKILL)
    end = time.monotonic() + 60
    with pytest.raises(RankError, match="learner 1 died .*; resume the run"):
        while time.monotonic() < end:
            ranks.check()
            time.sleep(0.1)


def test_a_rank_that_could_not_be_killed_is_named(ranks, monkeypatch):
    def fail(actor, no_restart):
        raise OSError("the server of Ray hangs")

    with monkeypatch.context() as patch:
        patch.setattr(ray, "kill", fail)
        ranks.stop()
    assert ranks.losses == [f"learner {rank}: OSError: the server of Ray hangs" for rank in range(2)]


def test_an_error_of_all_ranks_stays_what_it_is(ranks):
    with pytest.raises(RuntimeError, match="rank . cannot count"):
        ranks.call("fail", timeout=60)
