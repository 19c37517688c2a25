"""Removes secrets, such as keys and passwords, from everything that is written for people to read."""

import json
import os
import re
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
NAMES = "IRG_RL_SECRETS"
"""Name of an environment variable that lists the names of other variables whose values are secret, separated by commas.
Child processes inherit this variable, and therefore the list."""
_SECRET_WORDS = {"apikey", "token", "secret", "password", "passwd", "credential", "credentials", "authorization"}
_SHORTEST_SECRET = 8  # shorter values of such variables ("1", "none") also occur in normal text
_SHORTEST_KEY = 4  # the same limit for variables that a recipe names in `api_key_env`
_USER_INFO = re.compile(r"(\w+://)[^\s/@]+@")
_BEARER = re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}")
_QUERY = re.compile(r"(?i)([?&][\w-]*(?:key|token|secret|password)=)[^&\s]+")
_KNOWN_KEYS = re.compile(r"\b(?:sk-|hf_|ghp_|wandb_v1_)[\w-]{16,}")


def names_a_secret(key: str) -> bool:
    """Return whether the name `key` of a setting or variable shows that its value is a secret. The result is false for
    two names that look like the name of a secret. The value of `api_key_env` is only the name of a variable, and the
    value of `max_text_tokens` is a number."""
    words = re.split(r"[^a-z0-9]+", key.lower())
    if words[-1] == "env":
        return False
    return bool(_SECRET_WORDS & set(words)) or "api_key" in "_".join(words) or words[-1] == "key"


def remember_secret(name: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """From now on, hide the value of the environment variable `name` in all output, also in child processes that start
    later. This call is needed because a recipe can put any variable name into `api_key_env`. This name does not have to
    look like the name of a secret."""
    names = _remembered(environ)
    if name not in names:
        environ[NAMES] = ",".join([*names, name])


def redact_text(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the text with all secrets replaced by ***: passwords in addresses, bearer tokens, keys, and values of
    environment variables that are secret."""
    remembered = _remembered(environ)
    for name, value in environ.items():
        for secret in _spellings(value):
            if len(secret) >= (_SHORTEST_KEY if name in remembered else _SHORTEST_SECRET) and (
                name in remembered or names_a_secret(name)
            ):
                text = text.replace(secret, HIDDEN)
    text = _USER_INFO.sub(rf"\1{HIDDEN}@", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    text = _QUERY.sub(rf"\1{HIDDEN}", text)
    return _KNOWN_KEYS.sub(HIDDEN, text)


def redact(value: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """Return nested settings in which all secrets are replaced by ***. Texts are treated as in `redact_text`. If the
    name of a setting shows that it is a secret, its whole value is replaced."""
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if names_a_secret(str(key)) and inner not in (None, "") else redact(inner, environ)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(inner, environ) for inner in value]
    return redact_text(value, environ) if isinstance(value, str) else value


def _spellings(value: str) -> set[str]:
    """Return the spellings in which a secret may occur in a text: unchanged, without white space around it, escaped as
    in JSON, and escaped as in internet addresses."""
    bare = value.strip()
    return {value, bare, bare.replace("/", "\\/"), json.dumps(bare)[1:-1], quote(bare, safe="")}


def _remembered(environ: Mapping[str, str]) -> list[str]:
    return [name for name in environ.get(NAMES, "").split(",") if name]
