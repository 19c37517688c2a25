"""Real failures of the machine, as one line that says what to do."""

import errno
import socket

import pytest
import torch
from ray.exceptions import ActorDiedError, RayError

from irg_rl.cluster.fleet import FleetError
from irg_rl.cluster.ranks import RankError
from irg_rl.cluster.ray_runtime import RayStartError, WaitTimeoutError
from irg_rl.config import RecipeError
from irg_rl.driver.run_folder import RunError
from irg_rl.errors import InputError, UserError, explain, is_expected
from irg_rl.learner.checkpoint import CheckpointError
from irg_rl.learner.publish import PublishError
from irg_rl.learner.ratio_check import RatioError
from irg_rl.learner.update import NonFiniteError
from rewards.base import ScorerUnavailable, TooManyFailures
from rollouts.weights import WeightsError
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


@pytest.mark.parametrize("take", [
    lambda: torch.empty(2**50, dtype=torch.uint8), lambda: bytearray(2**50), lambda: raise_(torch.OutOfMemoryError()),
])  # fmt: skip
def test_too_little_memory_is_one_line_that_names_settings(take):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        take()
    said = explain(caught.value)
    assert is_expected(caught.value) and said.startswith("out of memory (") and "\n" not in said
    assert "irg-rl plan" in said and "engine.activation_checkpointing=true" in said


def raise_(error: Exception):
    raise error


def test_any_other_failure_is_told_in_its_own_words_or_by_its_name():
    assert explain(ValueError("turns 0: at least 1")) == "turns 0: at least 1"
    assert explain(TimeoutError()) == "TimeoutError"
    assert "irg-rl resume" in explain(KeyboardInterrupt())


def test_a_remote_failure_is_told_with_the_actor_and_the_call():
    error = ScorerUnavailable("scorer 'judge': the key is refused")
    error.add_note("raised remotely, while waiting for critic 0: unit 17")
    assert explain(error) == (
        "scorer 'judge': the key is refused (raised remotely, while waiting for critic 0: unit 17)"
    )


@pytest.mark.parametrize("kind", [
    RunError, RecipeError, InputError, DataError, CheckpointError, ScorerUnavailable, TooManyFailures, FleetError,
    RankError, RayStartError, WaitTimeoutError, RatioError, NonFiniteError, WeightsError, PublishError,
])  # fmt: skip
def test_failures_of_every_package_have_one_base(kind):
    assert issubclass(kind, UserError) and is_expected(kind("what, where, what to do"))


def test_what_ray_raises_itself_is_expected_too():
    assert is_expected(ActorDiedError()) and issubclass(ActorDiedError, RayError)


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, KeyError, AttributeError, TypeError, AssertionError])
def test_a_mistake_of_the_program_shows_its_traceback(irg_rl, monkeypatch, kind):
    def mistake(*_):
        raise kind("the shapes do not match")

    monkeypatch.setattr("irg_rl.commands.check.check_recipe", mistake)
    with pytest.raises(kind, match="the shapes do not match"):
        irg_rl("check", "a.yaml")
