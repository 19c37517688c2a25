"""After many questions without an answer a server is left in peace for a while."""

from concurrent.futures import ThreadPoolExecutor, as_completed

from rewards.breaker import Breaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(clock):
    breaker = Breaker(after=3, pause=10.0, clock=clock)
    for problem in ("refused", "refused", "HTTP 503"):
        assert not breaker.refusal()
        breaker.failed(problem)
    return breaker


def test_it_opens_after_failures_in_a_row_and_says_why():
    clock = Clock()
    breaker = opened(clock)
    clock.now = 4.0
    assert breaker.refusal() == "no answer to the last 3 questions, tried again in 6 s (HTTP 503)"


def test_an_answer_in_between_begins_the_count_anew():
    breaker = Breaker(after=3, pause=10.0)
    for _ in range(4):
        breaker.failed("refused")
        breaker.failed("refused")
        breaker.answered()
    assert not breaker.refusal()


def test_after_the_pause_one_question_is_let_through_and_decides():
    clock = Clock()
    breaker = opened(clock)
    clock.now = 10.0
    assert [bool(breaker.refusal()) for _ in range(3)] == [False, True, True]
    breaker.failed("refused")
    clock.now = 19.0
    assert "tried again in 1 s" in breaker.refusal()
    clock.now = 20.0
    assert not breaker.refusal()
    breaker.answered()
    assert [bool(breaker.refusal()) for _ in range(3)] == [False] * 3


def test_others_wait_for_the_question_that_is_let_through_and_then_follow_it():
    """A server that is away for a moment costs no more questions than those that had failed."""
    breaker = Breaker(after=1, pause=0.2)
    breaker.failed("refused")
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(breaker.wait) for _ in range(4)]
        first = next(as_completed(waiting)).result()  # the one that is let through
        breaker.answered()
        assert first == "" and [one.result(timeout=5) for one in waiting] == [""] * 4


def test_those_that_wait_fail_if_the_question_that_was_let_through_does():
    breaker = Breaker(after=1, pause=0.2)
    breaker.failed("refused")
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(breaker.wait) for _ in range(4)]
        assert next(as_completed(waiting)).result() == ""
        breaker.failed("HTTP 503")
        told = sorted(one.result(timeout=5) for one in waiting)
    assert told[0] == "" and all("no answer to the last 2 questions" in one for one in told[1:])


def test_it_can_be_turned_off():
    breaker = Breaker(after=0, pause=10.0)
    for _ in range(100):
        breaker.failed("refused")
    assert not breaker.refusal()
