"""Chromium for the tests of pages: what it loads, says and asks for is watched.

In a test module:

    from tests import browser

    chromium = browser.chromium
    open_page = browser.open_page

    def test_something(open_page):
        page = open_page(path, width=1280, height=900)  # a playwright.sync_api.Page

A test fails at its end if a page logged an error, threw, opened a dialog or requested anything but
itself. `chromium` lives for one module: while it does, Playwright has an event loop in this thread,
in which `asyncio.run`, and so orbax, cannot start. A run that a test wants to look at is best made
by a fixture that comes first.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_QUIET = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    """A headless Chromium of the system, driven by Playwright; skips where either is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium here: none of {', '.join(_NAMES)} is on the PATH")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=list(_QUIET))
        yield started
        started.close()


@pytest.fixture
def open_page(chromium) -> Iterator[Callable]:
    """Opens a local file in a window of its own.

    `until` is what `Page.goto` waits for; further keywords are those of `Browser.new_context`.
    """
    contexts, trouble = [], []

    def open_page(path: Path, *, width=1280, height=900, until="load", **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        url = Path(path).absolute().as_uri()

        def on_console(message):
            if message.type == "error":
                trouble.append(f"console: {message.text}")

        def on_request(request):
            if request.url != url and not request.url.startswith(("data:", "blob:")):
                trouble.append(f"request: {request.url[:200]}")

        def on_dialog(dialog):
            trouble.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        page.on("console", on_console)
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("dialog", on_dialog)
        context.on("request", on_request)
        page.goto(url, wait_until=until)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not trouble, trouble
