"""The leaderboard's files: the same bytes from the same records, stale or not, and every name a
name."""

import base64
import csv
import hashlib
import html
import io
import json
import math
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.cli import flags
from bench.comparing.paired_estimate import estimate_pair
from bench.comparing.pairing import pair_seeds
from bench.comparing.result_arguments import read
from bench.comparing.seed_noise_table import SeedNoiseTable
from bench.parts.leaderboard import board_files as leaderboard
from bench.parts.leaderboard import first_page, front_figure, html_data, latex
from bench.parts.leaderboard import html as html_module
from bench.planning.spec import Spec
from bench.reporting import from_records, pairwise, pareto
from bench.reporting.folders import results_folders
from bench.reporting.view import Table, TableCell, TableColumn, TableRow
from bench.results import reproduce
from helpers import fake_records, reports, terminal

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Two results folders and one that papers filled."""
    root = tmp_path_factory.mktemp("filled") / "results"
    reports.folder(root / "first")
    reports.hostile(root / "hostile")
    reports.published(root / "published")
    return root


@pytest.fixture
def here(tmp_path, monkeypatch, filled):
    """Make a working folder with a copy of the first and of papers' rows."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "published"):
        shutil.copytree(filled / name, tmp_path / "results" / name)
    return tmp_path


def build(*folders, others):
    return {k: v.decode() for k, v in leaderboard.build(folders, others).items()}


@pytest.fixture(scope="module")
def first(filled):
    return read(filled / "first")


@pytest.fixture(scope="module")
def files(filled):
    """Files of the first folder, and of papers' rows."""
    return build(filled / "first", others=filled / "published")


@pytest.fixture(scope="module")
def table(first):
    """The only table of the first folder."""
    (table,) = from_records.make_section(first, "first").tables
    return table


def row(table, method, **about):
    return next(
        k
        for k, r in enumerate(table.rows)
        if r.filters["method"] == method and all(r.filters[c] == v for c, v in about.items())
    )


# --- the command ----------------------------------------------------------------------------------


def test_report_writes_the_same_bytes_twice_and_a_check_names_what_is_stale(cli, output, here):
    out = output("report")
    assert {"reports/leaderboard." + e for e in ("md", "html", "csv", "tex")} <= set(out.split())
    assert any(line.endswith(".svg") for line in out.split())
    assert cli("report", "--check")[0] == 0
    markdown, latex, gone, *kept = (
        here / "reports" / name
        for name in (
            "leaderboard.md", "leaderboard.tex", "leaderboard-gone-9-0-0.svg",
            "leaderboard-notes.txt", "notes.txt",
        )
    )  # fmt: skip
    latex.unlink()
    for file in (markdown, gone, *kept):
        file.write_text("other")
    code, _, err = cli("report", "--check")
    assert code == 1
    assert all(f"reports/{stale.name}" in err for stale in (markdown, latex, gone))
    assert "html" not in err and "notes" not in err
    cli("report")
    assert markdown.read_text() != "other" and latex.exists()
    assert not gone.exists() and all(file.exists() for file in kept)


def test_unfinished_files_of_a_killed_report_are_deleted(output, here):
    (here / "reports").mkdir()
    unfinished, other = (
        here / "reports" / f".{name}.tmp" for name in ("leaderboard.html.0123", "notes")
    )
    for file in (unfinished, other):
        file.touch()
    output("report")
    assert not unfinished.exists() and other.exists()


def test_what_prints_and_what_writes(cli, output, here):
    line = ("report", "--results", "results/first")
    for args in ((), ("--format", "md")):
        assert "sparsegpt" in output(*line, *args)
    assert "there/leaderboard.html" in output(*line, "--out", "there")
    assert not (here / "reports").exists()
    assert cli(*line, "--out", "there", "--check")[0] == 0


def test_the_own_folder_counts_where_it_is_the_only_one_and_else_its_absence_is_said(
    cli, in_tmp_path
):
    fake_records.perplexity(Path("results/local"))
    assert [p.name for p in results_folders()] == ["local"]
    assert cli("report")[2] == ""
    fake_records.perplexity(Path("results/first"))
    assert [p.name for p in results_folders()] == ["first"]
    code, _, err = cli("report")
    assert code == 0 and "bench report --results results/local --out DIR" in err
    assert cli("report", "--results", "results/local", "--out", "mine")[2] == ""


def test_search_folders_of_one_name_have_different_titles(in_tmp_path):
    folders = ["results/first", "other/first"]
    for folder in folders:
        fake_records.perplexity(Path(folder))
    results = [read(Path(folder)) for folder in folders]
    assert [s.title for s in leaderboard.make_search_sections(results)] == folders


# --- the contents ---------------------------------------------------------------------------------


def test_failures_and_missing_seeds_are_said_everywhere(files):
    for name, text in files.items():
        if name.endswith((".md", ".html", ".tex")) and "papers" not in name:
            assert "failed: CUDA ran out of memory at block 3" in text, name
            assert "sparsegpt (2 of 3 seeds)" in text, name
    assert "failed,CUDA ran out of memory at block 3" in files["leaderboard.csv"]


def test_one_row_of_one_record(files, tmp_path):
    fake_records.perplexity(tmp_path)
    one = build(tmp_path, others=None)
    assert "1 record of 1 model in 1 row." in one["leaderboard.html"]
    assert "1 record · commit" in one["leaderboard.md"]
    control = "Show budgets and seeds shows the others"
    assert control in files["leaderboard-tiny.html"], "where a row has parts"
    assert control not in one["leaderboard-tiny.html"] and control not in files["leaderboard.md"]


def test_published_rows_stay_apart(files, first, filled):
    assert "LLaMA2" not in files["leaderboard.csv"]
    *sections, last = leaderboard.make_sections([first], filled / "published")
    assert last.published and not any(s.published for s in sections)
    long, short = ([[c and c.text for c in r.cells] for r in t.rows] for t in last.tables)
    assert long == [["5.12", None, "57.16"], ["11.00", "×2.148", "45.98"]]
    assert short == [["12.16"]], "no dense row, so no ratio"
    (name,) = (c.name for c in last.tables[1].columns)
    assert name == "perplexity wikitext2@2048"
    names = ("leaderboard.md", "leaderboard-papers.html", "leaderboard.tex")
    assert all("MaskLLM, table 1" in files[name] for name in names)
    assert "MaskLLM" not in files["leaderboard.html"]


# --- pairs of rows --------------------------------------------------------------------------------


def test_an_interval_is_that_of_the_same_windows(table, first):
    a, b = sorted((row(table, "sparsegpt"), row(table, "wanda", quantizer="none")))
    found = table.intervals[a, b, 0]
    plain = [
        r for r in first.records
        if r.identity.measure == "perplexity" and r.identity.quantizer == "none"
    ]  # fmt: skip
    sides = [
        {r.identity.seed: r for r in plain if r.identity.method == table.rows[k].filters["method"]}
        for k in (a, b)
    ]
    (pair,), _ = pair_seeds("", *sides, True)
    noise = SeedNoiseTable(first.records).of_pair(pair).noise
    expected = estimate_pair(pair, first, first, 0.05, noise)
    ends = tuple(map(math.exp, (expected.value, expected.low, expected.high)))
    near = (ends[2] - ends[1]) / 1e3
    assert (found.value, found.low, found.high) == pytest.approx(ends, abs=near)
    assert (found.seeds, found.n, found.unit) == (2, fake_records.ARTICLES, "articles")
    assert abs(math.log(found.value)) == pytest.approx(0.1, abs=1e-6)


def test_an_interval_from_one_seed_has_the_noise_of_rows_with_seeds(tmp_path):
    """Two rows with seeds differ by 1% and 3% from seed to seed; a third has one seed."""
    for method, spread in (("wanda", 0.01), ("ria", 0.03)):
        for seed in range(3):
            fake_records.perplexity(tmp_path, spread * seed, method=method, seed=seed)
    fake_records.perplexity(tmp_path, 0.1, 0.01, noise=1, method="sparsegpt", seed=0)
    fake_records.perplexity(tmp_path, method="dense")
    section = from_records.make_section(read(tmp_path), "one")
    (table,) = section.tables
    a, b = sorted((row(table, "dense"), row(table, "sparsegpt")))
    found = table.intervals[a, b, 0]
    source = found.seed_noise
    assert source == "one-shot 2.2% (from 2 one-shot rows with seeds)"
    # Student's t with 4 degrees of freedom
    assert math.log(found.high / found.low) > 2 * 2.7 * 0.022
    assert any(source in note for note in table.notes)
    assert source in html_module.render_page([section], {})
    assert latex.escape(source) in latex.render_document([("", "", [table.to_text_table()])])


def test_rows_that_do_not_differ_share_a_rank(table):
    ranks = {table.rows[k].name: r for k, r in enumerate(table.ranks[0])}
    assert ranks["dense"] == "1" and ranks["sparsegpt 2:4"] == "2"
    assert ranks["wanda 2:4"] == ranks["twin 2:4"] == "3–4"
    assert ranks["magnitude 2:4"] == "" and ranks["wanda 2:4 int8"] == ""


def test_bits_rank_no_row_where_its_quality_has_no_rank(first):
    """A rank by bits would look like one by perplexity."""
    section = from_records.make_section(first, "first")
    (table,) = section.tables
    bits = next(c for c, one in enumerate(table.columns) if one.metric == "bits_per_weight")
    table = replace(table, ranks={bits: ("1",) * len(table.rows)})
    data = html_data.page_data([replace(section, tables=(table,))], 100, picks=False)
    assert table.ranked_by is None and "rank" not in table.to_text_table().headers
    assert [one["ranks"] for one in data["tables"]] == [None]


def test_of_too_many_rows_the_best_are_ranked_and_paired(first, monkeypatch):
    """A rank counts all rows. One that was not compared may tie with each of them."""
    (whole,) = from_records.make_section(first, "first").tables
    monkeypatch.setattr(pairwise, "MAX_PAIRED_ROWS", 3)
    section = from_records.make_section(first, "first")
    (table,) = section.tables
    numbers = {k: value for k in range(len(table.rows)) if (value := table.value(k, 0)) is not None}
    *best, worst = sorted(numbers, key=lambda k: numbers[k])
    assert [whole.ranks[0][k] for k in (*best, worst)] == ["1", "2", "3–4", "3–4"]
    assert [table.ranks[0][k] for k in (*best, worst)] == ["1–2", "2–3", "3–4", ""]
    assert not any(worst in rows and c == 0 for *rows, c in table.intervals) and table.unranked == 5
    said = "5 rows are too many to compare in pairs"
    assert said in " ".join(table.to_text_tables()[-1].notes)
    assert said in html_module.render_page([section], {})


# --- the front ------------------------------------------------------------------------------------


def fronts_of(columns, values, **filters):
    """Fronts of a table. columns: arguments of each; values: of each row, one for each column."""
    columns = tuple(TableColumn(*column) for column in columns)
    cells = [tuple(TableCell("", value) for value in row) for row in values]
    rows = tuple(TableRow(str(i), (), filters, row) for i, row in enumerate(cells))
    return list(pareto.fronts(Table("t", (), columns, rows)))


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_the_front_is_what_nothing_beats_in_both(better):
    rng = np.random.default_rng(0)
    places = rng.integers(1, 12, (60, 2)).astype(float)
    columns = ("perplexity", "p", better, "1"), ("bytes_packed", "weights", "lower", "B")
    (front,) = fronts_of(columns, places)
    sign = 1 if better == "lower" else -1
    for point, (q, b) in zip(front.points, places, strict=True):
        beaten = any(sign * u <= sign * q and v <= b and (u, v) != (q, b) for u, v in places)
        assert point.on_front != beaten


def test_speeds_have_a_front_of_their_own():
    """Between two rows stands the worse one."""
    columns = (
        ("perplexity", "p", "lower", "1"),
        ("bytes_packed", "weights", "lower", "B"),
        ("decode", "512", "higher", "tokens/s"),
    )
    fronts = fronts_of(columns, [(10.0 + i, 5.0 - i, 1.0 + i) for i in range(3)])
    assert [f.x.metric for f in fronts] == ["bytes_packed", "decode"]
    panels = [front_figure.draw_fronts([[front]]).axes[0] for front in fronts]
    assert [p.get_lines()[0].get_drawstyle() for p in panels] == ["steps-post", "steps-pre"]


@pytest.mark.parametrize("sizes", [("bits_per_weight", "bytes_packed"), ("bits_per_weight",)])
def test_rows_are_compared_by_bytes_if_they_have_them(sizes):
    columns = [(name, "p", "lower", "1") for name in ("perplexity", *sizes)]
    fronts = fronts_of(columns, [(10.0 + i,) * len(columns) for i in range(3)])
    assert [f.x.metric for f in fronts] == [sizes[-1]]


def test_the_csv_says_which_of_two_records_with_one_identity_the_tables_have(tmp_path):
    folders = [tmp_path / "day1", tmp_path / "day2"]
    for day, folder in enumerate(folders, start=1):
        recorded = {"recorded": f"2026-11-0{day}T00:00:00Z"}
        fake_records.perplexity(folder, 0.1 * day, made=folder.name, provenance=recorded)
    text = build(*folders, others=tmp_path / "no papers")["leaderboard.csv"]
    lines = csv.DictReader(io.StringIO(text))
    found = [(Path(line["folder"]).name, line["in_tables"]) for line in lines]
    assert found == [("day1", "no"), ("day2", "yes")]


# --- names are names ------------------------------------------------------------------------------


def test_hostile_names_stay_text(filled, tmp_path):
    others = reports.published(tmp_path, reports.PUBLISHED.replace("PermLLM", reports.CLOSING))
    files = build(filled / "hostile", others=others)
    pages = {name: text for name, text in files.items() if name.endswith(".html")}
    assert len(pages) == 4
    models = {}
    for name, text in pages.items():
        assert "<img" not in text
        assert text.count("<script") == 2
        assert "49" not in re.findall(r"\{\{.*?\}\}|49 ", text)
        data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1]
        assert "<" not in data
        models[name] = {t["title"] for t in json.loads(data)["tables"]}
    assert models.pop("leaderboard.html") == {reports.IMAGE, reports.FORMULA}
    assert {reports.IMAGE} in models.values() and {reports.FORMULA} in models.values()
    assert html.escape(reports.IMAGE) in files["leaderboard.html"]
    markdown = files["leaderboard.md"]
    assert r"\*\*x\*\*&#124;y&#96;z&#96;" in markdown
    assert markdown.index("## Summary") < markdown.index("| method |")
    for name, content in files.items():
        if name.endswith((".svg", ".md")):
            assert "<script" not in content and "<img" not in content
    cells = {cell for line in csv.reader(io.StringIO(files["leaderboard.csv"])) for cell in line}
    assert {"'" + reports.FORMULA, "'@SUM(1)", reports.IMAGE} <= cells
    assert not any(cell.startswith(("=", "@", "+")) for cell in cells)
    tex = files["leaderboard.tex"]
    assert r"\input{x}" not in tex and r"\textbackslash{}input\{x\}\%" in tex and "U+65E5]" in tex


def test_nothing_that_a_terminal_acts_on_is_in_any_file(tmp_path):
    name = "a\x1b[2J\x07\x9b:b\u202e"
    for i, method in enumerate(("dense", name, name + "2")):
        about = {"method": method, "identity": {"model": name}, "seed": 0}
        fake_records.perplexity(tmp_path / "r", 0.1 * i, noise=i, **about)
        fake_records.bits(tmp_path / "r", 9.0 - i, **about)
    fake_records.failed(tmp_path / "r", name, method="cast", identity={"model": name})

    files = build(tmp_path / "r", others=tmp_path / "no papers")

    assert {Path(name).suffix for name in files} == {".html", ".md", ".csv", ".tex", ".svg"}
    for file, text in files.items():
        assert not terminal.obeyed(text.replace("\N{FIGURE SPACE}", " ")), file
    assert "\\u001b" not in files["leaderboard.html"], "what the page's script shows is text, too"


def test_every_special_character_is_escaped_in_latex():
    ascii_ = "".join(map(chr, range(32, 127)))
    bare = re.sub(r"\\text[a-z]+\{\}|\\[{}$&#%_]|\{[-*[]\}", "", latex.escape(ascii_))
    assert not set(bare) & set("\\{}$&#%_^~<>|\"'`-[*")
    assert latex.escape("31.02 ± 0.42") == r"31.02 $\pm$ 0.42"
    assert latex.escape("中\x07") == "{[}U+4E2D]{[}U+0007]"


@pytest.mark.slow
def test_latex_compiles(filled, tmp_path, in_tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("no pdflatex: apt-get install texlive-latex-recommended")
    made = build(filled / "first", filled / "hostile", others=filled / "published")
    (tmp_path / "l.tex").write_text(made["leaderboard.tex"])
    command = [
        "pdflatex",
        "-interaction=nonstopmode",
        "-halt-on-error",
        "-no-shell-escape",
        "l.tex",
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:]
    assert "Overfull" not in (tmp_path / "l.log").read_text(errors="replace")


# --- the page as a file ---------------------------------------------------------------------------


def test_the_page_trusts_its_own_script_and_style_alone(files):
    text = files["leaderboard.html"]
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
    for tag in ("script", "style"):
        (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert not re.search(r"\sstyle=|\son[a-z]+=", markup)
    # A digest in base64 may have two slashes.
    text = re.sub(r"'sha256-[^']*'|&#39;sha256-.*?&#39;", "", text)
    addresses = set(re.findall(r"(?:https?:)?//[a-z0-9.]+", text, re.I)) - {"http://www.w3.org"}
    assert not addresses, addresses


def test_the_page_has_every_number_and_what_it_was_made_from(files, first, filled):
    page = files["leaderboard-tiny.html"]
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert {record["name"] for record in data["records"]} == {r.key[:32] for r in first.records}
    sections = leaderboard.make_sections([first], None)
    rows = [row for section in sections for table in section.tables for row in table.rows]
    shown = [row for table in data["tables"] for row in table["rows"]]
    for row_, given_row in zip(rows, shown, strict=True):
        for cell, given in zip(row_.cells, given_row["cells"], strict=True):
            assert (cell is None) == (given is None)
            if cell:
                # 12 digits: versions of Python add otherwise
                assert given["v"] == (cell.value and float(f"{cell.value:.12g}"))
                names = [data["records"][at]["name"] for at in given["r"]]
                assert names == list(cell.records)
    for field, expected in (("commit", "c" * 40), ("folder", str(filled / "first"))):
        assert {data["strings"][r[field]] for r in data["records"]} == {expected}


# --- the first page -------------------------------------------------------------------------------


def test_the_first_page_has_seven_columns_of_whole_rows_and_their_pairs(first):
    (whole,) = leaderboard.make_sections([first], None)
    short = first_page.shorten(whole)
    full, (table,) = whole.tables[0], short.tables
    assert len(table.label_names) + 1 + len(table.columns) <= first_page.MAX_COLUMNS
    assert [c.metric for c in table.columns][:3] == [
        "bytes_packed",
        "perplexity",
        "perplexity_ratio",
    ]
    assert [row.name for row in table.rows] == [full.rows[k].name for k in full.whole_rows]
    assert any(row.labels == ("sparsegpt (2 of 3 seeds) · 2:4",) for row in table.rows)
    places = {row.name: k for k, row in enumerate(table.rows)}
    columns = {column.name: c for c, column in enumerate(full.columns)}
    assert table.intervals
    for (a, b, c), interval in table.intervals.items():
        was = sorted(k for k in full.whole_rows if places[full.rows[k].name] in (a, b))
        assert full.intervals[was[0], was[1], columns[table.columns[c].name]] == interval
    rank = {row.name: rank for row, rank in zip(full.rows, full.ranks[full.ranked_by], strict=True)}
    assert table.ranks[table.ranked_by] == tuple(rank[row.name] for row in table.rows)
    used = {name for row in table.rows for cell in row.cells if cell for name in cell.records}
    assert set(short.records) == used < set(whole.records)


def test_sections_without_quality_are_linked_and_files_of_one_name_are_told_apart(tmp_path):
    for model in ("a b", "a-b"):
        fake_records.perplexity(tmp_path / "r", identity={"model": model})
    fake_records.latency(tmp_path / "r", identity={"model": "timed"})
    files = build(tmp_path / "r", others=None)
    assert {name for name in files if name.endswith(".html")} == {
        "leaderboard.html", "leaderboard-a-b-0.html", "leaderboard-a-b-1.html",
        "leaderboard-timed.html",
    }  # fmt: skip
    page = files["leaderboard.html"]
    assert '<li><a href="leaderboard-timed.html">timed</a></li>' in page
    assert page.count("<h2 ") == 2 + page.count('<h2 id="panel-h"')
    assert 'href="leaderboard.html"' in files["leaderboard-timed.html"]


# --- how a number is made again -------------------------------------------------------------------


FULL = [pytest.param(folder, marks=pytest.mark.full) for folder in ("tiny-default", "tiny-methods")]


@pytest.mark.parametrize("folder", ["tiny-long", *FULL])
def test_the_command_shown_is_the_run_that_made_it(folder):
    for record in read(ROOT / "results" / folder).records:
        _, _, *words = shlex.split(reproduce.command([record]))
        names = {flag: name for name, flag in reproduce.FLAGS.items()}
        given = {}
        for flag, value in zip(words[::2], words[1::2], strict=True):
            if flag == "--set":
                given.setdefault("set_", []).append(value)
            else:
                given[names[flag]] = value
        assert flags.spec_of(given) == Spec(
            **reproduce.settings(record) | {"results": flags.spec_of({}).results}
        )
