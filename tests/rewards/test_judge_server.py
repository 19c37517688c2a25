"""The embedded judge over real HTTP: what it sees, what it answers, what it refuses."""

import base64
import io
import os
import random
import signal
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from PIL import Image as PILImage

from irg_rl.errors import InputError
from irg_rl.shapes_world.check import judge as verify
from irg_rl.shapes_world.following import following
from irg_rl.shapes_world.judge_mind import answer
from irg_rl.shapes_world.prompts import make_prompts
from irg_rl.shapes_world.reading import read
from irg_rl.shapes_world.render import render
from irg_rl.shapes_world.scenes import corrupt, sample_scene
from irg_rl.shapes_world.task import ShapesWorld
from irg_rl.shapes_world.teacher import reflect
from irg_rl.trajectory import Prompt
from rewards.base import ScorerUnavailable
from rewards.judge import JudgeScorer, to_png
from rewards.judge_process import JudgeProcess
from rewards.judge_server import MAX_BYTES, JudgeServer

MIND = ShapesWorld.mind


@pytest.fixture(scope="module")
def server():
    with JudgeServer(answer, seed=7) as running:
        yield running


@pytest.fixture(scope="module")
def drawn():
    """(prompts, right pictures, damaged pictures) of the world."""
    rng = random.Random(0)
    prompts = make_prompts(120, "train", seed=5)
    right = [sample_scene(prompt.metadata, rng) for prompt in prompts]
    wrong = [corrupt(s, p.metadata, rng, 1) for s, p in zip(right, prompts)]
    return prompts, [render(s) for s in right], [render(s) for s in wrong]


def ask(server, content, **extra):
    body = {"model": "m", "messages": [{"role": "user", "content": content}]} | extra
    return httpx.post(server.base_url + "/chat/completions", json=body, timeout=10)


def picture(data, kind="png"):
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"}}


def question(prompt="a red bar"):
    return {"type": "text", "text": f'Does this image show "{prompt}"? Answer yes or no.'}


def test_it_says_yes_to_right_pictures_and_less_to_damaged_ones(server, drawn):
    prompts, right, wrong = drawn
    judge = JudgeScorer(server.base_url)
    judge.check()
    good, bad = np.array(judge.score(right, prompts)), np.array(judge.score(wrong, prompts))
    assert good.min() > 0.5
    assert (good > bad).mean() > 0.97
    assert bad.mean() < 0.5


def test_its_certainty_follows_the_graded_score_with_some_noise(server, drawn):
    prompts, right, wrong = drawn
    scores = np.array(JudgeScorer(server.base_url).score(right + wrong, prompts * 2))
    graded = np.array([verify(read(image), p.metadata).score for image, p in zip(right + wrong, prompts * 2)])
    assert np.corrcoef(np.log(scores / (1 - scores)), graded)[0, 1] > 0.9
    of_right = scores[graded == 1]
    assert 0.001 < of_right.std() < 0.1, "a judge whose answers to right pictures are all equal has no noise"


def test_it_never_sees_the_metadata(server, drawn):
    prompts, right, _ = drawn
    bare = [Prompt("?", prompt.text) for prompt in prompts]
    judge = JudgeScorer(server.base_url)
    assert judge.score(right, bare) == judge.score(right, prompts)


def test_equal_questions_get_equal_answers_and_another_seed_another(drawn):
    prompts, right, _ = drawn
    scores = []
    for seed in (1, 1, 2):
        with JudgeServer(answer, seed=seed) as running:
            scores.append(JudgeScorer(running.base_url).score(right[:8], prompts[:8]))
    assert scores[0] == scores[1] != scores[2]


def test_it_prefers_the_right_picture_in_both_orders(server, drawn):
    prompts, right, wrong = drawn
    preferences = JudgeScorer(server.base_url).prefer(prompts, right, wrong)
    assert np.mean([p.first > 0.5 for p in preferences]) > 0.95
    same = JudgeScorer(server.base_url).prefer(prompts, right, right)
    assert [p.first for p in same] == pytest.approx([0.5] * len(same)), "its liking for position 1 cancels"
    assert all(p.first == 0.5 for p in same)


def test_a_picture_of_another_size_is_looked_at_all_the_same(server, drawn):
    prompts, right, _ = drawn
    large = [np.asarray(PILImage.fromarray(image).resize((128, 128), PILImage.NEAREST)) for image in right]
    assert min(JudgeScorer(server.base_url).score(large, prompts)) > 0.5


def test_a_question_it_does_not_understand_is_a_failure_at_the_client(server):
    judge = JudgeScorer(server.base_url)
    assert judge.score([np.zeros((32, 32, 3), np.uint8)], [Prompt("x", "a photo of a cat")]) == [None]
    assert "not sure what is asked" in judge.last_error


def test_health_and_models(server):
    root = server.base_url.removesuffix("/v1")
    assert httpx.get(root + "/health").json() == {"status": "ok"}
    assert httpx.get(server.base_url + "/models").json()["data"][0]["id"]
    assert httpx.get(root + "/else").status_code == 404


def test_the_answer_has_the_openai_form(server, drawn):
    content = [picture(to_png(drawn[1][0])), question(drawn[0][0].text)]
    choice = ask(server, content, logprobs=True, top_logprobs=2).json()["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "Yes"}
    token = choice["logprobs"]["content"][0]
    assert token["token"] == "Yes" and len(token["top_logprobs"]) == 2
    assert "logprobs" not in ask(server, content).json()["choices"][0]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ([question(), picture(b"not a picture")], 400),
        ([question(), {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}], 400),
        ([question(), {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}], 400),
        ([question(), *[picture(to_png(np.zeros((8, 8, 3), np.uint8)))] * 3], 400),
        ([picture(to_png(np.zeros((4, 4096, 3), np.uint8))), question()], 413),
        ([{"no": "type"}], 400),
        (17, 400),
    ],
)
def test_what_it_cannot_read_is_refused(server, content, status):
    assert ask(server, content).status_code == status


def test_it_decodes_only_png_and_jpeg(server):
    buffer = io.BytesIO()
    PILImage.new("RGB", (8, 8)).save(buffer, format="BMP")
    assert ask(server, [question(), picture(buffer.getvalue())]).status_code == 400


def test_an_oversized_request_is_refused_before_it_is_read(server):
    host, port = server.base_url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as link:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BYTES + 1}\r\n\r\n"
        link.sendall(head.encode())
        assert b" 413 " in link.recv(4096)


def test_a_busy_port_is_one_clear_line(server):
    port = int(server.base_url.removesuffix("/v1").rpartition(":")[2])
    with pytest.raises(ScorerUnavailable, match=f"port {port} of 127.0.0.1 is already in use; choose another"):
        JudgeServer(answer, port=port)
    with pytest.raises(ScorerUnavailable, match=f"port {port} of 127.0.0.1 is already in use; choose another"):
        JudgeProcess(MIND, port=port)


def test_a_mind_that_cannot_be_imported_is_one_clear_line():
    with pytest.raises(ScorerUnavailable, match="mind 'no.such:mind' cannot be imported"):
        JudgeProcess("no.such:mind")


def test_killing_the_owner_ends_the_process():
    code = (
        "import sys, time; from rewards.judge_process import JudgeProcess; judge = JudgeProcess(sys.argv[1]);"
        "sys.stdout.write(str(judge.process.pid) + chr(10)); sys.stdout.flush(); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, MIND], stdout=subprocess.PIPE, text=True)
    judge = int(owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    owner.wait(timeout=10)
    owner.stdout.close()
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and is_running(judge):
        time.sleep(0.05)
    assert not is_running(judge)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().split()[2] != "Z"


def test_a_judge_that_dies_in_the_middle_is_a_failure_and_not_a_number(drawn):
    prompts, right, _ = drawn
    with JudgeProcess(MIND) as process:
        judge = JudgeScorer(process.base_url, retries=0)
        assert judge.score(right[:1], prompts[:1])[0] > 0.5
        process.process.kill()
        process.process.wait(timeout=10)
        assert judge.score(right[1:2], prompts[1:2]) == [None]
        assert not process.alive


@pytest.mark.parametrize("body", [
    "[" * 100_000, "{", "9" * 5000, "\ufeff{}", '{"messages": NaN}', "null", '{"messages": [{"role": "user"}]}',
    '{"messages": [{"role": "user", "content": "x"}], "logprobs": true, "top_logprobs": 1e999}',
    '{"messages": [{"role": "user", "content": "x"}], "logprobs": true, "top_logprobs": [1]}',
])  # fmt: skip
def test_a_request_that_crashes_parsers_is_answered_with_400(server, body):
    """Some ended the connection with a traceback in the server's thread."""
    answer = httpx.post(server.base_url + "/chat/completions", content=body.encode(), timeout=10)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


@pytest.mark.parametrize("length", ["²", "-1", "1e3", "", "+7"])
def test_a_length_that_is_no_number_is_refused(server, length):
    host, port = server.base_url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as link:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        link.sendall(head.encode("latin-1"))
        assert b" 411 " in link.recv(4096)


def test_a_reflection_is_judged_by_the_image_alone_and_an_edit_by_both_images(server, drawn):
    prompts, right, wrong = (part[:24] for part in drawn)
    judge, rng = JudgeScorer(server.base_url), random.Random(1)
    texts = [reflect(read(image), prompt.metadata, rng)[0] for image, prompt in zip(wrong, prompts)]
    own = judge.score_reflections(wrong, prompts, texts)
    of_others = judge.score_reflections(wrong, prompts, [*texts[1:], texts[0]])
    assert min(own) > 0.8 and sorted(of_others)[12] < 0.5
    # the prompt is not asked for: another one changes nothing
    assert judge.score_reflections(wrong, [*prompts[1:], prompts[0]], texts) == own
    kept = judge.score_edits(wrong, texts, wrong, prompts)
    edited = [following(text, read(a), read(b)) for text, a, b in zip(texts, wrong, right)]
    done = judge.score_edits(wrong, texts, right, prompts)
    for score, share, same in zip(done, edited, kept):
        assert share < 1 or score > 0.8
        assert same < 0.5
    assert edited.count(1.0) >= 5


def test_a_question_of_ones_own_has_to_quote_the_reflection():
    with pytest.raises(InputError, match="lacks {reflection}"):
        JudgeScorer("http://127.0.0.1:1", reflection_question="Is it true?")


def test_a_share_of_answers_is_turned_around_always_the_same_ones(drawn):
    prompts, right, wrong = drawn
    scores = []
    for errs in (0.0, 0.25, 0.25):
        with JudgeServer(answer, seed=7, errs=errs) as running:
            scores.append(np.array(JudgeScorer(running.base_url).score(right + wrong, prompts * 2)))
    straight, erring, again = scores
    turned = ~np.isclose(straight, erring)
    assert np.array_equal(erring, again)
    assert np.allclose(erring[turned], 1 - straight[turned])
    assert 0.17 < turned.mean() < 0.34  # 240 answers
