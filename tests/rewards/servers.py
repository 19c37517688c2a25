"""Real HTTP servers that misbehave as judges do: slow, garbled, overloaded, refusing."""

import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text, top=None):
    """A chat completion of one token; `top`: {token: logprob} of its alternatives."""
    return spoken(text) if top is None else spoken(text, (text, top))


def spoken(text, *tokens, **message):
    """A chat completion with log-probabilities; `tokens`: (token, {alternative: logprob})."""
    choice = {"message": {"role": "assistant", "content": text} | message}
    if tokens:
        choice["logprobs"] = {"content": [
            {"token": token, "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()]}
            for token, top in tokens
        ]}  # fmt: skip
    return {"choices": [choice]}


@contextmanager
def endpoint(reply):
    """Serve `reply(request_number, body) -> (status, content, seconds to wait, headers if any)`; yields (url,
    requests). The content is a dict, a text, or a list of (seconds to wait, text) that is sent piece by piece."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, body, dict(self.headers)))
            status, content, wait, *headers = reply(len(requests), body)
            time.sleep(wait)
            pieces = content if isinstance(content, list) else [(0.0, content)]
            pieces = [(pause, text if isinstance(text, str) else json.dumps(text)) for pause, text in pieces]
            self.send_response(status)
            self.send_header("Content-Length", str(sum(len(text.encode()) for _, text in pieces)))
            for name, value in (headers[0] if headers else {}).items():
                self.send_header(name, value)
            self.end_headers()
            for pause, text in pieces:
                time.sleep(pause)
                self.wfile.write(text.encode())
                self.wfile.flush()

        def log_message(self, *_):
            pass

        def handle(self):
            with suppress(BrokenPipeError, ConnectionResetError):  # a client may give up waiting
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
