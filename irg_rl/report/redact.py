"""Keeps secrets out of everything that is written to be looked at (invariant 8)."""

import os
import re
from collections.abc import Mapping

HIDDEN = "***"
_SECRET_WORDS = {"apikey", "token", "secret", "password", "passwd", "credential", "credentials", "authorization"}
_SHORTEST_SECRET = 8  # shorter values of such variables ("1", "none") would blot out ordinary text
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
    return bool(_SECRET_WORDS & set(words)) or "api_key" in "_".join(words) or words[-2:] == ["private", "key"]


def redact_text(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text without passwords in addresses, bearer tokens, keys, and the values of this process's secrets."""
    for name, value in environ.items():
        if len(value) >= _SHORTEST_SECRET and names_a_secret(name):
            text = text.replace(value, HIDDEN)
    text = _USER_INFO.sub(rf"\1{HIDDEN}@", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    text = _QUERY.sub(rf"\1{HIDDEN}", text)
    return _KNOWN_KEYS.sub(HIDDEN, text)


def redact(value, environ: Mapping[str, str] = os.environ):
    """The same for nested settings; a setting that names a secret loses its value whatever it is."""
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if names_a_secret(str(key)) and inner not in (None, "") else redact(inner, environ)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(inner, environ) for inner in value]
    return redact_text(value, environ) if isinstance(value, str) else value
