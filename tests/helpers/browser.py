"""A browser for the tests of pages."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
NAMED = os.environ.get("CAST_BENCH_BROWSER")
PATIENCE_MS = 180_000
"""Milliseconds that a page may take on a busy machine."""


def absent(why):
    if NAMED:
        pytest.fail(f"CAST_BENCH_BROWSER is set, but {why}")
    pytest.skip(f"{why}; tests of pages need pip install '.[browser]' and apt-get install chromium")


@contextmanager
def chromium():
    """Debian's chromium, driven by playwright. Without them the test is skipped, unless
    CAST_BENCH_BROWSER names the
    browser: then it has to be there."""
    try:
        from playwright import sync_api
    except ImportError:
        absent("playwright is not installed")
    names = [NAMED] if NAMED else ["chromium", "chromium-browser"]
    path = next(filter(None, map(shutil.which, names)), None)
    if not path:
        absent("there is no chromium")
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=path, args=["--no-sandbox"], timeout=PATIENCE_MS
        )
        yield browser
        IDLE.clear()
        browser.close()


IDLE = []
"""Pages that a test has left. A new one costs as much as all that a test does with it."""


@contextmanager
def visits(chromium, file, heard):
    """Yield go(address="", viewport, **context), which opens a page."""
    asked, pages = [], []
    listeners = {
        "console": lambda message: heard.append(message.text),
        "pageerror": lambda fault: heard.append(str(fault)),
        "dialog": lambda dialog: heard.append(f"dialog: {dialog.message}") or dialog.dismiss(),
        "request": lambda request: asked.append(request.url),
    }

    def go(address="", viewport=DESKTOP, **context):
        page = IDLE.pop() if IDLE and not context else chromium.new_page(**context)
        page.set_default_timeout(PATIENCE_MS)
        page.set_viewport_size(viewport)
        for event, listener in listeners.items():
            page.on(event, listener)
        page.goto(file.as_uri() + address)
        pages.append((page, context))
        return page

    yield go
    for page, context in pages:
        for event, listener in listeners.items():
            page.remove_listener(event, listener)
        page.emulate_media(media="screen")
        page.goto("about:blank")
        page.close() if context else IDLE.append(page)
    assert not heard
    read = {url.partition("#")[0] for url in asked if not url.startswith("data:")}
    assert read == {file.as_uri()}


def load_axe(page):
    """Return a function that lists the serious problems of accessibility."""
    try:
        import axe_playwright_python
    except ImportError:
        absent("axe-playwright-python is not installed")
    page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text())

    def serious():
        found = page.evaluate("axe.run()")["violations"]
        found = [v for v in found if v["impact"] in ("serious", "critical")]
        return [(v["id"], v["nodes"][0]["html"]) for v in found]

    return serious
