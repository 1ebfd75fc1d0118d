"""The documentation site in a browser without a network, on a desktop and a phone."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILT = os.environ.get("CAST_BENCH_SITE")
"""Folder of a site that is built already, as in .ci/run."""
IS_MISSING = not all(map(find_spec, ("sphinx", "furo", "sphinx_copybutton")))
pytestmark = [
    pytest.mark.skipif(IS_MISSING, reason="pip install '.[docs]'"),
    *([] if BUILT else [pytest.mark.full]),
]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def site(tmp_path_factory, chromium):
    """Return the folder of the built site."""
    if BUILT:
        return Path(BUILT)
    folder = tmp_path_factory.mktemp("site") / "html"
    subprocess.run(
        [sys.executable, str(ROOT / "scripts/docs.py"), str(folder)], check=True, cwd=ROOT
    )
    return folder


def test_every_page(site, chromium):
    """Light on a desktop, dark on a phone."""
    asked, heard, wide = set(), [], []
    pages = sorted(site.rglob("*.html"))
    with chromium.new_context(offline=True) as context:
        page = context.new_page()
        page.on("request", lambda request: asked.add(request.url))
        page.on("requestfailed", lambda request: heard.append(f"{request.url} cannot be read"))
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda fault: heard.append(str(fault)))
        for path in pages:
            page.goto(path.as_uri())
            for size, scheme in ((DESKTOP, "light"), (PHONE, "dark")):
                page.set_viewport_size(size)
                page.emulate_media(color_scheme=scheme)
                if page.evaluate("document.documentElement.scrollWidth") > size["width"]:
                    wide.append(f"{path.name} at {size['width']}")
    assert pages and not wide and not heard
    assert {url for url in asked if not url.startswith(("data:", site.as_uri() + "/"))} == set()


def test_equations_are_drawn_without_a_script(site, chromium):
    with chromium.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto((site / "methods/one-shot.html").as_uri())
        fraction = page.locator("math mfrac").first.bounding_box()
        assert fraction["height"] > 20 and page.locator("math merror").count() == 0


def test_search(site, chromium):
    page, heard = chromium.new_page(), []
    page.on("console", lambda message: heard.append(message.text))
    page.goto((site / "search.html").as_uri() + "?q=damping")
    page.locator("#search-results a", has_text="One-shot methods").first.wait_for()
    page.wait_for_load_state("networkidle")
    page.close()
    assert not heard
