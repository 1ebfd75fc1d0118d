"""The page in a browser: it picks a row by limits as bench pick does.

Skipped without a browser: see the fixture `chromium`.
"""

import pytest

from bench.comparing.result_arguments import read
from bench.reporting import board
from bench.reporting import candidates as picking
from bench.reporting.limits import parse_limits
from helpers import reports
from helpers.browser import PHONE, load_axe

QUESTIONS = (
    {},
    {"max_bits": "10", "max_loss": "15%", "max_worst_drop": "5pp"},
    {"pattern": "2:4", "max_loss": "40%"},
    {"pattern": "2:4", "quant": "int4"},
    {"max_bits": "3", "max_loss": "0%"},
    {"min_speedup": "1.4", "budget_tokens": "10k"},
    {"min_speedup": "2"},
    {"max_bits": "9"},
    {"max_worst_drop": "7.5pp", "budget_tokens": "20k"},
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Rows to pick from."""
    return reports.compressed(tmp_path_factory.mktemp("compressed") / "run")


@pytest.fixture(scope="module")
def file(results):
    """Write their page."""
    page = results.with_name("leaderboard.html")
    page.write_text(reports.whole_page([results]))
    return page


PICKED = """() => { const answer = pick(); return {
    meets: answer.meets.map((row) => [row.name, answer.tied.includes(row), answer.unsure(row)]),
    unmeasured: answer.unmeasured.map((row) => row.name), candidates: answer.candidates,
    broken: answer.broken, uncompared: answer.uncompared,
}; }"""


def address(question):
    return "#model=tiny" + "".join(
        f"&{k.replace('_', '-')}={v.replace('%', '%25')}" for k, v in question.items()
    )


def expected(table, question):
    """Return what `bench pick` finds, in the form of the page's answer."""
    texts = dict(question)
    pattern, quantizer = texts.pop("pattern", ""), texts.pop("quant", "")
    answer = picking.pick(table, parse_limits(**texts), pattern, quantizer)
    meets = [
        [c.row.name, c.tied, [x.limit.noun for x in c.checks if x.unsure]] for c in answer.meets
    ]
    return {
        "meets": meets,
        "unmeasured": sorted(c.row.name for c in answer.unmeasured),
        "candidates": answer.candidates,
        "uncompared": answer.uncompared,
        "broken": [row.name.removesuffix(" (pattern broken)") for row in answer.broken],
    }


def test_the_page_picks_what_the_command_picks(visit, results):
    (section,) = board.make_sections([read(results)])
    page = visit(viewport=PHONE)
    for question in QUESTIONS:
        page.evaluate("hash => { location.hash = hash; readAddress(); }", address(question))
        wanted = expected(section.tables[0], question)
        got = page.evaluate(PICKED)
        # Rows of one quality may stand in another order among those that are not measured.
        assert got | {"unmeasured": sorted(got["unmeasured"])} == wanted, question
        rows = page.locator("#picked tbody th").all_inner_texts()
        names = [r.split(" tied")[0].split(" not sure")[0] for r in rows]
        assert names == [name for name, *_ in wanted["meets"]]
        asked = page.locator("#picked code").inner_text()
        assert all(f"--{k.replace('_', '-')} {v}" in asked for k, v in question.items())
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_sliders_by_keyboard_and_the_address_holds_them(visit):
    page = visit()
    slider = page.get_by_role("slider", name="Most bits per weight")
    assert slider.get_attribute("aria-valuetext") == "off"
    slider.focus()
    while slider.get_attribute("aria-valuetext") != "5":
        page.keyboard.press("ArrowLeft")
    assert page.locator("#picked .verdict").inner_text().startswith("1 of 5 ")
    page.select_option("#pick-pattern", "2:4")
    page.get_by_role("slider", name="Most loss").focus()
    page.keyboard.press("Home")
    assert "None of 4 compressed rows meets" in page.locator("#picked .verdict").inner_text()
    link = page.evaluate("location.hash")
    assert "max-bits=5" in link and "max-loss=0%25" in link and "pattern=2%3A4" in link
    other = visit(link)
    assert other.locator("#picked").inner_text() == page.locator("#picked").inner_text()
    limits = [other.locator(f"#out-max_{name}").inner_text() for name in ("bits", "loss")]
    assert limits == ["5", "0%"]
    other.click("#no-limits")
    assert "5 of 5" in other.locator("#picked .verdict").inner_text()
    link = other.evaluate("location.hash")
    assert link.startswith("#model=tiny") and "max" not in link


def test_an_address_names_a_stop_and_a_wrong_one_is_said(visit):
    """4.7 is between two stops."""
    for address, wrong in (
        ("#model=tiny&max-bits=4.7", "max-bits"),
        ("#model=tiny&max-bits=five&max-loss=<img src=x>", "max-bits, max-loss"),
        ("#model=nobody", "model"),
        ("#model=tiny&protocol=none&pattern=9:9&quant=q", "protocol, pattern, quant"),
    ):
        assert f"invalid {wrong}: left out" in visit(address).locator("#picked").inner_text()


def test_what_it_costs_and_how_sure_it_is(visit):
    page = visit("#model=tiny&pattern=2:4&max-loss=15%25")
    text = page.locator("#picked").inner_text()
    assert "small 2:4 int4 tied" in text and "20k" in text and "1.5 s" in text
    page.click("#picked summary")
    assert "bench prune --method small" in page.locator("#picked details").inner_text()
    page.set_viewport_size(PHONE)
    page.locator("#picked .scroll.scrolls").wait_for()
    page.locator("#picked summary").evaluate("e => e.textContent += 'x'.repeat(300)")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


@pytest.mark.full
def test_axe_finds_nothing_serious_in_an_answer(visit):
    page = visit("#model=tiny&max-loss=15%25", color_scheme="dark", viewport=PHONE, bypass_csp=True)
    assert load_axe(page)() == []
