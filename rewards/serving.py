"""Parts that the program's small HTTP servers share: reading a request within limits, decoding its images, and
answering with JSON."""

import base64
import errno
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import numpy as np
from PIL import Image as PILImage

from irg_rl.pictures import UNDECODABLE
from rewards.base import Image, ScorerUnavailable

MAX_SIDE = 2048  # pixels per side of an image; checked in its header before a pixel is decoded
MOST_DIGITS = 18  # of a Content-Length: Python refuses to read very long numbers
LINGER_S = 1.0
"""Seconds for which a connection with a refused request stays open, see `JsonHandler.refuse`."""


class BadRequest(ValueError):
    """Raised if the client's request is wrong. The server answers it with HTTP status `status`."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def decode_image(url: str) -> Image:
    """Return the image in a data URL (a PNG or JPEG image inside the URL) as uint8 RGB. Raises BadRequest for every
    other URL, because the servers download nothing."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise BadRequest(f"image {url[:40]!r}: only data:image/...;base64 URLs are read")
    try:
        image = PILImage.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=["PNG", "JPEG"])
        if max(image.size) > MAX_SIDE:
            raise BadRequest(f"image of {image.size[0]} x {image.size[1]} pixels: at most {MAX_SIDE} per side", 413)
        return np.asarray(image.convert("RGB"))
    except BadRequest:
        raise
    except UNDECODABLE as error:
        raise BadRequest(f"the image cannot be decoded: {error}") from error


class JsonHandler(BaseHTTPRequestHandler):
    """Reads requests whose size is limited, and answers with JSON."""

    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds without data after which a connection is closed

    def read_body(self, max_bytes: int) -> bytes:
        """Return the body of a request. Raises BadRequest if its length is not given or larger than `max_bytes`. It is
        then not read at all."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise BadRequest("a Content-Length is required", 411)
        if len(length) > MOST_DIGITS or int(length) > max_bytes:
            raise BadRequest(f"{length:.{MOST_DIGITS}} bytes: at most {max_bytes} are read", 413)
        return self.rfile.read(int(length))

    def refuse(self, error: BadRequest, **headers: str) -> None:
        """Answer a wrong request with an error. The connection is closed, because a body that was not read would be
        taken for the next request. What the client still sends is thrown away for a while before that: if data were
        left unread, closing would reset the connection, and the client might never see the answer."""
        self.close_connection = True
        self.reply(error.status, {"error": {"message": str(error)}}, Connection="close", **headers)
        end = time.monotonic() + LINGER_S
        with suppress(OSError):  # the client may be gone
            self.connection.shutdown(socket.SHUT_WR)
            while (left := end - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(2**16):
                    break

    def reply(self, status: int, content: dict[str, Any], **headers: str) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing, because one line per image would make the log of the run unreadable."""


@contextmanager
def clear_port_errors(server: str, host: str, port: int) -> Iterator[None]:
    """Context manager for the start of a server: if the port is taken or not allowed, or the host is not this machine,
    raise ScorerUnavailable with a clear message. `server` names the server in this message."""
    reasons = {
        errno.EADDRINUSE: "is already in use", errno.EACCES: "may not be opened by this user",
        errno.EADDRNOTAVAIL: "is not an address of this machine",
    }  # fmt: skip
    try:
        yield
    except OSError as error:
        if error.errno not in reasons:
            raise
        raise ScorerUnavailable(
            f"{server} cannot listen: port {port} of {host} {reasons[error.errno]}; choose another, or 0 for any"
        ) from error


class ServedInThread:
    """A server that runs in a thread of this process while a `with` block runs. A subclass makes `listener` and
    `thread` in its constructor."""

    listener: ThreadingHTTPServer
    thread: threading.Thread

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown()
        self.thread.join(timeout=10)
        self.listener.server_close()
