"""Real failures of the machine, as one line that says what to do."""

import errno
import socket

import pytest

from irg_rl.commands.errors import EXPECTED, explain
from irg_rl.commands.run import RunError
from irg_rl.config import RecipeError
from irg_rl.learner.checkpoint import CheckpointError
from rewards.base import ScorerUnavailable
from sft.dataset import DataError


def test_a_full_disk_says_to_free_space_and_resume():
    with pytest.raises(OSError) as caught, open("/dev/full", "w") as full:
        full.write("x")
        full.flush()
    assert explain(caught.value) == "disk full while writing a file: free some space, then `irg-rl resume RUN`"
    named = OSError(errno.ENOSPC, "No space left on device", "/data/rows.parquet")
    assert "while writing /data/rows.parquet" in explain(named)


def test_a_busy_port_says_so():
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        with pytest.raises(OSError) as caught:
            second.bind(first.getsockname())
    assert explain(caught.value).startswith("port in use")


def test_any_other_failure_is_told_in_its_own_words_or_by_its_name():
    assert explain(ValueError("turns 0: at least 1")) == "turns 0: at least 1"
    assert explain(TimeoutError()) == "TimeoutError"
    assert "irg-rl resume" in explain(KeyboardInterrupt())


@pytest.mark.parametrize("kind", [RunError, RecipeError, DataError, CheckpointError, ScorerUnavailable])
def test_failures_of_every_room_are_expected(kind):
    assert issubclass(kind, EXPECTED)


def test_a_mistake_of_the_program_is_not_hidden():
    assert not issubclass(KeyError, EXPECTED) and not issubclass(AttributeError, EXPECTED)
