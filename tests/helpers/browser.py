"""A browser for the tests of pages."""

import os
import shutil
from contextlib import contextmanager

import pytest

NAMED = os.environ.get("CAST_BENCH_BROWSER")


def absent(why):
    if NAMED:
        pytest.fail(f"CAST_BENCH_BROWSER is set, but {why}")
    pytest.skip(f"{why}; tests of pages need pip install '.[browser]' and apt-get install chromium")


@contextmanager
def chromium():
    """Debian's chromium, driven by playwright. Without them the test is skipped, unless CAST_BENCH_BROWSER names the
    browser: then it has to be there."""
    try:
        from playwright import sync_api
    except ImportError:
        absent("playwright is not installed")
    path = shutil.which(NAMED) if NAMED else shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        absent("there is no chromium")
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
