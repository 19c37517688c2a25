"""How a judge is reached and asked: the settings that all scorers with a judge over HTTP share."""

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from irg_rl.errors import InputError
from rewards.answer_cache import AnswerCache
from rewards.breaker import Breaker
from rewards.endpoint import Endpoint
from rewards.judge_client import FEW_ALTERNATIVES, JudgeClient, Patience

RESERVED = {"messages", "stream", "n"}
"""Fields of a request that a recipe may not set."""
UNNAMED = "judge"
"""Name of a model that nobody has named."""
Made = TypeVar("Made", bound=type)


def connect(
    base_url: str,
    model: str = UNNAMED,
    api_key_env: str = "",
    concurrency: int = 8,
    timeout: float = 30.0,
    retries: int = 2,
    backoff: float = 0.5,
    jitter: float = 0.25,
    breaker_after: int = 8,
    breaker_pause: float = 10.0,
    cache_size: int = 4096,
    cache_folder: str | Path = "",
    max_tokens: int = 4,
    logprobs: bool = True,
    top_logprobs: int = FEW_ALTERNATIVES,
    extra_body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    key_over_http: str = "",
) -> JudgeClient:
    """Return the client of a judge at an endpoint with the OpenAI chat interface.

    `api_key_env` names the environment variable that holds the API key of the judge's server. The key itself is in no
    recipe, log or report. It is sent over https. It is sent over plain http only to this machine and to the host
    `key_over_http`. At most `concurrency` calls are made at the same time. `timeout` limits one HTTP call with its
    whole answer, in seconds.

    A failed call is repeated up to `retries` times. The n-th retry waits `backoff * 2**(n-1)` seconds, or longer if the
    server asks for it, and then a random share of this time more, at most `jitter`. After `breaker_after` questions in
    a row without any answer, other questions wait for `breaker_pause` seconds, and fail if the server does not answer
    then, either (rewards/breaker.py). 0 turns this off.

    At most `cache_size` answers are kept in memory. `cache_folder` names a folder in which all answers are kept; they
    are used again by later runs. Empty: none. It needs a `model`, because the name of the model says whose answers they
    are.

    `logprobs: false` means that no log-probabilities are requested, else the `top_logprobs` most probable tokens.
    `extra_body` has more fields for the request (such as `chat_template_kwargs`), and `headers` has more HTTP headers.

    Raises InputError if a setting is wrong, and ScorerUnavailable if the key is missing.
    """
    pauses = (backoff, jitter, breaker_pause)
    if not (concurrency >= 1 and min(retries, breaker_after) >= 0 and 0 < timeout < math.inf):
        raise InputError(
            f"judge concurrency {concurrency}, retries {retries}, breaker_after {breaker_after}, timeout {timeout}: "
            "concurrency is at least 1, timeout above 0 and finite, the others at least 0"
        )
    if not all(0 <= pause < math.inf for pause in pauses):
        raise InputError("judge backoff {}, jitter {}, breaker_pause {}: at least 0 and finite".format(*pauses))
    if not (cache_size >= 0 and max_tokens >= 1 and 0 <= top_logprobs <= 20):
        raise InputError(
            f"judge cache_size {cache_size}, max_tokens {max_tokens}, top_logprobs {top_logprobs}: "
            "at least 0 and 1, and 0 to 20"
        )
    if taken := RESERVED & set(extra_body or {}):
        raise InputError(f"judge extra_body: {', '.join(sorted(taken))} may not be set: the program sets it")
    if cache_folder and model == UNNAMED:
        raise InputError("judge cache_folder: name the judge's `model`, or another judge would get this one's answers")
    endpoint = Endpoint(base_url.rstrip("/") + "/chat/completions", timeout, api_key_env, headers, key_over_http)
    fields: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": max_tokens}
    if logprobs:
        fields |= {"logprobs": True, "top_logprobs": top_logprobs}
    cache = AnswerCache(cache_size, Path(cache_folder).expanduser() if cache_folder else None)
    patience, breaker = Patience(retries, backoff, jitter), Breaker(breaker_after, breaker_pause)
    return JudgeClient(endpoint, model, concurrency, patience, breaker, cache, fields | dict(extra_body or {}))


def with_connection(scorer: Made) -> Made:
    """Decorate a class of scorers whose constructor passes `**connection` on to `connect`. The signature of the class
    then lists the parameters of `connect`, so that the options of a recipe are checked against them."""
    own = inspect.signature(scorer, eval_str=True).parameters
    named = [parameter for parameter in own.values() if parameter.kind is not parameter.VAR_KEYWORD]
    passed_on = [
        parameter.replace(kind=parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(connect, eval_str=True).parameters.items()
        if name not in own
    ]
    scorer.__signature__ = inspect.Signature([*named, *passed_on])  # pyright: ignore[reportAttributeAccessIssue]
    return scorer
