"""The HTTP server of `irg-rl view`. It is made for one person on this machine:

* It listens on 127.0.0.1 alone.
* Every address begins with a secret token. It is compared in constant time.
* The Host header must name this machine. So a page of the internet cannot reach the server through a name that it
  points to 127.0.0.1 (DNS rebinding).
* Only GET is answered, nothing is written, and only files inside the given folders are read.
* A content policy forbids inline scripts, and everything from other servers.
"""

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable

from aiohttp import web

from irg_rl.errors import InputError
from irg_rl.view.app import Pages

HOST = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost")
"""Names of this machine that a Host header may have. Any port is allowed: a tunnel of ssh may have another one."""
POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
"""Policy of report.html, a page of its own: it has its style and its images inside."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache, private",
}
TYPES = {"style.css": "text/css", "script.js": "text/javascript"}
RouteHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def new_token() -> str:
    return secrets.token_urlsafe(24)


def make_app(pages: Pages, token: str) -> web.Application:
    """Return the application that serves the pages. `token` is the first part of every address."""
    app = web.Application(middlewares=[_guard(pages, token)])
    base = "/{token}/"
    run = base + "run/{run}/"
    routes: dict[str, Callable[[web.Request], str | bytes]] = {
        base: lambda r: pages.runs(r.query.getall("run", []), r.query.getall("curve", []), _base(r)),
        run: lambda r: pages.run(_run(r), r.query.getall("curve", []), _base(r)),
        run + "samples": lambda r: pages.samples(_run(r), r.query, _base(r)),
        run + "sample": lambda r: pages.sample(_run(r), r.query, _base(r)),
        run + "groups": lambda r: pages.groups(_run(r), r.query, _base(r)),
        run + "group": lambda r: pages.group(_run(r), r.query, _base(r)),
        run + "sibling": lambda r: pages.sibling(_run(r), r.query, _base(r)),
        run + "picture": lambda r: pages.picture(_run(r), r.query),
        run + "segment": lambda r: pages.segment(_run(r), r.query),
    }
    for path, make in routes.items():
        app.router.add_get(path, _handler(make))

    async def static(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.Response(body=pages.static(name), content_type=TYPES[name], charset="utf-8")

    async def report(request: web.Request) -> web.Response:
        policy = {"Content-Security-Policy": REPORT_POLICY}
        return web.Response(body=pages.report(_run(request)), content_type="text/html", charset="utf-8", headers=policy)

    app.router.add_get(base + "static/{name}", static)
    app.router.add_get(run + "report", report)
    return app


def _handler(make: Callable[[web.Request], str | bytes]) -> RouteHandler:
    """Return a handler that answers with a page (text) or an image (bytes). The browser asks again and again for the
    same page. It gets the answer 304 if the page has not changed."""

    async def handle(request: web.Request) -> web.StreamResponse:
        content = make(request)
        body = content.encode() if isinstance(content, str) else content
        tag = hashlib.sha256(body).hexdigest()[:32]
        if any(known.value == tag for known in request.if_none_match or ()):
            response: web.Response = web.Response(status=304)
        elif isinstance(content, str):
            response = web.Response(body=body, content_type="text/html", charset="utf-8")
        else:
            response = web.Response(body=body, content_type="image/png")
        response.etag = tag
        return response

    return handle


def _guard(pages: Pages, token: str):
    """Return the middleware that every request passes: it checks the request, turns expected errors into a page of one
    line, and adds the security headers."""

    @web.middleware
    async def guard(request: web.Request, handler: RouteHandler) -> web.StreamResponse:
        response = _refusal(request, token)
        if response is None:
            try:
                response = await handler(request)
            except (InputError, OSError) as error:
                line = str(error).splitlines()[0]
                response = web.Response(text=pages.problem(line, f"/{token}/"), status=404, content_type="text/html")
            except web.HTTPException as error:
                response = web.Response(text=f"{error.status}: {error.reason}\n", status=error.status)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    return guard


def _refusal(request: web.Request, token: str) -> web.Response | None:
    """Return the answer to a request that is refused, or None if it may pass."""
    name = request.host.rsplit(":", 1)[0].lower()
    if name not in NAMES:
        return web.Response(text=f"this page answers only to the names {' and '.join(NAMES)}\n", status=403)
    given = request.path.split("/")[1]
    if not hmac.compare_digest(given.encode(), token.encode()):
        return web.Response(text="open the whole address that `irg-rl view` has printed\n", status=403)
    if request.method not in ("GET", "HEAD"):
        return web.Response(text="this page only shows; nothing can be changed\n", status=405)
    return None


def _base(request: web.Request) -> str:
    return f"/{request.match_info['token']}/"


def _run(request: web.Request) -> str:
    return request.match_info["run"]


async def start(pages: Pages, token: str, port: int) -> tuple[web.AppRunner, int]:
    """Start the server on 127.0.0.1. Return its runner and its port. `port` 0 lets the system choose one. Raises
    OSError if the port is in use."""
    runner = web.AppRunner(make_app(pages, token), access_log=None, shutdown_timeout=2)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
    except BaseException:
        await runner.cleanup()
        raise
    return runner, runner.addresses[0][1]
