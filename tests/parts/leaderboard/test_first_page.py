"""The first page of a leaderboard in a browser: a picture and short tables, on a desk and on a
phone."""

import pytest

from bench.parts.leaderboard import board_files as leaderboard
from helpers import reports
from helpers.browser import DESKTOP, PHONE, load_axe


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Write a leaderboard of three models, two of them with names that look like code."""
    root = tmp_path_factory.mktemp("page")
    folders = [reports.folder(root / "first"), reports.hostile(root / "hostile")]
    leaderboard.write(leaderboard.build(folders, reports.published(root / "papers")), root / "out")
    return root / "out" / "leaderboard.html"


def test_a_picture_is_on_the_first_screen(visit):
    for viewport in (DESKTOP, PHONE):
        box = visit(viewport=viewport).locator("svg.figure").first.bounding_box()
        assert box["y"] + box["height"] < viewport["height"]
        assert box["x"] >= 0 and box["x"] + box["width"] <= viewport["width"]


def test_every_head_but_the_rank_sorts_and_a_number_opens_its_command(visit):
    page = visit()
    heads = page.locator("[data-table='0'] thead th")
    assert heads.count() <= 7
    assert heads.locator("button").count() == heads.count() - 1
    page.locator("[data-table='0'] td .n button").first.click()
    text = page.locator("#panel").inner_text()
    assert "bench show " in text and "Record " in text


def test_on_a_phone_rows_are_cards_and_a_comparison_shows_change_and_interval(visit):
    page = visit(viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    card = page.locator("[data-table='0'] tbody tr", has_text="sparsegpt").first
    right = "e => Math.max(...[...e.cells].map(c => c.getBoundingClientRect().right))"
    assert card.evaluate(right) <= PHONE["width"]
    label = "e => getComputedStyle(e, '::before').content"
    assert card.locator("td.num:not(.rank)").first.evaluate(label) == '"bytes packed"'
    for name in ("dense", "sparsegpt 2:4"):
        page.get_by_role("checkbox", name=f"Compare {name}", exact=True).first.check()
    page.click("#compare")
    line = page.locator("#panel tbody tr", has_text="perplexity wiki-mini@128").first
    assert "×1.1107 worse" in line.inner_text() and "×1.0" in line.inner_text()
    assert line.evaluate(right) <= PHONE["width"]
    assert page.locator("#panel .scroll.scrolls").count() == 0


def test_a_filter_keeps_what_the_reader_looks_at_in_its_place(visit):
    page = visit(viewport={"width": 1280, "height": 700})
    page.locator("#s1-h").evaluate(
        "h => scrollTo(0, scrollY + h.getBoundingClientRect().top - 100)"
    )
    top = "h => Math.round(h.getBoundingClientRect().top)"
    before = page.locator("#s1-h").evaluate(top)
    found = "text => { $('find').value = text; $('find').dispatchEvent(new Event('input')) }"
    page.evaluate(found, "dense")
    assert page.locator("[data-table='0'] tbody tr:visible").count() == 1
    assert abs(page.locator("#s1-h").evaluate(top) - before) <= 1
    page.evaluate(found, "twin")
    assert page.locator("main > section:visible").count() == 1
    shown = page.locator("#s0-h").bounding_box()
    assert 0 <= shown["y"] < 700


@pytest.mark.full
def test_axe_finds_nothing_serious_on_the_first_page(visit):
    for viewport in (DESKTOP, PHONE):
        page = visit(color_scheme="dark", viewport=viewport, bypass_csp=True)
        assert load_axe(page)() == []


def test_the_other_pages_are_links_that_open_from_a_folder(visit):
    page = visit()
    for link in ("leaderboard-papers.html", "leaderboard-tiny.html"):
        assert (page.locator(f"a[href='{link}']").count()) == 1
    assert page.locator("img").count() == 0 and page.locator("script").count() == 2
