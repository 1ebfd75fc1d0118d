"""The page in a browser: what a reader does with it, by mouse, by keys and by ear, and what it must
not do.

Skipped without a browser: see the fixture `chromium`.
"""

import pytest

from helpers import fake_records, reports
from helpers.browser import DESKTOP, PHONE, load_axe, visits


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Write a leaderboard of numbers, of names that look like code, and of papers' rows."""
    root = tmp_path_factory.mktemp("page")
    folders = [reports.folder(root / "first"), reports.hostile(root / "hostile")]
    page = reports.whole_page(folders, reports.published(root / "published"))
    (root / "leaderboard.html").write_text(page)
    return root / "leaderboard.html"


@pytest.fixture
def visit_run(tmp_path, chromium, heard):
    """visit_run() -> a visit to the page of the records in tmp_path/run."""

    def run():
        file = tmp_path / "leaderboard.html"
        file.write_text(reports.whole_page([tmp_path / "run"]))
        return visits(chromium, file, heard)

    return run


def shown(page, table=0):
    """Names of the rows that are to be seen, top to bottom."""
    rows = page.locator(f"[data-table='{table}'] tbody tr:visible th .name")
    return [text.strip() for text in rows.all_inner_texts()]


def column(page, name, table=0):
    return page.locator(f"[data-table='{table}'] thead th", has_text=name).first


def cells(page, head, table=0):
    at = head.evaluate("th => th.cellIndex")
    rows = page.locator(f"[data-table='{table}'] tbody tr:visible").all()
    return [
        row.locator("th, td").nth(at).inner_text().replace("\u2007", "").strip() for row in rows
    ]


def said(page):
    return page.locator("#said").inner_text()


@pytest.mark.full
def test_sort(visit):
    page = visit()
    head = column(page, "wiki-mini@128")
    assert head.get_attribute("aria-sort") == "none"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert "sorted by perplexity wiki-mini@128" in said(page)
    up = cells(page, head)
    numbers = [float(v.split()[0]) for v in up[:4]]
    assert numbers == sorted(numbers)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    down = cells(page, head)
    assert down[:4] == up[3::-1]
    assert not any(v[:1].isdigit() for v in up[4:] + down[4:]), "rows without a number are last"
    column(page, "method").locator("button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert shown(page) == sorted(shown(page))


def test_ranks_follow_the_column_sorted_by(visit):
    page = visit()
    ranked_by = page.locator("[data-table='0'] [data-rank-of]")

    def ranks():
        return dict(zip(shown(page), cells(page, column(page, "rank")), strict=True))

    by_name = ranks()
    assert by_name["dense"] == "1"
    assert by_name["twin (1 of 3 seeds)"] == by_name["wanda (3 seeds)"] == "3–4"
    assert ranked_by.inner_text() == "perplexity wiki-mini@128"
    column(page, "piqa@1.0").locator("button").click()
    assert ranked_by.inner_text() == "acc piqa@1.0"
    assert ranks()["wanda (3 seeds)"] == "2–3"
    assert column(page, "piqa@1.0").get_attribute("aria-sort") == "descending", "the best first"


def test_filter(visit):
    page = visit()
    everything = said(page)
    page.fill("#find", "sparsegpt 2:4")
    assert shown(page) == ["sparsegpt (2 of 3 seeds)"] and said(page).startswith("1 of ")
    page.fill("#find", "permllm")
    assert page.locator("main > section:visible h2").all_inner_texts() == ["Published by others"]
    page.fill("#find", "")
    page.select_option("select[data-key=pattern]", "dense")
    assert shown(page) == ["dense"]
    page.select_option("select[data-key=pattern]", "")
    column(page, "piqa@1.0").locator("button").click()
    page.select_option("select[data-section='0']", label="wiki-mini@64, float32, cpu")
    assert "wiki-mini%4064" in page.url and "sort=" not in page.url
    page.select_option("select[data-key=quantizer]", "int8")
    assert shown(page, 1) == ["wanda"]
    page.select_option("select[data-section='0']", index=0)
    assert said(page).endswith("; 1 more under other protocols")
    assert "choose another protocol" in page.locator("#nothing").inner_text()
    assert page.locator("select[data-section='0']").is_visible()
    page.select_option("select[data-key=quantizer]", "")
    page.select_option("select[data-key=model]", reports.IMAGE)
    assert page.locator("main h2:visible").all_inner_texts() == [reports.IMAGE]
    page.fill("#find", "nobody")
    assert page.locator("#nothing").is_visible()
    page.click("#again")
    assert said(page) == everything
    assert page.evaluate("document.activeElement.id") == "find"


def test_choose_columns(visit):
    page = visit()

    def visible():
        heads = [column(page, name) for name in ("bits per weight", "bytes packed")]
        return [head.is_visible() for head in heads]

    assert visible() == [True, True]
    page.click(".choose summary")
    page.uncheck("[data-metric=bits_per_weight]")
    assert visible() == [False, True]
    page.uncheck("[data-metric=bytes_packed]")
    page.check("[data-metric=bytes_packed]")
    assert visible() == [False, True]
    assert page.locator("[data-table] td:visible", has_text="2.0 MB").count()
    page.keyboard.press("Escape")
    assert page.locator(".choose").get_attribute("open") is None
    page.click("#clear")
    assert visible() == [True, True]


def test_a_metric_that_some_tables_show_can_be_shown_and_hidden_everywhere(visit):
    page = visit()
    box = page.locator("[data-metric=perplexity]")
    mixed = page.locator("[data-mixed]").first
    assert mixed.evaluate("e => e.indeterminate") and not box.evaluate("e => e.indeterminate")
    metric = mixed.get_attribute("data-metric")
    heads = page.evaluate(
        f"tables.flatMap(t => t.data.columns.flatMap((c, k) => c.metric === '{metric}' ? "
        "[`[data-table='${t.box.dataset.table}'] [data-column='${k}']`] : []))"
    )

    def hidden():
        return {page.locator(head).evaluate("e => e.hidden") for head in heads}

    assert hidden() == {True, False}
    page.click(".choose summary")
    for only in ({False}, {True}):
        mixed.click()
        assert hidden() == only
    page.click("#clear")
    assert hidden() == {True, False} and mixed.evaluate("e => e.indeterminate")


def pick(page, *names):
    for name in names:
        page.get_by_role("checkbox", name=f"Compare {name}", exact=True).first.check()


def line(page, metric):
    return page.locator("#panel tbody tr", has_text=metric).first.inner_text()


def test_compare_two_rows(visit):
    page = visit()
    assert page.locator("#selection").is_hidden()
    pick(page, "dense")
    assert page.locator("#compare").is_disabled()
    pick(page, "sparsegpt 2:4")
    page.click("#compare")
    printed = line(page, "perplexity wiki-mini@128")
    assert "×1.1107 worse" in printed and "2 seeds, 30 articles" in printed  # exp(0.105)
    packed = line(page, "bytes packed")
    assert "×0.5000" in packed and "exact: counted" in packed
    page.click("#close")
    page.click("#drop")
    pick(page, "sparsegpt 2:4", "dense")
    page.click("#compare")
    assert "×0.9003 better" in line(page, "perplexity wiki-mini@128")  # the other way round
    page.set_viewport_size(PHONE)
    for place in range(4):
        cell = page.locator("#panel tbody tr").first.locator("td").nth(place).bounding_box()
        assert cell["x"] + cell["width"] <= PHONE["width"], "a phone shows change and interval"
    page.click("#close")
    page.click("#drop")
    page.set_viewport_size(DESKTOP)
    for k in (0, 1):  # of two models
        page.get_by_role("checkbox", name="Compare dense", exact=True).nth(k).check()
    page.click("#compare")
    assert line(page, "perplexity").split("\t")[3] == "–"
    assert page.locator("#panel h2").inner_text().endswith("tiny: dense")


def test_counted_numbers_of_two_rows(tmp_path, visit_run):
    """Rounding also makes zeros, so more are not better, and a dense row owes none."""
    for method, seed, zeros, rest in (
        ("wanda", 0, 0.5, 0.0),
        ("wanda", 1, 0.5, 9e3),
        ("other", 0, 0.4, 1298204.0),
        ("rounded", 0, 0.6, 0.0),
        ("dense", 0, 0.1, 9e6),
    ):
        fake_records.perplexity(tmp_path / "run", method=method, seed=seed, noise=seed + 1)
        about = {"method": method, "seed": seed, "beside": {"nonzeros": rest}}
        layers = [fake_records.Item("layer", "layer", zeros, 1.0)]
        fake_records.counted(tmp_path / "run", "sparsity", zeros, items=layers, **about)
    with visit_run() as go:

        def compared(*names):
            page = go()
            pick(page, *names)
            page.click("#compare")
            return line(page, "nonzeros"), line(page, "sparsity")

        nonzeros, sparsity = compared("wanda 2:4", "other 2:4")
        assert "+1,298,204 worse" in nonzeros and "exact over shared seeds" in nonzeros
        assert "−0.1 worse" in sparsity
        _, sparsity = compared("wanda 2:4", "rounded 2:4")
        assert "+0.1\t" in sparsity
        nonzeros, sparsity = compared("rounded 2:4", "dense")
        assert "−0.5\t" in sparsity and "worse" not in nonzeros


def test_a_change_of_times_has_a_unit(tmp_path, visit_run):
    for method, seconds in (("dense", 0.001), ("wanda", 578.1)):
        fake_records.perplexity(tmp_path / "run", method=method, cost={"build_s": seconds})
    with visit_run() as go:
        page = go()
        pick(page, "dense", "wanda 2:4")
        page.click("#compare")
        assert "+578.1 s\t" in line(page, "time to make")


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_a_long_name_does_not_widen_the_page(viewport, tmp_path, visit_run):
    for protocol in ("wiki-mini@128", f"{'p' * 600}@128"):
        for method in ("dense", "m" * 600):
            about = {"method": method, "protocol": protocol, "identity": {"model": "x" * 600}}
            fake_records.perplexity(tmp_path / "run", 0.1 * len(method), **about)
    with visit_run() as go:
        width = go(viewport=viewport).evaluate("document.documentElement.scrollWidth")
        assert width == viewport["width"]


def test_every_number_opens_what_it_was_made_from(visit):
    page = visit()
    panel = page.locator("#panel")
    row = page.locator("[data-table='0'] tbody tr", has_text="wanda (3 seeds)")
    row.locator("td", has_text="41.86").locator(".n button").click()
    text = panel.inner_text()
    assert text.count("Record ") == 3
    parts = ("c" * 40, "bench show ", "EPYC", "standard deviation over seeds")
    assert [part for part in parts if part not in text] == []
    page.keyboard.press("Escape")
    page.locator("td.bad .n button").first.click()
    assert "failed: CUDA ran out of memory at block 3" in panel.inner_text()
    page.click("#close")
    page.locator(".published td .n button").last.click()
    assert "PermLLM" in panel.inner_text() or "MaskLLM" in panel.inner_text()


def test_a_row_links_to_its_weights(tmp_path, visit_run):
    record = fake_records.perplexity(tmp_path / "run", method="dense")
    url = "https://example.org/tiny/dense"
    (tmp_path / "run/about.toml").write_text(f'[weights]\n{record.key[:12]} = "{url}"\n')
    with visit_run() as go:
        page = go()
        page.locator("td .n button").first.click()
        assert page.locator("#panel a", has_text="Weights").get_attribute("href") == url


def focused(page):
    return page.evaluate("(document.activeElement.textContent || document.activeElement.id).trim()")


def test_keys_alone(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "results"
    on_head = "document.activeElement.matches('thead [data-column] button')"
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate(on_head) and "@128" in focused(page):
            break
    assert "wiki-mini@128" in focused(page)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert column(page, "wiki-mini@128").get_attribute("aria-sort") == "ascending"
    while not page.evaluate("document.activeElement.matches('tbody input')"):
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    first = focused(page)
    page.keyboard.press("ArrowDown")
    assert focused(page) != first
    page.keyboard.press("ArrowUp")
    assert focused(page) == first
    for _ in range(6):  # past the sizes and the perplexity
        page.keyboard.press("ArrowRight")
        if focused(page).startswith("0.500"):
            break
    assert focused(page).startswith("0.500")
    page.keyboard.press("Enter")
    assert page.locator("#panel").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#panel").is_hidden() and focused(page).startswith("0.500")
    for _ in range(2):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('tbody input')"):
            page.keyboard.press("Space")
    page.locator("#compare").focus()
    page.keyboard.press("Enter")
    assert "compared with" in page.locator("#panel h2").inner_text()


def test_light_and_dark(visit):
    paper = "getComputedStyle(document.body).backgroundColor"
    page = visit(color_scheme="dark")
    dark = page.evaluate(paper)
    page.click("#theme")
    light = page.evaluate(paper)
    assert light != dark and page.locator("#theme").inner_text() == "Dark"
    page.click("#theme")
    page.emulate_media(media="print")
    assert page.evaluate(paper) == light, "paper is light"
    assert visit(color_scheme="light").evaluate(paper) == light


def test_at_a_high_zoom_the_tools_cover_no_heading(visit):
    page = visit(viewport={"width": 645, "height": 450})
    page.locator("nav a").first.click()
    above = (
        "h => { const b = h.getBoundingClientRect(); return document.elementFromPoint(b.x + 5, "
        "b.y + 5) === h }"
    )
    assert page.locator("#s0-h").evaluate(above)


def test_a_phone_scrolls_tables_and_never_the_page(visit):
    """The name and the quality of a row are seen without scrolling."""
    page = visit(viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    region = page.locator("[data-table='0'] .scroll")
    first = page.locator("[data-table='0'] tbody th").first
    head, name = column(page, "perplexity").bounding_box(), first.bounding_box()
    assert name["x"] >= 0 and name["x"] + name["width"] <= head["x"]
    assert head["x"] + head["width"] <= PHONE["width"]
    after = "e => getComputedStyle(e, '::after').content"
    assert "Scroll sideways" in region.locator("caption").evaluate(after)
    assert region.evaluate("e => e.scrollWidth > e.clientWidth")
    region.evaluate("e => e.scrollLeft = 200")
    assert abs(first.bounding_box()["x"] - region.bounding_box()["x"]) < 1, "the column stays"
    page.locator("[data-table='0'] td .n button:visible").first.click()
    assert page.locator("#panel").bounding_box()["width"] <= PHONE["width"]


def test_a_print_on_a4_cuts_nothing(visit):
    """A note is as large as a number."""
    page = visit(viewport={"width": 1047, "height": 718})  # 277 by 190 mm
    page.emulate_media(media="print")
    right = "all => Math.max(...all.map(t => t.getBoundingClientRect().right))"
    assert page.locator("table").evaluate_all(right) <= 1047
    words = "b => [...b.textContent.matchAll(/\\S+/g)].map(m => [m.index, m.index + m[0].length])"
    lines = (
        "([from, to]) => { const r = document.createRange(); r.setStart(t, from); r.setEnd(t, "
        "to); return r.getClientRects().length }"
    )
    cut = f"b => {{ const t = b.firstChild; return ({words})(b).some(w => ({lines})(w) > 1) }}"
    heads = page.locator("thead b:visible")
    assert heads.evaluate_all(f"all => all.filter({cut}).map(b => b.textContent)") == []
    sizes = "all => [...new Set(all.map(cell => getComputedStyle(cell).fontSize))]"
    assert len(page.locator("td.bad, td.num").evaluate_all(sizes)) == 1


def test_hostile_names_are_shown_and_do_nothing(visit):
    page = visit()
    headings = page.locator("h2").all_inner_texts()
    assert {reports.IMAGE, reports.FORMULA} <= set(headings)
    assert page.locator("img").count() == 0 and page.locator("script").count() == 2
    rows = page.get_by_role("checkbox", name=f"Compare {reports.CLOSING} 2:4").all()
    rows[0].check()
    page.get_by_role("checkbox", name="Compare {{ 7 * 7 }} 2:4").first.check()
    page.click("#compare")
    assert reports.CLOSING in page.locator("#panel h2").inner_text()
    page.click("#close")
    page.locator("td.bad .n button").nth(1).click()
    assert f"{reports.CLOSING} in a reason" in page.locator("#panel").inner_text()


def test_the_policy_stops_what_is_not_the_page(visit, heard):
    page = visit()
    policy = page.evaluate(
        """() => new Promise(done => {
            document.addEventListener("securitypolicyviolation", e => {
                e.preventDefault(); done(e.effectiveDirective);
            });
            const s = document.createElement("script");
            s.textContent = "window.broken = 1"; document.body.append(s);
            setTimeout(() => done("nothing"), 1000);
        })"""
    )
    assert policy.startswith("script-src") and page.evaluate("window.broken") is None
    assert "Content Security Policy" in heard.pop()


def test_the_tables_stand_without_the_script(visit):
    page = visit(java_script_enabled=False)
    assert "sparsegpt (2 of 3 seeds)" in page.locator("main").inner_text()
    assert column(page, "bytes packed").is_visible()
    assert page.locator("td", has_text="2.0 MB").first.is_visible()
    assert page.locator("#tools").is_hidden() and page.locator("noscript").count()


def test_axe_finds_nothing_serious(visit):
    page = visit(color_scheme="dark", viewport=PHONE, bypass_csp=True)
    serious = load_axe(page)
    assert serious() == []
    pick(page, "dense", "sparsegpt 2:4")
    page.click("#compare")
    assert serious() == []
    page.click("#close")
    page.locator("td .n button:visible").first.click()
    assert serious() == []


def test_budgets_and_seeds_are_shown_on_demand_below_their_row(visit):
    page = visit()
    seeds = ["wanda, seed 0", "wanda, seed 1", "wanda, seed 2"]

    def below():
        at = shown(page).index("wanda (3 seeds)")
        return shown(page)[at + 1 : at + 4]

    assert not any("seed 0" in name for name in shown(page))
    page.check("#unfold")
    assert below() == seeds
    column(page, "wiki-mini@128").locator("button").click()
    assert sorted(below()) == seeds, "sorted, they stay with it"
    page.uncheck("#unfold")
    assert not any("seed 0" in name for name in shown(page))


def test_seeds_of_a_smaller_budget_are_below_it(tmp_path, visit_run):
    fake_records.perplexity(tmp_path / "run", method="dense")
    for tokens, seed in ((4000, 0), (1000, 0), (1000, 1)):
        identity = {"training": f"wiki-mini@128x8, {tokens:,} tokens"}
        about = {"method": "cast", "seed": seed, "noise": seed, "identity": identity}
        fake_records.perplexity(tmp_path / "run", 100 / tokens, **about)
    with visit_run() as go:
        page = go()
        page.check("#unfold")
        for _ in range(2):
            names = shown(page)
            at = next(k for k, name in enumerate(names) if "2 seeds" in name)
            assert len(names) == 5 and {*names[at + 1 : at + 3]} == {"cast, seed 0", "cast, seed 1"}
            column(page, "wiki-mini@128").locator("button").click()
