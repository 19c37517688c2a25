"""Drives a headless Chromium by its DevTools protocol: opens a page, changes its window, reads it, takes pictures."""

import asyncio
import base64
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
"""Path of the Chromium of this machine, or None."""
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
)  # fmt: skip
SEEN_IMAGES_ARE_LOADED = "[...document.images].every(i => i.complete || i.getBoundingClientRect().top > innerHeight)"
"""A script. Images below the window may be loaded later."""
LIMIT_S = 60
"""Longest time that the browser may take for one answer."""


class BrowserPage:
    """One open page. `call` sends a command of the protocol and returns its result."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._sent = socket, 0

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Raises RuntimeError if the browser refuses the command, and TimeoutError if it does not answer."""
        self._sent += 1
        await self._socket.send_json({"id": self._sent, "method": method, "params": parameters})
        async with asyncio.timeout(LIMIT_S):
            while (answer := json.loads((await self._socket.receive()).data)).get("id") != self._sent:
                pass  # an event, which nobody has asked for
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    async def evaluate(self, script: str) -> Any:
        return (await self.call("Runtime.evaluate", expression=script, returnByValue=True))["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until the script gives a true value. Raises TimeoutError after LIMIT_S."""
        async with asyncio.timeout(LIMIT_S):
            while not await self.evaluate(script):
                await asyncio.sleep(0.05)

    async def open(self, address: str, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        """Open a page in a window of this size in pixels, and wait until it is loaded."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                        mobile=False)  # fmt: skip
        await self.call("Page.navigate", url=address)
        await self.until(f"location.href.startsWith({json.dumps(address)}) && document.readyState === 'complete'")
        await self.until(SEEN_IMAGES_ARE_LOADED)

    async def html(self) -> str:
        return await self.evaluate("document.documentElement.outerHTML")

    async def picture(self) -> bytes:
        """Return what the window shows, as PNG file."""
        return base64.b64decode((await self.call("Page.captureScreenshot"))["data"])


@asynccontextmanager
async def browser(chromium: str) -> AsyncIterator[BrowserPage]:
    """Start the browser with an empty profile, and end it at the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            chromium, *OPTIONS, f"--user-data-dir={folder}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, env=os.environ | {"HOME": folder},
        )  # fmt: skip
        try:
            async with aiohttp.ClientSession() as session, session.ws_connect(
                await _address(session, Path(folder)), max_msg_size=0
            ) as socket:
                yield BrowserPage(socket)
        finally:
            process.kill()
            await process.wait()


async def _address(session: aiohttp.ClientSession, folder: Path) -> str:
    """Return the address of the first page. The browser writes the port that it has chosen into its profile."""
    written = folder / "DevToolsActivePort"
    async with asyncio.timeout(LIMIT_S):
        while not written.is_file() or "\n" not in written.read_text():
            await asyncio.sleep(0.05)
        port = written.read_text().split("\n")[0]
        while True:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [page for page in await answer.json() if page["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
            await asyncio.sleep(0.05)


async def check(chromium: str) -> None:
    """Raises RuntimeError or TimeoutError if the browser cannot show a page."""
    async with browser(chromium) as page:
        await page.open("data:text/html,<p>it%20works</p>")
        if "it works" not in await page.html():
            raise RuntimeError(f"{chromium} shows no page")


if __name__ == "__main__":
    asyncio.run(check(sys.argv[1]))
