"""The fleet under real deaths: actors kill themselves with SIGKILL, hang, or raise."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
from ray.exceptions import OutOfMemoryError

from irg_rl.cluster import ray_runtime
from irg_rl.cluster.beats import no_beat
from irg_rl.cluster.fleet import Fleet, FleetError, FleetSettings, Health, actor_name, wait_for_any
from irg_rl.cluster.placement import NoRoomError
from irg_rl.cluster.pulse import Pulse
from irg_rl.cluster.ray_runtime import WaitTimeoutError, bounded_get


@ray.remote(num_cpus=0.1, max_restarts=0)
class Painter:
    """Squares numbers with its weights; `death_note` is a file whose existence makes the next unit fatal once."""

    def __init__(self, beat=no_beat):
        self.weights, self.beat = 0, beat

    def receive(self, weights: int) -> int:
        self.weights = weights
        return weights

    def paint(self, number: int) -> tuple[int, int]:
        return number * number, self.weights

    def paint_slowly(self, number: int, seconds: float) -> tuple[int, int]:
        time.sleep(seconds)
        return self.paint(number)

    def paint_when(self, number: int, there: str) -> tuple[int, int]:
        """Ends when a file is there, and beats meanwhile."""
        while not Path(there).exists():
            self.beat()
            time.sleep(0.05)
        return self.paint(number)

    def die_once(self, number: int, death_note: str) -> tuple[int, int]:
        note = Path(death_note)
        if note.exists():
            note.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.paint(number)

    def die_always(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hang_once(self, number: int, note: str) -> tuple[int, int]:
        if Path(note).exists():
            Path(note).unlink()
            time.sleep(600)
        return self.paint(number)

    def complain(self) -> None:
        raise ValueError("no brush")

    def run_out_of_memory_once(self, number: int, note: str) -> tuple[int, int]:
        if Path(note).exists():
            Path(note).unlink()
            raise OutOfMemoryError("the node is low on memory")
        return self.paint(number)

    def large(self, number: int) -> tuple[dict, list[int]]:
        return {"number": number}, [number] * 100_000

    def pid(self) -> int:
        return os.getpid()


@ray.remote(num_cpus=0.1, max_restarts=0)
class Beginner:
    def __init__(self, index: int):
        raise ValueError(f"no canvas for {index}")

    def paint(self, number: int) -> int:
        return number


class Weights:
    """The weights of the moment, as `prepare` sends them."""

    def __init__(self, version: int):
        self.version = version

    def send(self, actor):
        return actor.receive.remote(self.version)


@pytest.fixture
def make_fleet(local_ray):
    made = []

    def make(prepare=None, **settings) -> Fleet:
        settings = {"size": 2, "backoff": 0.05, "start_timeout": 60.0} | settings
        fleet = Fleet("painters", lambda index: Painter.remote(), FleetSettings(**settings), prepare)
        made.append(fleet)
        return fleet

    yield make
    for fleet in made:
        fleet.stop()


def values(results):
    return [result.value for result in results]


def test_results_come_in_unit_order_whatever_the_order_of_arrival(make_fleet):
    fleet = make_fleet()
    units = [(f"unit {n}", "paint_slowly", (n, 0.3 if n == 0 else 0.0)) for n in range(5)]
    assert values(fleet.run(units, timeout=60)) == [(n * n, 0) for n in range(5)]
    assert fleet.outstanding() == 0


def test_a_lap_is_what_finished_units_took_per_member(make_fleet):
    fleet = make_fleet()
    fleet.run([(n, "paint_slowly", (n, 0.2)) for n in range(3)], timeout=60)
    assert fleet.lap() >= 3 * 0.2 / 2
    assert fleet.lap() == 0.0


def test_a_wait_for_several_fleets_ends_with_the_first_of_their_units(make_fleet):
    fleets = [make_fleet(size=1) for _ in range(2)]
    for fleet in fleets:
        fleet.wait_until_serving(1, 60)
    fleets[0].submit("slow", "paint_slowly", 1, 600.0)
    fleets[1].submit("quick", "paint", 2)
    wait_for_any(fleets, 60.0)
    assert fleets[0].poll(0.0) == [] and values(fleets[1].poll(0.0)) == [(4, 0)]


def test_a_unit_whose_actor_is_killed_is_done_by_another_and_nothing_is_lost(make_fleet, tmp_path):
    note = tmp_path / "note"
    note.touch()
    fleet = make_fleet(prepare=Weights(7).send)
    units = [("fatal", "die_once", (3, str(note)))] + [(n, "paint", (n,)) for n in range(4)]
    results = fleet.run(units, timeout=60)
    assert values(results) == [(9, 7)] + [(n * n, 7) for n in range(4)]
    assert results[0].attempts == 2
    assert len(fleet.losses) == 1 and "'fatal' again" in fleet.losses[0]


def test_a_respawned_actor_serves_only_with_the_current_weights(make_fleet, tmp_path):
    weights = Weights(1)
    fleet = make_fleet(prepare=weights.send, size=1)
    assert values(fleet.run([("a", "paint", (2,))], timeout=60)) == [(4, 1)]
    weights.version = 2
    assert fleet.broadcast("receive", 2, timeout=30) == [2]
    note = tmp_path / "note"
    note.touch()
    assert values(fleet.run([("b", "die_once", (2, str(note)))], timeout=60)) == [(4, 2)]


def test_an_idle_actor_killed_from_outside_is_replaced_at_the_next_broadcast(make_fleet):
    weights = Weights(1)
    fleet = make_fleet(prepare=weights.send)
    fleet.wait_until_serving(2, timeout=60)
    os.kill(bounded_get(fleet.actors()[0].pid.remote(), 30, "pid"), signal.SIGKILL)
    weights.version = 5
    assert fleet.broadcast("receive", 5, timeout=30) == [5]
    assert len(fleet.losses) == 1 and "receive" in fleet.losses[0]
    fleet.wait_until_serving(2, timeout=60)
    assert set(values(fleet.run([(n, "paint", (1,)) for n in range(6)], timeout=60))) == {(1, 5)}


def test_new_weights_overtake_the_old_ones_that_a_starting_actor_was_sent(make_fleet):
    weights = Weights(1)
    fleet = make_fleet(prepare=weights.send)
    weights.version = 2
    assert fleet.broadcast("receive", 2, timeout=60) == [2, 2]
    assert {value for _, value in values(fleet.run([(n, "paint", (n,)) for n in range(4)], timeout=60))} == {2}


def require(version: int):
    def check(answer: int) -> None:
        if answer != version:
            raise ValueError(f"painter has {answer} in place of {version}")

    return check


def poll_until(fleet: Fleet, count: int) -> list:
    found, end = [], time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < end
        found += fleet.poll(0.2)
    return found


def test_a_busy_actor_holds_up_nobody_and_hears_the_news_before_its_next_unit(make_fleet, tmp_path):
    """Fails where the news wait for the busy actor, or where its next unit does not wait for the news."""
    fleet = make_fleet(prepare=Weights(1).send)
    fleet.wait_until_serving(2, timeout=60)
    release, release_also = tmp_path / "release", tmp_path / "release also"
    fleet.submit("slow", "paint_when", 1, str(release))
    for version in (2, 3):
        fleet.post("receive", version, timeout=30, check=require(version))
    for number in range(3):
        fleet.submit(number, "paint", number)
    assert sorted(values(poll_until(fleet, 3))) == [(0, 3), (1, 3), (4, 3)]  # the slow one would give (1, 1)
    fleet.submit("also slow", "paint_when", 3, str(release_also))  # the other actor takes it, so the first is next
    fleet.submit("last", "paint", 2)
    release.touch()
    assert sorted((done.id, done.value) for done in poll_until(fleet, 2)) == [("last", (4, 3)), ("slow", (1, 1))]
    release_also.touch()
    assert values(poll_until(fleet, 1)) == [(9, 3)]


def test_a_wrong_answer_to_news_is_raised_and_a_late_one_costs_the_actor(make_fleet):
    weights = Weights(1)
    fleet = make_fleet(prepare=weights.send, size=1)
    fleet.wait_until_serving(1, timeout=60)
    weights.version = 2
    fleet.post("paint_slowly", 1, 600.0, timeout=0.5, check=require(2))
    fleet.submit("a", "paint", 2)
    assert values(poll_until(fleet, 1)) == [(4, 2)]
    assert fleet.losses == ["painters 0: no answer before its deadline"]
    fleet.post("receive", 3, timeout=30, check=require(4))
    with pytest.raises(ValueError, match="painter has 3 in place of 4"):
        poll_until(fleet, 1)


def test_an_actor_that_dies_with_its_unit_hears_the_news_from_prepare(make_fleet, tmp_path):
    note = tmp_path / "note"
    note.touch()
    weights = Weights(1)
    fleet = make_fleet(prepare=weights.send, size=1)
    fleet.wait_until_serving(1, timeout=60)
    fleet.submit("fatal", "die_once", 3, str(note))
    weights.version = 2
    fleet.post("receive", 2, timeout=30, check=require(2))
    assert values(poll_until(fleet, 1)) == [(9, 2)]


def test_a_hanging_unit_is_killed_at_its_deadline_and_done_again(make_fleet, tmp_path):
    note = tmp_path / "note"
    note.touch()
    fleet = make_fleet(unit_timeout=2.0, size=1)
    fleet.wait_until_serving(1, timeout=60)
    (result,) = fleet.run([("hangs", "hang_once", (4, str(note)))], timeout=60)
    assert result.value == (16, 0) and result.attempts == 2


def test_an_actor_that_stops_is_found_by_its_silence_and_one_that_works_long_is_not(local_ray, tmp_path):
    """A unit may take ten minutes. Only the heartbeats end the wait. The first actor works for longer than the limit,
    until the second one is found."""
    pulse, release = Pulse(limit=6.0), tmp_path / "release"
    fleet = Fleet(
        "painters", lambda index: Painter.remote(pulse.beat(actor_name("painters", index))),
        FleetSettings(2, unit_timeout=600.0, backoff=0.05), pulse=pulse,
    )  # fmt: skip
    try:
        fleet.wait_until_serving(2, timeout=60)
        fleet.submit("long", "paint_when", 3, str(release))
        os.kill(bounded_get(fleet.actors()[1].pid.remote(), 30, "pid"), signal.SIGSTOP)
        fleet.submit("stopped", "paint", 2)
        assert values(poll_until(fleet, 1)) == [(4, 0)]
        assert fleet.losses == ["painters 1: no heartbeat; unit 'stopped' again"]
        release.touch()
        assert values(poll_until(fleet, 1)) == [(9, 0)] and len(fleet.losses) == 1
    finally:
        fleet.stop()


class Clock:
    """A clock that the test turns."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class SaysSilent:
    """A board whose answer is always that the painter has been silent for very long."""

    def __init__(self):
        self.silent, self.asked = self, 0

    def remote(self):
        self.asked += 1
        return ray.put({"painters 0": 1e9})


def test_an_old_answer_about_silence_takes_no_actor_and_a_fresh_one_does(local_ray):
    """The answer was kept from unit to unit. An answer from before the unit killed healthy actors."""
    clock = Clock()
    pulse = Pulse(10.0, clock)
    pulse.board = SaysSilent()
    fleet = Fleet(
        "painters", lambda index: Painter.remote(), FleetSettings(1, backoff=0.05), clock=clock, pulse=pulse
    )  # fmt: skip
    try:
        fleet.wait_until_serving(1, timeout=60)
        clock.now = 200.0
        fleet.submit("long", "paint_slowly", 3, 600.0)
        clock.now = 209.5
        assert pulse.silence("painters 0", since=209.5) == 1e9 and pulse.silence("painters 0", since=209.6) == 0
        clock.now = 210.2  # the unit is older than the limit, and it is too early to ask again
        assert fleet.poll(0.0) == [] and fleet.losses == [] and pulse.board.asked == 1
        clock.now = 211.0
        assert fleet.poll(0.0) == [] and pulse.board.asked == 2
        assert fleet.losses == ["painters 0: no heartbeat; unit 'long' again"]
    finally:
        fleet.stop()


def test_all_actors_are_killed_within_one_deadline_and_those_that_may_live_are_named(make_fleet, monkeypatch):
    fleet, release, kill = make_fleet(size=4), threading.Event(), ray.kill
    fleet.wait_until_serving(4, timeout=60)
    stuck = fleet.actors()[1:]

    def hang(actor, no_restart):
        if actor in stuck[1:]:
            release.wait(60)
        if actor is stuck[0]:
            raise TypeError("no such actor")
        kill(actor, no_restart=no_restart)

    monkeypatch.setattr(ray, "kill", hang)
    monkeypatch.setattr(ray_runtime, "KILL_S", 3.0)
    began = time.monotonic()
    fleet.stop()
    assert time.monotonic() - began < 2 * 3.0
    late = "Ray has not killed it in 3 s"
    assert fleet.losses == ["painters 1: TypeError: no such actor", f"painters 2: {late}", f"painters 3: {late}"]
    release.set()
    for actor in stuck:
        kill(actor)


def test_a_unit_that_always_kills_its_actor_ends_the_run_with_its_name(make_fleet):
    fleet = make_fleet(max_attempts=2)
    with pytest.raises(FleetError, match="unit 'poison' was lost 2 times"):
        fleet.run([("poison", "die_always", ())], timeout=60)


def test_a_member_that_keeps_dying_is_retired_and_the_fleet_says_so(make_fleet):
    fleet = make_fleet(size=1, max_respawns=1, max_attempts=9)
    with pytest.raises(FleetError, match="0 of 1 members are left, 1 needed"):
        fleet.run([("poison", "die_always", ())], timeout=60)
    assert fleet.health() == [Health.RETIRED]


def test_an_exception_of_the_work_itself_is_raised_and_not_retried(make_fleet):
    fleet = make_fleet(size=1)
    with pytest.raises(ValueError, match="no brush") as caught:
        fleet.run([("u", "complain", ())], timeout=60)
    assert "unit 'u'" in caught.value.__notes__[0]


def test_an_exception_of_a_constructor_is_told_at_once_and_not_retried(local_ray):
    fleet = Fleet("beginners", Beginner.remote, FleetSettings(size=1))
    try:
        with pytest.raises(FleetError, match="beginners 0: start: its constructor raised ValueError: no canvas for 0"):
            fleet.run([("u", "paint", (1,))], timeout=60)
    finally:
        fleet.stop()
    assert fleet.losses == []


def test_a_unit_that_found_no_memory_is_done_again(make_fleet, tmp_path):
    note = tmp_path / "note"
    note.touch()
    (result,) = make_fleet(size=1).run([("large", "run_out_of_memory_once", (3, str(note)))], timeout=60)
    assert result.value == (9, 0) and result.attempts == 2


def test_a_run_that_is_too_slow_names_the_missing_units(make_fleet):
    fleet = make_fleet(size=1)
    fleet.wait_until_serving(1, timeout=60)
    with pytest.raises(WaitTimeoutError, match=r"1 units unfinished after 0.5 s: \['late'\]"):
        fleet.run([("late", "paint_slowly", (1, 30.0))], timeout=0.5)
    assert fleet.outstanding() == 1


def test_a_unit_that_is_lost_too_often_is_given_up_and_the_others_go_on(make_fleet):
    fleet = make_fleet(size=1)
    for unit, method, args in (("poison", "die_always", ()), ("fine", "paint", (3,))):
        fleet.submit(unit, method, *args)
    end, finished = time.monotonic() + 60, []
    while not finished:
        assert time.monotonic() < end
        finished = fleet.poll(1.0)
    assert values(finished) == [(9, 0)]
    ((unit, reason),) = fleet.given_up()
    assert unit == "poison" and reason.startswith("was lost 3 times, at last by ActorDiedError")
    assert fleet.given_up() == [] and fleet.outstanding() == 0
    assert [line.endswith("unit 'poison' again") for line in fleet.losses] == [True, True, False]
    assert fleet.losses[-1].endswith("unit 'poison' given up")


def test_the_other_values_of_a_result_outlive_its_actor(make_fleet):
    fleet = make_fleet(size=1)
    fleet.submit("big", "large", 7, returns=2)
    (result,) = fleet.poll(60)
    assert result.value == {"number": 7}
    fleet.stop()
    (body,) = result.others
    assert bounded_get(body, 30, "the body")[-1] == 7


def test_one_unit_cannot_be_under_way_twice(make_fleet):
    fleet = make_fleet(size=1)
    fleet.submit("a", "paint_slowly", 1, 5.0)
    with pytest.raises(ValueError, match="already under way"):
        fleet.submit("a", "paint", 1)


def test_an_actor_without_room_is_retired_and_the_others_go_on(local_ray):
    """As after the death of a node, if no other node has room."""

    def start(index: int):
        if index == 1:
            raise NoRoomError("no node that is left has room for painter 1")
        return Painter.remote()

    fleet = Fleet("painters", start, FleetSettings(size=2, backoff=0.01, max_respawns=2))
    try:
        assert values(fleet.run([(n, "paint", (n,)) for n in range(4)], timeout=60)) == [(n * n, 0) for n in range(4)]
        end = time.monotonic() + 60
        while Health.DEAD in fleet.health() and time.monotonic() < end:
            fleet.poll(0.05)
        assert fleet.health() == [Health.IDLE, Health.RETIRED]
        assert fleet.losses == ["painters 1: NoRoomError: no node that is left has room for painter 1"] * 3
    finally:
        fleet.stop()
