"""The page in a browser: what helps to read it, and that its address brings a reader back to what
was on the screen."""

import pytest

from bench.reporting import pairwise
from helpers import fake_records, reports
from helpers.browser import PHONE

LONG = "magnitude + retrain:kernel=foreach"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Write a leaderboard of thirty rows without intervals. Their perplexities have two to seven
    digits."""
    root = tmp_path_factory.mktemp("page")
    for k, method in enumerate(["dense", LONG, *(f"m{k:02}" for k in range(28))]):
        about = {"method": method, "seed": 0 if k else None}
        fake_records.perplexity(root / "run", 0.3 * k, noise=k, **about)
        fake_records.counted(root / "run", "violated_groups", 0.0, **about)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairwise, "MAX_PAIRED_ROWS", 2)
        page = reports.whole_page([root / "run"], reports.published(root / "published"))
    (root / "leaderboard.html").write_text(page)
    return root / "leaderboard.html"


def test_the_head_of_a_long_table_stays_and_on_paper_nothing_scrolls(visit):
    page = visit()
    region = page.locator("[data-table='0'] .scroll")
    head = page.locator("[data-table='0'] thead th").nth(1)
    region.evaluate("e => e.scrollTop = 400")
    assert abs(head.bounding_box()["y"] - region.bounding_box()["y"]) < 1
    is_whole = "e => e.scrollHeight === e.clientHeight"
    page.emulate_media(media="print")
    assert region.evaluate(is_whole)
    page.emulate_media(media="screen")
    page.set_viewport_size(PHONE)
    assert region.evaluate(is_whole), "a phone has one direction to scroll in"


def test_all_rows_that_meet_the_limits_can_be_seen(visit):
    page = visit()
    assert page.locator("#picked tbody tr").count() == 10
    page.get_by_role("button", name="Show all 29").click()
    assert page.locator("#picked tbody tr").count() == 29
    assert page.locator("#picked > button").count() == 0
    assert page.evaluate("document.activeElement.matches('#picked .scroll')")


def test_a_name_breaks_before_a_field_and_its_value(visit):
    page = visit(viewport=PHONE)
    name = page.locator("#picked tbody th", has_text="retrain").first
    assert name.inner_html() == "magnitude + retrain:<wbr>kernel=<wbr>foreach 2:4"


def shown(page):
    return page.locator("[data-table='0'] tbody tr:visible th .name").all_inner_texts()


def test_the_address_holds_what_was_found_filtered_and_sorted(visit):
    page = visit()
    page.fill("#find", "m0")
    page.select_option("select[data-key=pattern]", "2:4")
    head = page.locator("[data-table='0'] thead th", has_text="wiki-mini@128").first
    head.locator("button").click()
    head.locator("button").click()
    assert shown(page)[0] == "m09" and len(shown(page)) == 10
    other = visit(page.evaluate("location.hash"))
    assert shown(other) == shown(page) and other.locator("#find").input_value() == "m0"
    assert other.locator("[aria-sort=descending]").count() == 1
    other.click("#clear")
    assert "find" not in other.evaluate("location.hash") and len(shown(other)) == 30


def test_an_address_that_names_what_is_not_there_filters_nothing(visit):
    page = visit("#rows-pattern=9:9&table=none&sort=<b>&order=up")
    assert len(shown(page)) == 30


def test_a_link_inside_the_page_keeps_the_filters(visit):
    page = visit()
    page.locator("[data-table='0'] thead th button").first.click()
    page.fill("#find", "m0")
    page.locator("nav a").first.click()
    assert len(shown(page)) == 10
    page.select_option("select[data-key=pattern]", "2:4")
    assert "order=ascending" in page.evaluate("location.hash"), "sorted before the click"
