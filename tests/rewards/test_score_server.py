"""A scorer served over real HTTP, and the scorer `remote` that asks it."""

import base64
import io
import json
import socket
import subprocess
import sys
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image as PILImage

from irg_rl.config import parse_recipe
from irg_rl.driver.checks import machine_problems
from irg_rl.errors import InputError
from irg_rl.imports import child_path
from irg_rl.trajectory import Prompt
from rewards.base import ScorerUnavailable
from rewards.hub import RewardHub
from rewards.judge import to_png
from rewards.remote import REQUEST_PIXELS, RemoteScorer, batches, parse_scores
from rewards.score_server import PATH, ScoreServer, ServedAt, ServerLimits, to_line
from tests.rewards.scorers import Brightness, Comparing, Flaky, NotANumber, Wordy
from tests.rewards.servers import endpoint

TOKEN = "sesame-0123456789"
SMALL = ServerLimits(mib=1, items=3, megapixels=1, waiting=1)
GREY, WHITE = (np.full((6, 5, 3), level, np.uint8) for level in (51, 255))
PROMPT = Prompt("p", "three cats", {"tag": "counting"})


@pytest.fixture(scope="module")
def wordy():
    with ScoreServer(Wordy("wordy")) as server:
        yield server


@pytest.fixture
def guarded(monkeypatch):
    monkeypatch.setenv("SERVE_TOKEN", TOKEN)
    with ScoreServer(Brightness("b"), ServedAt(token_env="SERVE_TOKEN", limits=SMALL)) as server:
        yield server


def url_of(image=GREY, kind="png"):
    data = image if isinstance(image, bytes) else to_png(image)
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def post(server, token=TOKEN, path="/score", **fields):
    body = {"form": "image", "prompts": [{"id": "p", "text": "cats"}], "images": [url_of()]} | fields
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.post(server.base_url + path, json=body, headers=headers, timeout=10)


def message(answer):
    return answer.json()["error"]["message"]


def test_all_forms_give_the_scores_of_the_scorer_itself(wordy):
    remote, own = RemoteScorer(wordy.base_url, batch_size=2), Wordy("own")
    images, prompts, texts = [GREY, WHITE, GREY], [PROMPT] * 3, ["a", "bb", "ccc"]
    remote.check()
    assert remote.score(images, prompts) == own.score(images, prompts)
    assert remote.score_reflections(images, prompts, texts) == own.score_reflections(images, prompts, texts)
    after = [WHITE, GREY, GREY]
    assert remote.score_edits(images, texts, after, prompts) == own.score_edits(images, texts, after, prompts)


def test_requests_hold_a_bounded_number_of_items_and_pixels():
    half = REQUEST_PIXELS // 2
    assert batches([1] * 5, 2) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert batches([half, half, 1, 3 * half, 1], 9) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]
    assert batches([], 2) == []


def test_the_scorer_sees_prompt_and_metadata():
    class Nosy(Brightness):
        def score(self, images, prompts):
            self.seen = prompts
            return super().score(images, prompts)

    scorer = Nosy("nosy")
    with ScoreServer(scorer) as server:
        RemoteScorer(server.base_url).score([GREY], [PROMPT])
    assert scorer.seen == [PROMPT]


def test_a_failed_score_comes_back_as_a_failure_with_its_reason():
    black = np.zeros((4, 4, 3), np.uint8)
    with ScoreServer(Flaky("flaky", failures=0)) as server:
        remote = RemoteScorer(server.base_url)
        assert remote.score([black, WHITE], [PROMPT] * 2) == [None, 1.0]
        assert remote.last_error == "the flaky scorer blinked"
    with ScoreServer(NotANumber("nan")) as server:
        remote = RemoteScorer(server.base_url)
        assert remote.score([WHITE], [PROMPT]) == [None] and "nan is not a finite number" in remote.last_error


def test_a_form_that_the_scorer_does_not_have_stops_the_run(guarded):
    remote = RemoteScorer(guarded.base_url, api_key_env="SERVE_TOKEN")
    with pytest.raises(ScorerUnavailable, match="scores image, not reflection"):
        remote.score_reflections([GREY], [PROMPT], ["true"])


def test_check_wants_the_form_of_the_run(wordy, guarded):
    for form in ("image", "reflection", "edit"):
        RemoteScorer(wordy.base_url, of=form).check()
    RemoteScorer(guarded.base_url, api_key_env="SERVE_TOKEN", of="image").check()
    with pytest.raises(ScorerUnavailable, match="scores image, not edit: serve another scorer, or correct `of`"):
        RemoteScorer(guarded.base_url, api_key_env="SERVE_TOKEN", of="edit").check()


@pytest.mark.parametrize("content", [{"forms": "image"}, {"forms": [1]}, {"scores": []}, [], None])
def test_a_check_that_lists_no_forms_in_the_right_way_fails(content):
    served = endpoint(lambda n, body: (200, json.dumps(content), 0))
    with served as (url, _), pytest.raises(ScorerUnavailable, match="needs a list of texts, `forms`"):
        RemoteScorer(url, retries=0).check()


def test_a_scorer_of_groups_alone_is_not_served():
    with pytest.raises(ScorerUnavailable, match="'c' cannot be served: it scores neither images nor"):
        ScoreServer(Comparing("c"))


@pytest.mark.parametrize("length", ["9" * 19, "9" * 5000, "1" + "0" * 17])
def test_a_length_of_very_many_digits_is_refused(guarded, length):
    host, port = "127.0.0.1", guarded.listener.server_port
    with socket.create_connection((host, port), timeout=10) as client:
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {length}\r\n\r\n"
        client.sendall(head.encode())
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 413 ") and b"at most 1048576 are read" in answer
    assert post(guarded).status_code == 200


def test_a_wrong_token_is_refused_before_the_body_is_read(guarded, monkeypatch):
    for token in ("", "another-0123456789", TOKEN + "x"):
        assert post(guarded, token).status_code == 401
    assert post(guarded).json()["scores"] == [pytest.approx(0.2)]
    monkeypatch.setenv("SERVE_TOKEN", "forgotten-012345")
    with pytest.raises(ScorerUnavailable, match="token is missing or wrong"):
        RemoteScorer(guarded.base_url, api_key_env="SERVE_TOKEN").check()


def test_only_this_machine_is_served_without_a_token(monkeypatch):
    with pytest.raises(InputError, match="--token-env"):
        ServedAt(host="0.0.0.0")
    monkeypatch.delenv("NO_TOKEN", raising=False)
    with pytest.raises(ScorerUnavailable, match=r"\$NO_TOKEN, which is not set"):
        ScoreServer(Brightness("b"), ServedAt(token_env="NO_TOKEN"))


def bomb(side=30_000):
    """A PNG of a few kilobytes that says it has `side` x `side` pixels."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    pixels = chunk(b"IDAT", zlib.compress(bytes(10**6)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


def bmp():
    buffer = io.BytesIO()
    PILImage.new("RGB", (8, 8)).save(buffer, format="BMP")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"images": [url_of(bomb())]}, 400, "cannot be decoded"),
        ({"images": [url_of(bomb(5000))]}, 413, "at most 2048 per side"),
        ({"images": [url_of(to_png(np.zeros((64, 64, 3), np.uint8))[:-30])]}, 400, "cannot be decoded"),
        ({"images": [url_of(b"no picture")]}, 400, "cannot be decoded"),
        ({"images": [url_of(bmp())]}, 400, "cannot be decoded"),
        ({"images": ["http://127.0.0.1/x.png"]}, 400, "only data:image"),
        ({"images": ["file:///etc/passwd"]}, 400, "only data:image"),
        ({"images": [url_of(np.zeros((1100, 1000, 3), np.uint8))]}, 413, "more than 1 million pixels"),
        ({"images": []}, 400, "0 entries for 1 prompts"),
        ({"images": [7]}, 400, "1 entries for 1 prompts"),
        ({"prompts": [{"id": "p", "text": "cats"}] * 4, "images": [url_of()] * 4}, 413, "at most 3"),
        ({"prompts": [{"id": "p"}]}, 400, "not a request for scores"),
        ({"prompts": [{"id": "p", "text": "cats", "metadata": [1]}]}, 400, "not a request for scores"),
        ({"prompts": 7}, 400, "not a request for scores"),
        ({"form": "video"}, 404, "form 'video'"),
        ({"form": ["image"]}, 400, "not a request for scores"),
        ({"padding": "x" * 2**20}, 413, "at most 1048576 are read"),
    ],
)
def test_what_the_server_does_not_take_is_refused_with_the_reason(guarded, fields, status, words):
    answer = post(guarded, **fields)
    assert (answer.status_code, words in message(answer)) == (status, True), answer.text
    assert post(guarded).status_code == 200, "it goes on serving"


@pytest.mark.parametrize("body", ["[" * 100_000, "{", "null", "[]", '{"form": NaN}', "\ufeff{}", '"x"'])
def test_a_body_that_crashes_parsers_is_answered_with_400(guarded, body):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = httpx.post(guarded.base_url + "/score", content=body.encode(), headers=headers, timeout=10)
    assert answer.status_code == 400 and message(answer)


def test_a_full_server_asks_to_come_back(guarded):
    assert guarded.listener.places.acquire(blocking=False)
    answer = post(guarded)
    assert answer.status_code == 503 and answer.headers["Retry-After"] == "1"
    guarded.listener.places.release()
    assert post(guarded).status_code == 200


def test_other_paths_are_not_there(guarded):
    root = guarded.base_url.removesuffix("/v1")
    assert httpx.get(root + "/health").json() == {"status": "ok"}
    assert httpx.get(root + PATH).status_code == 404
    assert post(guarded, path="/else").status_code == 404


def test_a_busy_port_is_one_clear_line(guarded):
    port = guarded.listener.server_port
    with pytest.raises(ScorerUnavailable, match=f"'b' cannot listen: port {port} of 127.0.0.1 is already in use"):
        ScoreServer(Brightness("b"), ServedAt(port=port))


@pytest.mark.parametrize(
    "content",
    [
        {"scores": [1.0]}, {"scores": [1.0, 2.0], "errors": [None]}, [1.0], {"scores": ["1"], "errors": [None]},
        {"scores": [True], "errors": [None]}, {"scores": 1.0, "errors": []}, None,
    ],
)  # fmt: skip
def test_an_answer_in_another_form_is_never_a_number(content):
    with pytest.raises(InputError, match="the answer"):
        parse_scores(content)
    with endpoint(lambda n, body: (200, json.dumps(content), 0)) as (url, _):
        remote = RemoteScorer(url)
        assert remote.score([GREY], [PROMPT]) == [None] and "the answer" in remote.last_error


def test_a_server_that_is_overloaded_is_asked_again():
    replies = [(503, {"error": "busy"}, 0), (200, {"scores": [0.5], "errors": [None]}, 0)]
    with endpoint(lambda n, body: replies[n - 1]) as (url, requests):
        assert RemoteScorer(url, backoff=0.01).score([GREY], [PROMPT]) == [0.5]
        assert len(requests) == 2


def test_a_server_that_is_not_there_is_found_by_check_and_fails_every_score():
    remote = RemoteScorer("http://127.0.0.1:9/v1", retries=1, backoff=0.01)
    with pytest.raises(ScorerUnavailable, match="irg-rl reward serve"):
        remote.check()
    assert remote.score([GREY], [PROMPT]) == [None] and "Connection refused" in remote.last_error


def test_a_token_is_not_sent_over_plain_http_to_another_machine(monkeypatch):
    monkeypatch.setenv("SERVE_TOKEN", TOKEN)
    with pytest.raises(InputError, match="plain http"):
        RemoteScorer("http://gpu7:8100/v1", api_key_env="SERVE_TOKEN")


def test_a_recipe_names_it_and_check_finds_a_dead_one(wordy, recipe):
    scorer = {"name": "r", "kind": "remote", "base_url": wordy.base_url}
    with pytest.raises(ValueError, match="base_url: a remote scorer needs the address"):
        parse_recipe({**recipe.model_dump(mode="json"), "rewards": {"scorers": [{"name": "r", "kind": "remote"}]}})
    made = parse_recipe({**recipe.model_dump(mode="json"), "rewards": {"scorers": [scorer]}})
    assert not [problem for problem in machine_problems(made) if "rewards" in problem]
    dead = parse_recipe({
        **recipe.model_dump(mode="json"),
        "rewards": {"scorers": [scorer | {"base_url": "http://127.0.0.1:9/v1"}]},
    })  # fmt: skip
    assert ["Connection refused" in p for p in machine_problems(dead) if "rewards.scorers: r" in p] == [True]


def test_check_of_a_recipe_finds_a_server_without_its_form(guarded, recipe):
    served = {"kind": "remote", "base_url": guarded.base_url, "api_key_env": "SERVE_TOKEN", "held_out": True}
    scorers = [{"name": "v", "kind": "verifier"}, {"name": "r", "of": "edit", **served}]
    made = parse_recipe({**recipe.model_dump(mode="json"), "rewards": {"scorers": scorers}})
    assert ["scores image, not edit" in p for p in machine_problems(made) if "rewards.scorers: r" in p] == [True]


def test_a_process_of_its_own_serves_it_and_needs_no_transformers_ray_or_deepspeed():
    code = (
        "import sys; from rewards.score_server import main\n"
        "assert not {'transformers', 'ray', 'deepspeed', 'trl', 'diffusers'} & set(sys.modules)\nsys.exit(main())"
    )
    spec = {"name": "b", "kind": "tests.rewards.scorers:Brightness"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={"PYTHONPATH": child_path(), "PATH": "/usr/bin"},
    )  # fmt: skip
    process.stdin.write(to_line(spec, ServedAt()))
    process.stdin.flush()
    base_url = json.loads(process.stdout.readline())["base_url"]
    hub = RewardHub([{"name": "b", "kind": "remote", "base_url": base_url}])
    assert hub.score([WHITE], [PROMPT]) == {"b": [1.0]}
    process.stdin.close()
    assert process.wait(timeout=20) == 0
    process.stdout.close()
