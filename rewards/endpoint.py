"""An HTTP endpoint that takes JSON and answers with text, with limits and clear errors.

* `timeout` limits a whole call, from the DNS look-up to the last byte of the answer.
* An answer may have at most MOST_BYTES bytes.
* Redirects are not followed, because they could send the images and the API key to another host.
* An API key is sent over https. It is sent over plain http only if the host is this machine, or the host that
  `key_over_http` names. No error message contains the key.
* The settings of proxies and certificates come from irg_rl.environment.
"""

import asyncio
import email.utils
import json
import os
import ssl
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from irg_rl.environment import is_loopback, proxy_for, trusted_certificates
from irg_rl.errors import InputError
from irg_rl.redact import redact_text, remember_secret
from rewards.base import ScorerUnavailable

MOST_BYTES = 16 * 2**20
SHOWN = 200
"""Number of characters of an answer that an error message quotes."""


class NoAnswer(RuntimeError):
    """Raised if a call got no answer. The message says why and contains no secret."""


@dataclass(frozen=True)
class Reply:
    status: int
    text: str
    retry_after: float | None
    """Number of seconds that the server asks to wait, from its Retry-After header. None: no such header."""
    location: str = ""
    """Target address of a redirect."""

    @property
    def shown(self) -> str:
        """Return the beginning of the reply's text, for use in error messages. Secrets are removed from it."""
        return redact_text(self.text)[:SHOWN]


class Endpoint:
    """An HTTP endpoint that takes JSON. Several threads may call `post` at the same time. They share connections."""

    def __init__(
        self,
        url: str,
        timeout: float,
        api_key_env: str = "",
        headers: Mapping[str, str] | None = None,
        key_over_http: str = "",
    ) -> None:
        """Check the settings and create the client. `key_over_http` names the only host, besides this machine, to which
        the key may be sent without encryption.

        Raises InputError if a setting is invalid. Raises ScorerUnavailable if the key is missing or unusable, or if the
        settings of the proxy or the certificates are invalid.
        """
        address = _address(url)
        self.url, self.timeout = url, timeout
        sent = {name: _header(name, value) for name, value in (headers or {}).items()}
        if api_key_env:
            _require_safe_way(address, api_key_env, key_over_http)
            sent["Authorization"] = f"Bearer {key_of(api_key_env)}"
        try:
            self._client = httpx.AsyncClient(
                headers={"Accept-Encoding": "identity"} | sent,
                timeout=timeout,
                trust_env=False,
                proxy=proxy_for(address.scheme, address.host, address.port),
                verify=trusted_certificates() if address.scheme == "https" else False,
                limits=httpx.Limits(max_connections=None),
            )
        except InputError as error:
            raise ScorerUnavailable(f"no way to {address.host}: {error}") from error
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()

    def post(self, body: Mapping[str, object]) -> Reply:
        """Send `body` as JSON and return the reply. Raises NoAnswer if no complete answer arrives in time."""
        content = json.dumps(body).encode()
        return asyncio.run_coroutine_threadsafe(self._post(content), self._running_loop()).result()

    async def _post(self, content: bytes) -> Reply:
        try:
            async with (
                asyncio.timeout(self.timeout),
                self._client.stream(
                    "POST", self.url, content=content, headers={"Content-Type": "application/json"}
                ) as response,
            ):
                data = bytearray()
                async for part in response.aiter_bytes():
                    data += part
                    if len(data) > MOST_BYTES:
                        raise NoAnswer(f"an answer of more than {MOST_BYTES} bytes")
        except (TimeoutError, httpx.TimeoutException):
            raise NoAnswer(f"no answer within {self.timeout:g} s") from None
        except (httpx.HTTPError, OSError, UnicodeError) as error:  # its cause may show a header with the key
            raise NoAnswer(redact_text(f"{type(error).__name__}: {_cause(error)}")) from None
        headers = response.headers
        text = bytes(data).decode("utf-8", errors="replace")
        return Reply(response.status_code, text, _seconds(headers.get("retry-after")), headers.get("location", ""))

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """Return an event loop that runs in its own thread. With this loop, the time limit also covers DNS look-ups,
        and connections stay open between calls. The first call starts the loop."""
        with self._starting:
            if self._loop is None:
                self._loop = loop = asyncio.new_event_loop()
                threading.Thread(target=loop.run_forever, name="endpoint", daemon=True).start()
                weakref.finalize(self, loop.call_soon_threadsafe, loop.stop)
            return self._loop


def key_of(variable: str) -> str:
    """Return the key in an environment variable, without surrounding white space. Raises ScorerUnavailable if the key
    is missing or unusable. The message names the variable but never shows its value."""
    if not variable.isidentifier():
        raise InputError("api_key_env is the name of an environment variable, such as JUDGE_KEY, not the key itself")
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ScorerUnavailable(f"the key is read from ${variable}, which is not set: export it")
    remember_secret(variable)
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ScorerUnavailable(
            f"${variable} holds white space, a line break or a character that no HTTP header may have: "
            "export the key alone"
        )
    return key


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InputError(f"base_url is no address ({redact_text(str(error))})") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise InputError(f"base_url {redact_text(url)!r}: give one such as http://host:8000/v1")
    if address.userinfo or address.query or address.fragment:
        raise InputError(f"base_url on {address.host} holds a secret: put the key into api_key_env")
    return address


def _require_safe_way(address: httpx.URL, variable: str, allowed: str) -> None:
    if address.scheme == "https" or is_loopback(address.host) or address.host == allowed.lower():
        return
    raise InputError(
        f"the key in ${variable} would travel to {address.host} over plain http, for everyone on the way to read: "
        f"use https, or set options.key_over_http: {address.host} where the network is your own"
    )


def _header(name: str, value: object) -> str:
    if not isinstance(value, str) or not f"{name}{value}".isascii() or not f"{name}{value}".isprintable():
        raise InputError(f"headers: the value of {name!r} is no line of ASCII text")
    return value


def _cause(error: BaseException) -> str:
    """Return the text of the first cause of an error, such as "Connection refused" instead of "all attempts failed"."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    if isinstance(error, BaseExceptionGroup):
        return _cause(error.exceptions[0])
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    return str(error)


def _seconds(header: str | None) -> float | None:
    """Return the seconds to wait from a Retry-After header, which has a number of seconds or a date. Returns None if
    there is no header or it cannot be read."""
    if header is None:
        return None
    if header.strip().isdecimal() and len(header) < 10:
        return float(header)
    try:
        return max(email.utils.parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
