"""One HTTP endpoint against real servers: deadlines, sizes, redirects, secrets, proxies."""

import socket
import threading
import time

import pytest

from irg_rl.errors import InputError
from rewards.base import ScorerUnavailable
from rewards.endpoint import MOST_BYTES, Endpoint, NoAnswer
from tests.rewards.servers import endpoint

KEY = "not-to-be-seen-42"


def test_the_timeout_bounds_the_whole_answer():
    """A body that drips took 12 s at timeout 1: the limit held for each piece alone."""
    with endpoint(lambda number, body: (200, [(0.2, "x")] * 20, 0.0)) as (url, _):
        start = time.monotonic()
        with pytest.raises(NoAnswer, match="no answer within 0.5 s"):
            Endpoint(url, timeout=0.5).post({})
        assert time.monotonic() - start < 1.5


def test_the_timeout_bounds_headers_that_drip():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip():
            link, _ = listener.accept()
            with link:
                link.sendall(b"HTTP/1.1 200 OK\r\n")
                for _ in range(40):
                    time.sleep(0.1)
                    try:
                        link.sendall(b"X: y\r\n")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        start = time.monotonic()
        with pytest.raises(NoAnswer, match="no answer within 0.5 s"):
            Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.5).post({})
        assert time.monotonic() - start < 1.5
        thread.join(timeout=10)


def test_an_endless_answer_is_cut_off():
    piece = "x" * 2**20
    endless = lambda number, body: (200, [(0.0, piece)] * (MOST_BYTES // 2**20 + 2), 0.0)  # noqa: E731
    with endpoint(endless) as (url, _), pytest.raises(NoAnswer, match="more than 16777216 bytes"):
        Endpoint(url, timeout=60).post({})


def test_a_redirect_is_not_followed(monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    with endpoint(lambda number, body: (200, "caught", 0.0)) as (other, caught):
        redirect = lambda number, body: (307, "", 0.0, {"Location": other})  # noqa: E731
        with endpoint(redirect) as (url, _):
            reply = Endpoint(url, timeout=5, api_key_env="MY_KEY").post({})
        assert (reply.status, reply.location, caught) == (307, other, [])


@pytest.mark.parametrize("key", [f"{KEY}\nX: y", f"{KEY}é", f"{KEY} and more", "\x00" * 5])
def test_a_key_that_no_header_may_hold_is_refused_without_showing_it(monkeypatch, key):
    if "\0" in key:
        key = f"{KEY}\x01"
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(ScorerUnavailable, match=r"\$MY_KEY holds white space") as refusal:
        Endpoint("https://host/v1", timeout=5, api_key_env="MY_KEY")
    assert KEY not in str(refusal.value)


def test_white_space_around_a_key_is_taken_off(monkeypatch):
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    with endpoint(lambda number, body: (200, "", 0.0)) as (url, requests):
        Endpoint(url, timeout=5, api_key_env="MY_KEY").post({})
    assert requests[0][2]["Authorization"] == f"Bearer {KEY}"


def test_a_key_in_place_of_the_name_of_its_variable_is_not_shown():
    with pytest.raises(InputError, match="the name of an environment variable") as refusal:
        Endpoint("https://host/v1", timeout=5, api_key_env=KEY)
    assert KEY not in str(refusal.value)


@pytest.mark.parametrize("how", ["{key}", 'a "{key}" b', "%7B{key}%7D", "\\/{key}"])
def test_a_server_that_echoes_the_key_is_quoted_without_it(monkeypatch, how):
    monkeypatch.setenv("MY_KEY", KEY)
    with endpoint(lambda number, body: (400, "x" * 190 + how.format(key=KEY), 0.0)) as (url, _):
        shown = Endpoint(url, timeout=5, api_key_env="MY_KEY").post({}).shown
    assert "***" in shown and "not-to" not in shown


@pytest.mark.parametrize(
    "url", ["https://judge.example/v1", "http://127.0.0.1:1/v1", "http://[::1]:1/v1", "http://localhost/v1"]
)
def test_a_key_goes_over_https_or_stays_on_this_machine(monkeypatch, url):
    monkeypatch.setenv("MY_KEY", KEY)
    Endpoint(url, timeout=5, api_key_env="MY_KEY")


def test_a_key_goes_over_plain_http_only_to_the_host_that_is_named(monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    for allowed in ("", "gpu8"):
        with pytest.raises(InputError, match=r"\$MY_KEY would travel to gpu7 over plain http.*key_over_http: gpu7"):
            Endpoint("http://gpu7:8000/v1", timeout=5, api_key_env="MY_KEY", key_over_http=allowed)
    Endpoint("http://gpu7:8000/v1", timeout=5, api_key_env="MY_KEY", key_over_http="gpu7")
    Endpoint("http://gpu7:8000/v1", timeout=5)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SSL_CERT_FILE", "/nowhere.pem"), ("HTTPS_PROXY", "socks5://proxy:1080"), ("ALL_PROXY", "gopher://proxy")],
)
def test_a_variable_that_leaves_no_way_is_named(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ScorerUnavailable, match=f"no way to judge.example: {variable} is '{value}'"):
        Endpoint("https://judge.example/v1", timeout=5)


def test_brackets_in_no_proxy_are_no_obstacle(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "[::1],localhost")
    Endpoint("http://gpu7:8000/v1", timeout=5)


def test_it_asks_through_the_proxy_of_the_environment(monkeypatch):
    with endpoint(lambda number, body: (200, "from the proxy", 0.0)) as (url, requests):
        monkeypatch.setenv("HTTP_PROXY", url.removesuffix("/v1").removeprefix("http://"))
        assert Endpoint("http://judge.example/v1", timeout=5).post({}).text == "from the proxy"
    assert requests[0][0] == "http://judge.example/v1"


def test_headers_of_the_recipe_are_sent():
    with endpoint(lambda number, body: (200, "", 0.0)) as (url, requests):
        Endpoint(url, timeout=5, headers={"X-Team": "seven"}).post({})
    assert requests[0][2]["X-Team"] == "seven"
    with pytest.raises(InputError, match="'X-Team' is no line of ASCII text"):
        Endpoint(url, timeout=5, headers={"X-Team": "a\nb"})
