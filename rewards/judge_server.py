"""The embedded judge: an HTTP server on 127.0.0.1 with the OpenAI chat interface. No language model runs in it. The
task has a Python function that computes the answers. This function is called the mind. Its type is `irg_rl.task.Mind`,
and `World.mind` in irg_rl/task.py has its import path.

The judge gets only what a real multimodal model would get: an HTTP request with a question in plain words and one or
two images. It never gets the id or the metadata of a prompt. The server answers `POST /v1/chat/completions`, `GET
/v1/models` and `GET /health`.

    python -m rewards.judge_server --mind irg_rl.shapes_world.judge_mind:answer --port 0

This command prints {"base_url": ...} and serves until stdin closes or Ctrl-C is pressed.
"""

import argparse
import hashlib
import json
import math
import random
import sys
import threading
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import Any

from irg_rl import faults
from irg_rl.errors import InputError
from irg_rl.imports import import_named
from irg_rl.task import Answer, Mind
from irg_rl.text_in import parse_json
from rewards.base import Image, ScorerUnavailable
from rewards.serving import BadRequest, JsonHandler, ServedInThread, clear_port_errors, decode_image

MAX_BYTES = 8 * 2**20  # largest size of a request
MAX_IMAGES = 2
MODEL = "embedded-judge"
_PAIRS = (("yes", "no"), ("Yes", "No"), ("1", "2"))
OPPOSITE = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}


@dataclass(frozen=True)
class ChatRequest:
    question: str
    images: tuple[Image, ...]
    top_logprobs: int  # 0: the client asks for no log-probabilities


def parse_request(body: bytes) -> ChatRequest:
    """Read the body of a chat request. Return the question, the images, and the number of log-probabilities that the
    client asks for. The question is the last text of the last user message; earlier texts are captions of images.
    Raises BadRequest if the request has another form."""
    try:
        request = parse_json(body, "the request")
        message = [m for m in request["messages"] if m["role"] == "user"][-1]
        content = message["content"]
        parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts = [part["text"] for part in parts if part["type"] == "text"]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        wanted = max(int(request.get("top_logprobs") or 0), 0) if request.get("logprobs") else 0
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadRequest(f"not a chat completion request: {error!r}") from error
    if not texts or len(urls) > MAX_IMAGES or not all(isinstance(text, str) for text in (*texts, *urls)):
        raise BadRequest(f"{len(texts)} texts and {len(urls)} images: send a question and at most {MAX_IMAGES} images")
    return ChatRequest(texts[-1], tuple(decode_image(url) for url in urls), min(wanted, 20))


def completion(reply: Answer, top_logprobs: int) -> dict:
    """Return the judge's answer `reply` as a chat completion, in the JSON form of OpenAI. If `top_logprobs` is above 0,
    the first token of the answer has a list of the most probable words with their log-probabilities. The list has at
    most `top_logprobs` entries."""
    ranked = sorted(reply.words.items(), key=lambda item: -item[1])
    choice = {"index": 0, "message": {"role": "assistant", "content": reply.text}, "finish_reason": "stop"}
    if top_logprobs and ranked:
        tokens = [{"token": word, "logprob": math.log(max(p, 1e-12))} for word, p in ranked]
        choice["logprobs"] = {"content": [tokens[0] | {"top_logprobs": tokens[:top_logprobs]}]}
    return {"object": "chat.completion", "model": MODEL, "choices": [choice]}


def turned_around(answer: Answer) -> Answer:
    """Return the opposite answer: "yes" becomes "no", "1" becomes "2", and the other way round. The probabilities of
    the two words are exchanged too. Any other answer stays as it is."""
    return Answer(OPPOSITE.get(answer.text, answer.text), {OPPOSITE.get(w, w): p for w, p in answer.words.items()})


class Handler(JsonHandler):
    def do_GET(self) -> None:
        match self.path:
            case "/health":
                self.reply(200, {"status": "ok"})
            case "/v1/models":
                self.reply(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
            case _:
                self.reply(404, {"error": {"message": f"no such path: {self.path}"}})

    def do_POST(self) -> None:
        try:
            if self.path != "/v1/chat/completions":
                raise BadRequest(f"no such path: {self.path}", 404)
            request = parse_request(self.read_body(MAX_BYTES))
            faults.at("judge")
            assert isinstance(self.server, Listener)
            reply = completion(self.server.think(request.question, request.images), request.top_logprobs)
        except BadRequest as error:
            self.refuse(error)
        else:
            self.reply(200, reply)


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, mind: Mind, seed: int, errs: float) -> None:
        self.mind, self.seed, self.errs = mind, seed, errs
        super().__init__((host, port), Handler)

    def think(self, question: str, images: tuple[Image, ...]) -> Answer:
        """Return the answer of the judge to the question about the images. The task's function `mind` computes the
        answer. The answer can be wrong for two reasons. First, `mind` makes random errors, as a real judge would.
        Second, the server replaces a share `errs` of the answers by their opposite. The seed of the server determines
        all these errors. So the same question about the same images always gets the same answer."""
        answer = self.mind(question, images, self.seed)
        digest = hashlib.sha256(f"errs {self.seed}\n{question}\n".encode() + b"".join(i.tobytes() for i in images))
        return turned_around(answer) if random.Random(digest.digest()).random() < self.errs else answer


class JudgeServer(ServedInThread):
    """The embedded judge (see the module) as a context manager. It runs in threads of this process.

    mind: the function of the task that computes the answers.
    port: the port of the server. With 0, any free port is taken.
    seed: determines all random errors in the answers.
    errs: share of answers that are replaced by their opposite ("yes" by "no"), see `turned_around`.

    Raises ScorerUnavailable if the port is taken or not allowed.
    """

    def __init__(
        self, mind: Mind, port: int = 0, seed: int = 0, host: str = "127.0.0.1", errs: float = 0.0
    ) -> None:
        with clear_port_errors("the embedded judge", host, port):
            self.listener = Listener(host, port, mind, seed, errs)
        self.base_url = f"http://{host}:{self.listener.server_port}/v1"
        self.thread = threading.Thread(target=self.listener.serve_forever, name="judge-server", daemon=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rewards.judge_server", description="The embedded judge.")
    parser.add_argument("--mind", required=True, help="what it thinks, as package.module:function")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--seed", type=int, default=0, help="of the judge's own errors of judgement")
    parser.add_argument("--errs", type=float, default=0.0, help="share of answers that are turned around on purpose")
    options = parser.parse_args(arguments)
    try:
        mind = import_named(options.mind, {}, "mind")
        with JudgeServer(mind, options.port, options.seed, errs=options.errs) as server:
            sys.stdout.write(json.dumps({"base_url": server.base_url}) + "\n")
            sys.stdout.flush()
            # The starting process holds the other end of the pipe. If it ends, even by kill -9, the pipe closes.
            while sys.stdin.read(4096):
                pass
    except (ScorerUnavailable, InputError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
