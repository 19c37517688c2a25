"""The page in a real browser, while a run writes. Without a Chromium, the tests are skipped by name; with the
environment variable IRG_RL_BROWSER=required, they fail."""

import asyncio
import os
import threading

import pytest

from handbook.browser import CHROMIUM, browser
from tests.view.material import log

REQUIRED = os.environ.get("IRG_RL_BROWSER") == "required"
pytestmark = pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no Chromium on this machine")


def seen(look) -> None:
    """Run the coroutine function `look` with an open browser."""

    async def run() -> None:
        assert CHROMIUM is not None, "IRG_RL_BROWSER=required, but no Chromium is on the PATH (.ci/browser brings one)"
        async with browser(CHROMIUM) as page:
            await look(page)

    asyncio.run(run())


def test_an_open_page_follows_a_run_that_writes(served, run):
    stop = threading.Event()

    def train() -> None:
        step = 12
        while not stop.wait(0.02):
            step += 1
            log(run, step)

    async def look(page) -> None:
        await page.open(served.address + "run/first/")
        before = await page.evaluate("Number(document.querySelector('[data-name=step-rl]').textContent)")
        writer.start()
        await page.until(f"Number(document.querySelector('[data-name=step-rl]').textContent) > {before}")
        assert int(await page.evaluate("document.documentElement.dataset.updates")) >= 1
        assert "Health of RL" in await page.html()

    writer = threading.Thread(target=train)
    try:
        seen(look)
    finally:
        stop.set()
        if writer.ident:  # it was started
            writer.join()


def test_a_reflection_that_is_a_script_does_not_run(served):
    async def look(page) -> None:
        await page.open(served.address + "run/first/sample?prompt=p1")
        shown = await page.html()
        assert "<title>first: p1" in shown and "owned'&lt;/script&gt;" in shown
        assert await page.evaluate("document.title.startsWith('first: p1')")
        assert "--zoom: 8" in shown, "the script of the page itself has run"

    seen(look)


@pytest.mark.parametrize("place", ["", "run/first/", "run/first/samples", "run/first/sample?prompt=p1"])
def test_no_page_is_wider_than_a_phone(served, place):
    async def look(page) -> None:
        await page.open(served.address + place, width=390, height=800)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390

    seen(look)


def test_the_arrow_keys_lead_from_sample_to_sample_and_the_page_is_dark_at_night(served):
    async def look(page) -> None:
        await page.open(served.address + "run/first/sample?prompt=p1", dark=True)
        red, green, blue = await page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3).map(Number)"
        )
        assert red + green + blue < 200
        await page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", code="ArrowRight")
        await page.until("!location.href.includes('prompt=p1')")

    seen(look)
