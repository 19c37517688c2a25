"""Keeps secrets out of everything that is written to be looked at (invariant 8)."""

import json
import os
import re
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
NAMES = "IRG_RL_SECRETS"
"""Environment variable with the names, separated by commas, of the variables that hold keys. It is a variable so that
the processes that this one starts know the names too."""
_SECRET_WORDS = {"apikey", "token", "secret", "password", "passwd", "credential", "credentials", "authorization"}
_SHORTEST_SECRET = 8  # shorter values of such variables ("1", "none") would blot out ordinary text
_SHORTEST_KEY = 4  # of a variable that a recipe names as the holder of a key
_USER_INFO = re.compile(r"(\w+://)[^\s/@]+@")
_BEARER = re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}")
_QUERY = re.compile(r"(?i)([?&][\w-]*(?:key|token|secret|password)=)[^&\s]+")
_KNOWN_KEYS = re.compile(r"\b(?:sk-|hf_|ghp_|wandb_v1_)[\w-]{16,}")


def names_a_secret(key: str) -> bool:
    """Whether a setting or variable of this name holds a secret. `api_key_env` names a variable and holds none;
    `max_text_tokens` counts."""
    words = re.split(r"[^a-z0-9]+", key.lower())
    if words[-1] == "env":
        return False
    return bool(_SECRET_WORDS & set(words)) or "api_key" in "_".join(words) or words[-1] == "key"


def remember_secret(name: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """From now on the value of the variable `name` is redacted, whatever the name, here and in processes started later.
    A recipe's `api_key_env` may be any name."""
    names = _remembered(environ)
    if name not in names:
        environ[NAMES] = ",".join([*names, name])


def redact_text(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text without passwords in addresses, bearer tokens, keys, and the values of this process's secrets."""
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
    """The same for nested settings; a setting that names a secret loses its value whatever it is."""
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if names_a_secret(str(key)) and inner not in (None, "") else redact(inner, environ)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(inner, environ) for inner in value]
    return redact_text(value, environ) if isinstance(value, str) else value


def _spellings(value: str) -> set[str]:
    """A value as it is, without white space around it, and as JSON and addresses write it."""
    bare = value.strip()
    return {value, bare, bare.replace("/", "\\/"), json.dumps(bare)[1:-1], quote(bare, safe="")}


def _remembered(environ: Mapping[str, str]) -> list[str]:
    return [name for name in environ.get(NAMES, "").split(",") if name]
