"""How signals end a run: in order, with a line that says how to go on."""

import os
import signal
import time

import pytest

from irg_rl import stopping


@pytest.fixture
def run(tmp_path):
    with stopping.on_signals(tmp_path, grace_s=30):
        yield tmp_path


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # the handler runs between two instructions of Python


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_loop_is_only_asked_to_end_and_may_save(run, number, capfd):
    with stopping.loop():
        assert not stopping.asked()
        send(number)
        assert stopping.asked()
    name = signal.Signals(number).name
    assert stopping.message() == f"stopped by {name}; `irg-rl resume {run}` goes on from the last checkpoint"
    assert "finishing the step, then saving; at most 30 s" in capfd.readouterr().err


def test_the_last_line_says_which_step_was_saved(run):
    with stopping.loop(), pytest.raises(KeyboardInterrupt):
        send(signal.SIGTERM)
        stopping.end("step 3 of sft1")
    assert str(stopping.message()).startswith("stopped by SIGTERM after step 3 of sft1, which is saved; `irg-rl resume")


def test_outside_of_a_loop_the_first_signal_ends_the_run(run):
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGTERM)


def test_a_second_signal_abandons_the_step(run):
    with stopping.loop(), pytest.raises(KeyboardInterrupt):
        send(signal.SIGTERM)
        assert stopping.asked()
        send(signal.SIGTERM)


def test_a_step_that_takes_longer_than_the_grace_time_is_abandoned(tmp_path):
    with stopping.on_signals(tmp_path, grace_s=0.05), stopping.loop(), pytest.raises(KeyboardInterrupt):
        send(signal.SIGTERM)
        time.sleep(20)


def test_an_ignored_signal_stays_ignored(tmp_path):
    """`nohup irg-rl train` outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.on_signals(tmp_path, grace_s=30), stopping.loop():
            send(signal.SIGHUP)
            assert not stopping.asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_afterwards_signals_mean_what_they_meant_before(tmp_path):
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with stopping.on_signals(tmp_path, grace_s=30):
        assert [signal.getsignal(number) for number in stopping.SIGNALS] != before
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
    assert not stopping.asked()


def test_a_handler_that_ray_has_replaced_is_put_back(run):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stopping.listen()
    with stopping.loop():
        send(signal.SIGTERM)
        assert stopping.asked()


def test_the_grace_time_ends_also_where_ctrl_c_is_ignored(tmp_path):
    """A script that runs `irg-rl train &` starts it with SIGINT ignored. SIGTERM arrives all the same."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping.on_signals(tmp_path, grace_s=0.05), stopping.loop(), pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)
            time.sleep(20)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_step_that_ends_in_time_is_not_interrupted_afterwards(tmp_path):
    with stopping.on_signals(tmp_path, grace_s=0.2):
        with stopping.loop():
            send(signal.SIGTERM)
        time.sleep(0.5)
