"""The judge's client against real HTTP servers, good and bad."""

import base64
import io
import math
import socket
import time

import numpy as np
import pytest
from PIL import Image as PILImage

from irg_rl.errors import InputError
from irg_rl.trajectory import Prompt
from rewards.base import Preference, ScorerUnavailable, TooManyFailures
from rewards.build import ScorerSpec, build_scorer
from rewards.hub import RewardHub
from rewards.judge import JudgeScorer
from rewards.judge_client import Patience
from tests.rewards.servers import completion, endpoint

PROMPT = Prompt("secret-id", "a photo of two red circles", {"tag": "counting", "include": ["the answer"]})
FAST = {"backoff": 0.01, "timeout": 5.0}


def image(level):
    return np.full((8, 8, 3), level, dtype=np.uint8)


def brightness_of(body, which=0):
    urls = [part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url"]
    return np.asarray(PILImage.open(io.BytesIO(base64.b64decode(urls[which].partition(",")[2])))).mean()


def always(status, content, wait=0.0):
    return lambda number, body: (status, content, wait)


def test_the_score_is_yes_over_yes_and_no_with_spellings_added_up():
    top = {"Yes": math.log(0.4), " yes": math.log(0.2), "No": math.log(0.2), "Well": math.log(0.1)}
    with endpoint(always(200, completion("Yes", top))) as (url, _):
        assert JudgeScorer(url, **FAST).score([image(1)], [PROMPT]) == [pytest.approx(0.6 / 0.8)]


@pytest.mark.parametrize(("text", "score"), [("Yes.", 1.0), ("no, it shows one", 0.0), ("**No**", 0.0)])
def test_without_logprobs_the_first_word_decides(text, score):
    with endpoint(always(200, completion(text))) as (url, _):
        assert JudgeScorer(url, **FAST).score([image(1)], [PROMPT]) == [score]


@pytest.mark.parametrize(
    "content",
    [completion("I see shapes."), completion(""), completion(None), {"choices": []}, {"error": "?"}, "<html>", "[1]"],
)
def test_a_garbled_answer_is_a_failure_and_not_a_number(content):
    with endpoint(always(200, content)) as (url, _):
        judge = JudgeScorer(url, **FAST)
        assert judge.score([image(1)], [PROMPT]) == [None]
        assert "the judge" in judge.last_error


def test_a_dead_judge_is_a_failure_and_stops_the_run_with_its_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    judge = JudgeScorer(url, retries=1, **FAST)
    assert judge.score([image(1)], [PROMPT]) == [None]
    with pytest.raises(ScorerUnavailable, match=f"{url}.*Connection refused.*Start it"):
        judge.check()
    hub = RewardHub([{"name": "mllm", "kind": "judge", "base_url": url, "retries": 0}], retries=0, min_images=2)
    with pytest.raises(TooManyFailures, match="'mllm' failed on 2 of its last 2 .*Connection refused"):
        hub.score([image(1), image(2)], [PROMPT, PROMPT])


def test_a_slow_judge_is_given_up_after_the_timeout():
    with endpoint(always(200, completion("yes"), wait=3.0)) as (url, requests):
        judge = JudgeScorer(url, timeout=0.2, retries=1, backoff=0.01)
        start = time.monotonic()
        assert judge.score([image(1)], [PROMPT]) == [None]
        assert time.monotonic() - start < 2
        assert len(requests) == 2
        assert "no answer within 0.2 s" in judge.last_error


def test_an_overloaded_judge_is_asked_again():
    busy_twice = lambda number, body: (503, "busy", 0.0) if number <= 2 else (200, completion("yes"), 0.0)  # noqa: E731
    with endpoint(busy_twice) as (url, requests):
        assert JudgeScorer(url, retries=2, **FAST).score([image(1)], [PROMPT]) == [1.0]
        assert len(requests) == 3


def test_a_bad_request_is_not_repeated():
    with endpoint(always(400, "too large")) as (url, requests):
        judge = JudgeScorer(url, retries=3, **FAST)
        assert judge.score([image(1)], [PROMPT]) == [None]
        assert len(requests) == 1
        assert "HTTP 400: too large" in judge.last_error


def test_a_refused_key_stops_at_once():
    with endpoint(always(401, "bad key")) as (url, _), pytest.raises(ScorerUnavailable, match="refuses.*401"):
        JudgeScorer(url, **FAST).score([image(1)], [PROMPT])


def test_the_request_carries_question_and_pixels_and_nothing_else():
    with endpoint(always(200, completion("yes"))) as (url, requests):
        JudgeScorer(url, model="m", **FAST).score([image(77)], [PROMPT])
        path, body, _ = requests[0]
    assert path == "/v1/chat/completions"
    assert body.keys() == {"model", "messages", "temperature", "max_tokens", "logprobs", "top_logprobs"}
    assert body["temperature"] == 0
    parts = body["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "text"]
    assert parts[1]["text"] == 'Does this image show "a photo of two red circles"? Answer yes or no.'
    assert brightness_of(body) == 77
    assert "secret-id" not in str(body) and "the answer" not in str(body)


def test_answers_belong_to_their_images_whatever_order_they_come_in():
    def reply(number, body):
        level = brightness_of(body)
        top = {"yes": math.log(level / 255), "no": math.log(1 - level / 255)}
        return 200, completion("yes", top), (200 - level) / 1000

    levels = [10, 200, 60, 120]
    with endpoint(reply) as (url, _):
        scores = JudgeScorer(url, **FAST).score([image(level) for level in levels], [PROMPT] * 4)
    assert scores == pytest.approx([level / 255 for level in levels])


def test_equal_questions_are_asked_once_and_failures_again():
    first_fails = lambda number, body: (400, "no", 0.0) if number == 1 else (200, completion("yes"), 0.0)  # noqa: E731
    with endpoint(first_fails) as (url, requests):
        judge = JudgeScorer(url, **FAST)
        assert judge.score([image(1), image(1)], [PROMPT] * 2) == [None, None]
        assert judge.score([image(1), image(1)], [PROMPT] * 2) == [1.0, 1.0]
        assert judge.score([image(1)], [PROMPT]) == [1.0]
        assert len(requests) == 2
        judge.score([image(1)], [Prompt("q", "a photo of a bar")])
        judge.score([image(2)], [PROMPT])
        assert len(requests) == 4, "another question and another image are not in the cache"


def test_the_cache_is_bounded():
    with endpoint(always(200, completion("yes"))) as (url, requests):
        judge = JudgeScorer(url, cache_size=1, **FAST)
        for level in (1, 2, 1):
            judge.score([image(level)], [PROMPT])
        assert len(requests) == 3
        assert len(judge.client.cache) == 1


def test_no_more_calls_at_once_than_allowed():
    busy, peak = [], []

    def reply(number, body):
        busy.append(number)
        peak.append(len(busy))
        time.sleep(0.05)
        busy.pop()
        return 200, completion("yes"), 0.0

    with endpoint(reply) as (url, _):
        JudgeScorer(url, concurrency=2, **FAST).score([image(level) for level in range(8)], [PROMPT] * 8)
    assert max(peak) == 2


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(monkeypatch):
    monkeypatch.setenv("MY_JUDGE_KEY", "sk-very-secret")
    with endpoint(always(500, "broken")) as (url, requests):
        judge = JudgeScorer(url, api_key_env="MY_JUDGE_KEY", retries=0, **FAST)
        assert judge.score([image(1)], [PROMPT]) == [None]
        assert requests[0][2]["Authorization"] == "Bearer sk-very-secret"
        assert "very-secret" not in judge.last_error
        assert "very-secret" not in str(vars(judge)) + str(vars(judge.client)) + repr(vars(judge.client.endpoint))
    monkeypatch.delenv("MY_JUDGE_KEY")
    with pytest.raises(ScorerUnavailable, match=r"\$MY_JUDGE_KEY, which is not set"):
        JudgeScorer(url, api_key_env="MY_JUDGE_KEY")


def test_a_liking_for_the_first_position_cancels():
    """This server always says 1 with .9: asked in both orders, neither image is preferred."""
    with endpoint(always(200, completion("1", {"1": math.log(0.9), "2": math.log(0.1)}))) as (url, _):
        [preference] = JudgeScorer(url, **FAST).prefer([PROMPT], [image(1)], [image(2)])
    assert preference.first == 0.5


def test_a_preference_is_about_the_first_image_in_both_orders():
    def brighter(number, body):
        return 200, completion("1" if brightness_of(body, 0) > brightness_of(body, 1) else "2"), 0.0

    with endpoint(brighter) as (url, _):
        better, worse = JudgeScorer(url, **FAST).prefer([PROMPT] * 2, [image(9), image(1)], [image(1), image(9)])
    assert (better.first, worse.first) == (1.0, 0.0)


@pytest.mark.parametrize(("in_order", "swapped", "first"), [
    (0.9, 0.6, 1.0), (0.4, 0.1, 0.0), (0.9, 0.2, 0.5), (0.2, 0.9, 0.5), (0.9, 0.5, 0.5), (0.5, 0.5, 0.5),
])  # fmt: skip
def test_only_an_answer_that_holds_in_both_orders_is_no_tie(in_order, swapped, first):
    assert Preference(in_order, swapped).first == first


def test_a_preference_with_one_failed_order_is_none():
    once = lambda number, body: (200, completion("1"), 0.0) if number == 1 else (400, "no", 0.0)  # noqa: E731
    with endpoint(once) as (url, _):
        assert JudgeScorer(url, concurrency=1, **FAST).prefer([PROMPT], [image(1)], [image(2)]) == [None]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "localhost:80"}, "http://"),
        ({"base_url": "http://host:port/v1"}, "is no address"),
        ({"base_url": "http://user:sk-secret@host/v1"}, "put the key into api_key_env"),
        ({"base_url": "http://host/v1?key=sk-secret"}, "put the key into api_key_env"),
        ({"question": "Is it good?"}, "lacks {prompt}"),
        ({"timeout": 0}, "timeout 0"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message) as refusal:
        JudgeScorer(**{"base_url": "http://127.0.0.1:1/v1"} | settings)
    assert "sk-secret" not in str(refusal.value)


def test_a_proxy_in_the_environment_is_not_asked_for_a_judge_on_this_machine(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with endpoint(always(200, completion("yes"))) as (url, _):
        assert JudgeScorer(url, retries=0, **FAST).score([image(1)], [PROMPT]) == [1.0]


def test_a_judge_without_log_probabilities_is_asked_again_without_and_remembered(caplog):
    """It answered 400 to every question, and every score failed."""

    def reply(number, body):
        return (400, "unknown field: logprobs", 0.0) if "logprobs" in body else (200, completion("Yes"), 0.0)

    with endpoint(reply) as (url, requests):
        judge = JudgeScorer(url, concurrency=1, **FAST)
        assert judge.score([image(1), image(2), image(3)], [PROMPT] * 3) == [1.0, 1.0, 1.0]
        assert len(requests) == 4
    assert len(caplog.messages) == 1
    said = "without logprobs, top_logprobs: its scores are 1 or 0, or whole grades (unknown field: logprobs)"
    assert said in caplog.text


def test_a_judge_that_counts_completion_tokens_gets_its_own_field():
    def reply(number, body):
        wrong = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        return (400, wrong, 0.0) if "max_tokens" in body else (200, completion("Yes"), 0.0)

    with endpoint(reply) as (url, requests):
        assert JudgeScorer(url, max_tokens=9, **FAST).score([image(1)], [PROMPT]) == [1.0]
        assert requests[1][1]["max_completion_tokens"] == 9 and "max_tokens" not in requests[1][1]


def test_a_field_whose_absence_does_not_help_is_kept():
    """The refusal quotes the request and so names fields that are not to blame."""
    blind = lambda number, body: (400, f"no images here: {sorted(body)}", 0.0)  # noqa: E731
    with endpoint(blind) as (url, requests):
        judge = JudgeScorer(url, **FAST)
        assert judge.score([image(1)], [PROMPT]) == [None]
        assert "logprobs" in judge.client.fields and "temperature" in judge.client.fields
        assert len(requests) == 3


def test_fields_and_headers_of_the_recipe_are_sent():
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    with endpoint(always(200, completion("yes"))) as (url, requests):
        judge = JudgeScorer(url, logprobs=False, extra_body=extra, headers={"X-Team": "7"}, **FAST)
        assert judge.score([image(1)], [PROMPT]) == [1.0]
        _, body, headers = requests[0]
    assert body["chat_template_kwargs"] == {"enable_thinking": False} and headers["X-Team"] == "7"
    assert "logprobs" not in body and "top_logprobs" not in body


def test_a_server_that_asks_for_patience_gets_it():
    def busy(number, body):
        return (429, "busy", 0.0, {"Retry-After": "1"}) if number == 1 else (200, completion("yes"), 0.0)

    with endpoint(busy) as (url, requests):
        start = time.monotonic()
        assert JudgeScorer(url, **FAST).score([image(1)], [PROMPT]) == [1.0]
        assert time.monotonic() - start >= 1


def test_a_server_that_asks_for_too_much_patience_has_failed():
    with endpoint(lambda number, body: (503, "busy", 0.0, {"Retry-After": "3600"})) as (url, requests):
        judge = JudgeScorer(url, **FAST)
        assert judge.score([image(1)], [PROMPT]) == [None]
        assert len(requests) == 1 and "asks to wait 3600 s" in judge.last_error


def test_a_redirect_stops_the_run_and_says_where_to():
    redirect = lambda number, body: (308, "", 0.0, {"Location": "https://elsewhere/v1"})  # noqa: E731
    says = "redirects to 'https://elsewhere/v1': set base_url"
    with endpoint(redirect) as (url, _), pytest.raises(ScorerUnavailable, match=says):
        JudgeScorer(url, **FAST).score([image(1)], [PROMPT])


@pytest.mark.parametrize("status", [200, 400, 401])
def test_a_key_that_the_server_echoes_is_in_no_message(monkeypatch, status):
    monkeypatch.setenv("ODD_NAME", "blue-horse-7")
    with endpoint(always(status, "x" * 195 + "blue-horse-7")) as (url, _):
        judge = JudgeScorer(url, api_key_env="ODD_NAME", **FAST)
        try:
            assert judge.score([image(1)], [PROMPT]) == [None]
            said = judge.last_error
        except ScorerUnavailable as refusal:
            said = str(refusal)
    assert "blue" not in said


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "9" * 5000, '{"choices": NaN}', '{"choices": 1e999}', "\x00", "\ufeff{}"]
)
def test_an_answer_that_crashes_parsers_is_a_failure(text):
    with endpoint(always(200, text)) as (url, _):
        assert JudgeScorer(url, **FAST).score([image(1)], [PROMPT]) == [None]


@pytest.mark.parametrize(
    "settings", [{"timeout": math.nan}, {"backoff": math.inf}, {"max_tokens": 0}, {"extra_body": {"stream": True}}]
)
def test_settings_that_no_judge_can_have_are_refused(settings):
    with pytest.raises(ValueError, match="judge"):
        JudgeScorer("http://127.0.0.1:1/v1", **settings)


def test_a_grade_is_the_expected_number_divided_by_ten_for_images_reflections_and_edits():
    top = {"8": math.log(0.6), "9": math.log(0.2), "7": math.log(0.2)}
    with endpoint(always(200, completion("8", top))) as (url, requests):
        judge = JudgeScorer(url, answer="grade", **FAST)
        judge.check()
        assert judge.score([image(1)], [PROMPT]) == [pytest.approx(0.8)]
        assert judge.score_reflections([image(1)], [PROMPT], ["it is red"]) == [pytest.approx(0.8)]
        assert judge.score_edits([image(1)], ["make it red"], [image(2)], [PROMPT]) == [pytest.approx(0.8)]
    bodies = [body for _, body, _ in requests]
    assert {body["top_logprobs"] for body in bodies} == {20}
    asked = [body["messages"][0]["content"][-1]["text"] for body in bodies]
    assert all("from 0 to 10" in text for text in asked) and "two red circles" in asked[1]
    assert '"it is red"' in asked[2] and '"make it red"' in asked[3]


def test_a_grade_in_words_is_a_failure_with_its_reason():
    with endpoint(always(200, completion("about 7 or 8"))) as (url, _):
        judge = JudgeScorer(url, answer="grade", **FAST)
        assert judge.score([image(1)], [PROMPT]) == [None]
        assert "where a whole number from 0 to 10 alone was asked for" in judge.last_error


def test_a_server_with_few_alternatives_is_asked_for_few():
    def reply(number, body):
        many = body.get("top_logprobs", 0) > 5
        return (400, "top_logprobs must be at most 5", 0.0) if many else (200, completion("8", {"8": 0.0}), 0.0)

    with endpoint(reply) as (url, requests):
        judge = JudgeScorer(url, answer="grade", **FAST)
        assert judge.score([image(1)], [PROMPT]) == [0.8]
        assert judge.score([image(2)], [PROMPT]) == [0.8]
        assert [body["top_logprobs"] for _, body, _ in requests] == [20, 5, 5]


def test_answers_on_disk_are_those_of_the_question_the_images_the_model_and_the_form(tmp_path):
    with endpoint(always(200, completion("yes"))) as (url, requests):
        kept = {"cache_folder": str(tmp_path), "model": "m", **FAST}
        JudgeScorer(url, **kept).check()
        assert JudgeScorer(url, **kept).score([image(1)], [PROMPT]) == [1.0]
        assert JudgeScorer(url, **kept).score([image(1)], [PROMPT]) == [1.0]
        assert len(requests) == 2
        for other in ({"model": "n"}, {"question": "{prompt}? Answer yes or no."}, {"max_tokens": 9}):
            JudgeScorer(url, **kept | other).score([image(1)], [PROMPT])
        JudgeScorer(url, **kept).score([image(2)], [PROMPT])
        assert JudgeScorer(url, answer="grade", question="{prompt}?", **kept).score([image(1)], [PROMPT]) == [None]
        assert len(requests) == 7
    dead = JudgeScorer(url, retries=0, **kept)
    with pytest.raises(ScorerUnavailable, match="Connection refused"):
        dead.check()
    assert dead.score([image(1), image(3)], [PROMPT] * 2) == [1.0, None]


def test_failures_are_not_kept_on_disk(tmp_path):
    first_fails = lambda number, body: (200, completion("hm" if number == 1 else "no"), 0.0)  # noqa: E731
    with endpoint(first_fails) as (url, requests):
        for score in (None, 0.0, 0.0):
            judge = JudgeScorer(url, model="m", cache_folder=str(tmp_path), **FAST)
            assert judge.score([image(1)], [PROMPT]) == [score]
        assert len(requests) == 2


def test_a_cache_on_disk_needs_a_named_model(tmp_path):
    with pytest.raises(ValueError, match="cache_folder: name the judge's `model`"):
        JudgeScorer("http://127.0.0.1:1/v1", cache_folder=str(tmp_path))


def test_a_dead_judge_is_left_in_peace_and_the_others_are_asked_after_a_while():
    dead_at_first = lambda number, body: (503, "busy", 0.0) if number <= 3 else (200, completion("yes"), 0.0)  # noqa: E731
    settings = {"retries": 0, "concurrency": 1, "breaker_after": 3, "breaker_pause": 0.3, **FAST}
    with endpoint(dead_at_first) as (url, requests):
        judge = JudgeScorer(url, **settings)
        began = time.monotonic()
        assert judge.score([image(level) for level in range(6)], [PROMPT] * 6) == [None] * 3 + [1.0] * 3
        assert len(requests) == 6 and time.monotonic() - began > 0.25, "the fourth had to wait"


def test_a_judge_that_stays_dead_fails_those_that_wait_together():
    with endpoint(always(503, "busy")) as (url, requests):
        judge = JudgeScorer(url, retries=0, concurrency=4, breaker_after=4, breaker_pause=0.3, **FAST)
        assert judge.score([image(level) for level in range(12)], [PROMPT] * 12) == [None] * 12
        assert len(requests) < 12, "not all were asked"


def test_refusals_are_answers_and_do_not_open_the_breaker():
    with endpoint(always(400, "too large")) as (url, requests):
        judge = JudgeScorer(url, concurrency=1, breaker_after=2, **FAST)
        assert judge.score([image(level) for level in range(5)], [PROMPT] * 5) == [None] * 5
        assert len(requests) == 5


def test_pauses_grow_and_are_spread_but_never_shorter_than_the_server_asks():
    patience = Patience(retries=2, backoff=1.0, jitter=0.5)
    asked = ((0, None), (1, None), (0, 7.0))
    pauses = [[patience.pause(*one) for _ in range(200)] for one in asked]
    for own, shortest in zip(pauses, (1.0, 2.0, 7.0)):
        assert shortest <= min(own) and max(own) <= 1.5 * shortest and max(own) - min(own) > 0.3 * shortest
    assert Patience(retries=2, backoff=1.0, jitter=0.0).pause(2, None) == 4.0


@pytest.mark.parametrize("settings", [
    {"jitter": -1}, {"breaker_after": -1}, {"breaker_pause": math.inf}, {"top_logprobs": 21},
])  # fmt: skip
def test_settings_of_patience_are_checked(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        JudgeScorer("http://127.0.0.1:1/v1", **settings)


def test_a_recipe_s_options_are_checked_against_all_settings_of_a_judge():
    spec = {"name": "j", "kind": "judge", "base_url": "http://127.0.0.1:1/v1"}
    for options, message in (
        ({"jiter": 1}, "has no option 'jiter'; did you mean 'jitter'"),
        ({"answer": "stars"}, "option answer"),
        ({"breaker_after": "many"}, "option breaker_after"),
    ):
        with pytest.raises(InputError, match=message):
            build_scorer(ScorerSpec.from_dict(spec | options))
