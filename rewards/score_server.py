"""Serves one scorer over HTTP, so that it can run in a Python environment, or on a machine, of its own. Scorers of the
kind `remote` ask it (rewards/remote.py).

`POST /v1/score` takes JSON with these fields:

| field     | content |
|---|---|
| `form`    | what is scored: `image`, `reflection` or `edit`; `check` scores nothing and only answers |
| `prompts` | one object per item: `id`, `text` and `metadata` |
| `images`  | one data URL (PNG or JPEG) per item: the image, the image looked at, or the image before the edit |
| `texts`   | reflections and edits only: one reflection per item |
| `after`   | edits only: one data URL per item |

The answer is {"scores": [...], "errors": [...]}. A score that failed is null, and its error is a text that says why.
`GET /health` answers {"status": "ok"}.

    python -m rewards.score_server

This command reads one line of JSON from stdin (see `main`), prints {"base_url": ...}, and serves until stdin closes. It
imports neither transformers nor Ray nor DeepSpeed. So its environment may have other versions of them.
"""

import hmac
import json
import math
import sys
import threading
from dataclasses import asdict, dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

from irg_rl.environment import is_loopback
from irg_rl.errors import InputError, UserError
from irg_rl.text_in import parse_json
from irg_rl.trajectory import Prompt
from rewards.base import EditScorer, ImageScorer, ReflectionScorer, Score, Scorer, ScorerUnavailable
from rewards.build import ScorerSpec, build_scorer
from rewards.endpoint import key_of
from rewards.serving import BadRequest, JsonHandler, ServedInThread, clear_port_errors, decode_image

PATH = "/v1/score"
CHECK = "check"
COLUMNS = {"image": ("images",), "reflection": ("images", "texts"), "edit": ("images", "texts", "after")}
"""Form of a request -> the fields that have one entry per item, in addition to `prompts`."""
KINDS = {"image": ImageScorer, "reflection": ReflectionScorer, "edit": EditScorer}
"""Form of a request -> what a scorer must be able to do for it."""
CANNOT = 424
"""HTTP status of the answer if the scorer cannot work at all, so that no retry can help."""


@dataclass(frozen=True)
class ServerLimits:
    """Largest sizes of a request. `mib` is the size of its body in MiB, `items` the number of items to score, and
    `megapixels` the number of pixels of all its images together, in millions. `waiting` is how many requests the server
    holds at the same time; more of them are told to come back later."""

    mib: int = 64
    items: int = 64
    megapixels: int = 32
    waiting: int = 8


@dataclass(frozen=True)
class ScoreRequest:
    """A request that was read. `columns` maps the name of each field that `COLUMNS` lists for the form to its entries:
    images, or texts."""

    form: str
    prompts: list[Prompt]
    columns: dict[str, list[Any]]


def parse_score_request(body: bytes, limits: ServerLimits) -> ScoreRequest:
    """Read the body of a request. Raises BadRequest if it has another form, is too large, or has an image that cannot
    be decoded."""
    try:
        request = parse_json(body, "the request")
        form, prompts = request["form"], [_prompt(entry) for entry in request["prompts"]]
        columns = {name: list(request[name]) for name in COLUMNS.get(form, ())}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequest(f"not a request for scores: {error!r}") from error
    if form not in (*COLUMNS, CHECK):
        raise BadRequest(f"form {form!r:.40}: known are {', '.join(COLUMNS)}", 404)
    if len(prompts) > limits.items:
        raise BadRequest(f"{len(prompts)} items in one request: at most {limits.items}", 413)
    for name, entries in columns.items():
        if len(entries) != len(prompts) or not all(isinstance(entry, str) for entry in entries):
            raise BadRequest(f"{name}: {len(entries)} entries for {len(prompts)} prompts: give one text for each")
    left = limits.megapixels * 10**6
    for name in ("images", "after"):
        for number, url in enumerate(columns.get(name, [])):
            image = decode_image(url)
            left -= image.shape[0] * image.shape[1]
            if left < 0:
                raise BadRequest(f"more than {limits.megapixels} million pixels in one request", 413)
            columns[name][number] = image
    return ScoreRequest(form, prompts, columns)


def forms_of(scorer: Scorer) -> list[str]:
    """Return the forms that a server can serve of this scorer."""
    return [form for form, kind in KINDS.items() if isinstance(scorer, kind)]


def _prompt(entry: Any) -> Prompt:
    metadata = entry.get("metadata") or {}
    if not (isinstance(entry["id"], str) and isinstance(entry["text"], str) and isinstance(metadata, dict)):
        raise TypeError("a prompt has an `id`, a `text` and `metadata`")
    return Prompt(entry["id"], entry["text"], metadata)


class ScoreHandler(JsonHandler):
    def do_GET(self) -> None:
        known = self.path == "/health"
        self.reply(200 if known else 404, {"status": "ok"} if known else _message(f"no such path: {self.path}"))

    def do_POST(self) -> None:
        assert isinstance(self.server, ScoreListener)
        server = self.server
        try:
            if self.path != PATH:
                raise BadRequest(f"no such path: {self.path}", 404)
            if not server.admits(self.headers.get("Authorization", "")):
                raise BadRequest("the token is missing or wrong", 401)
        except BadRequest as error:
            self.refuse(error)
            return
        if not server.places.acquire(blocking=False):
            self.refuse(BadRequest(f"{server.limits.waiting} requests are waiting already", 503), Retry_After="1")
            return
        try:
            answer = server.answer(parse_score_request(self.read_body(server.limits.mib * 2**20), server.limits))
        except BadRequest as error:
            self.refuse(error)
        except UserError as error:
            self.reply(CANNOT, _message(str(error)))
        else:
            self.reply(200, answer)
        finally:
            server.places.release()


class ScoreListener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, scorer: Scorer, token: str, limits: ServerLimits) -> None:
        self.scorer, self.limits = scorer, limits
        self.places = threading.BoundedSemaphore(limits.waiting)
        self._expected = f"Bearer {token}".encode() if token else None
        self._scoring = threading.Lock()  # models are not made for calls from several threads
        super().__init__((host, port), ScoreHandler)

    def admits(self, authorization: str) -> bool:
        """Return whether a request with this Authorization header has the right token, in constant time."""
        if self._expected is None:
            return True
        return hmac.compare_digest(authorization.encode("latin-1", "replace"), self._expected)

    def answer(self, request: ScoreRequest) -> dict[str, Any]:
        """Score the items of a request, and return the answer. Raises BadRequest if the scorer does not score this
        form, and other UserErrors if it cannot work at all."""
        forms = forms_of(self.scorer)
        if request.form == CHECK:
            return {"scores": [], "errors": [], "forms": forms}
        if request.form not in forms:
            raise BadRequest(f"this scorer scores {', '.join(forms)}, not {request.form}", 404)
        with self._scoring:
            scores = self._score(request) if request.prompts else []
            reason = self.scorer.last_error or "it gave no reason"
        if len(scores) != len(request.prompts):
            raise InputError(f"the scorer returned {len(scores)} scores for {len(request.prompts)} items")
        known = [None if score is None or not math.isfinite(score) else float(score) for score in scores]
        errors = [
            None if value is not None else reason if score is None else f"the score {score} is not a finite number"
            for value, score in zip(known, scores, strict=True)
        ]
        return {"scores": known, "errors": errors}

    def _score(self, request: ScoreRequest) -> list[Score]:
        columns, prompts = request.columns, request.prompts
        if request.form == "image":
            assert isinstance(self.scorer, ImageScorer)
            return self.scorer.score(columns["images"], prompts)
        if request.form == "reflection":
            assert isinstance(self.scorer, ReflectionScorer)
            return self.scorer.score_reflections(columns["images"], prompts, columns["texts"])
        assert isinstance(self.scorer, EditScorer)
        return self.scorer.score_edits(columns["images"], columns["texts"], columns["after"], prompts)


@dataclass(frozen=True)
class ServedAt:
    """Where a scorer is served. `token_env` names the environment variable with the token that clients must send. Only
    on this machine (127.0.0.1) it may be empty; then no token is asked for. With port 0, any free port is taken."""

    host: str = "127.0.0.1"
    port: int = 0
    token_env: str = ""
    limits: ServerLimits = field(default_factory=ServerLimits)

    def __post_init__(self) -> None:
        if not self.token_env and not is_loopback(self.host):
            raise InputError(
                f"host {self.host}: whoever reaches it could use the scorer; put a token into an environment variable "
                "and name that with --token-env, or serve on 127.0.0.1"
            )


class ScoreServer(ServedInThread):
    """Serves one scorer in threads of this process (see the module), as a context manager.

    Raises ScorerUnavailable if the port is taken or the token is missing, or if the scorer has no form that can be
    served.
    """

    def __init__(self, scorer: Scorer, at: ServedAt = ServedAt()) -> None:
        if not forms_of(scorer):
            raise ScorerUnavailable(
                f"scorer {scorer.name!r} cannot be served: it scores neither images nor reflections nor edits"
            )
        token = key_of(at.token_env) if at.token_env else ""
        with clear_port_errors(f"the server of scorer {scorer.name!r}", at.host, at.port):
            self.listener = ScoreListener(at.host, at.port, scorer, token, at.limits)
        self.base_url = f"http://{at.host}:{self.listener.server_port}/v1"
        self.thread = threading.Thread(target=self.listener.serve_forever, name="score-server", daemon=True)


def to_line(spec: dict[str, Any], at: ServedAt) -> str:
    """Return the line of JSON that `main` reads from stdin. `spec` describes the scorer, see `ScorerSpec.from_dict`."""
    return json.dumps({"spec": spec, "at": asdict(at)}) + "\n"


def main() -> int:
    """Serve the scorer that the first line of stdin describes (see `to_line`), until stdin closes."""
    try:
        given = parse_json(sys.stdin.readline(), "the first line of stdin")
        at = ServedAt(**given["at"] | {"limits": ServerLimits(**given["at"]["limits"])})
        scorer = build_scorer(ScorerSpec.from_dict(given["spec"]))
        scorer.check()
        with ScoreServer(scorer, at) as server:
            sys.stdout.write(json.dumps({"base_url": server.base_url}) + "\n")
            sys.stdout.flush()
            # The starting process holds the other end of the pipe. If it ends, even by kill -9, the pipe closes.
            while sys.stdin.readline():
                pass
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _message(text: str) -> dict[str, Any]:
    return {"error": {"message": text}}


if __name__ == "__main__":
    sys.exit(main())
