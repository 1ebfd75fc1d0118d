"""Tables of records as text: means over seeds, failures, the order of rows, and names that stay
names."""

import io
import json

import pandas as pd
import pytest

from bench.comparing.result_arguments import read
from bench.reporting import board, table
from bench.results.record import ReadingRow
from helpers import fake_records

pytestmark = pytest.mark.usefixtures("cache", "in_tmp_path")


METRICS = {"perplexity": "perplexity", "size": "sparsity"}
SIZE = {"measure": "size", "protocol": "weights"}


def cell(method="magnitude", seed=None, value=1.0, status="ok", *, measure="perplexity", **more):
    """Make a record with one number. more: its protocol, and other parts of its identity."""
    slot = (method, seed, measure, more.pop("protocol", "wiki-mini@128"))
    row = ReadingRow(metric=METRICS[measure], value=value, unit="1", better="lower", n=4)
    result = {"readings": [row]} if status == "ok" else {"reason": "OOM"}
    return fake_records.record(*slot, status=status, identity={"model": "m"} | more, **result)


def lines(records):
    (grid,) = table.text_tables(records)
    return [dict(zip(grid.headers, line, strict=True)) for line in grid.lines]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((10.0, 11.0, 12.0), "11.0 ± 1.0"),
        ((40.42273468, 40.42273468, 40.42273532), "40.42"),  # they differ by rounding
        ((40.4227, 40.4228, 40.4229), "40.422800 ± 0.000100"),
    ],
)
def test_seeds_are_mean_and_standard_deviation(values, text):
    (line,) = lines([cell("wanda", s, v) for s, v in enumerate(values)])
    assert line["method"] == "wanda (3 seeds)"
    assert line["perplexity wiki-mini@128"] == text


def test_a_measure_that_failed_for_a_seed_leaves_no_average_in_any_of_its_columns():
    sizes = [cell("wanda", s, status=x, **SIZE) for s, x in enumerate(("ok", "failed", "ok"))]
    (line,) = lines(sizes)
    assert line["sparsity"] == "OOM (1 of 3 seeds)"


def test_a_reason_is_told_once_a_line():
    skipped = [cell(status="skipped", **kind) for kind in ({}, SIZE)]
    for record in skipped:
        record.reason = "no CUDA device"
    line = lines([*skipped, cell("wanda"), cell("wanda", **SIZE)])[1]
    assert list(line.values())[2:] == ["skipped: no CUDA device", "skipped"]


def test_missing_seeds_are_said():
    """Interrupt a run: sparsegpt lacks seeds that wanda has, and wanda's last one lacks a
    measure."""
    records = [cell("wanda", s, 10.0 + s, **kind) for s in range(3) for kind in ({}, SIZE)][:-1]
    records += [cell("sparsegpt", s, 5.0) for s in (0, 2)]
    records += [cell("magnitude"), cell("other", 0, pattern="4:8")]
    got = {x["method"].split(" ")[0]: x for x in lines(records)}
    assert got["sparsegpt"]["method"] == "sparsegpt (2 of 3 seeds)"
    assert got["wanda"]["method"] == "wanda (3 seeds)"
    assert got["magnitude"]["method"] == "magnitude" and got["other"]["method"] == "other"
    assert got["wanda"]["perplexity wiki-mini@128"] == "11.0 ± 1.0"
    assert got["wanda"]["sparsity"] == "10.50 ± 0.71 (2 of 3 seeds)"


def test_protocols_never_share_a_column():
    found = lines([cell(value=5.0, protocol="a@2"), cell("wanda", 0, 4.0, protocol="a@4")])
    assert {(x["perplexity a@2"], x["perplexity a@4"]) for x in found} == {("5", "–"), ("–", "4")}


def test_rows_measured_alike_stand_together_and_in_order():
    """Sort each set by its first column: dense first, then the best, failures last."""
    records = []
    for dtype, protocol in (("float32", "b@1"), ("bfloat16", "a@1")):
        known = {"protocol": protocol, "dtype": dtype}
        records += [cell("bad", value=4.0, **known), cell("fails", status="failed", **known)]
        records += [cell("good", value=3.0, **known), cell("dense", value=9.0, **known)]
    got = lines(records)
    assert [x["dtype"] for x in got] == ["bfloat16"] * 4 + ["float32"] * 4
    assert [x["method"] for x in got] == ["dense", "good", "bad", "fails"] * 2
    assert [x["perplexity a@1"] for x in got] == ["9", "3", "4", "OOM", "–", "–", "–", "–"]


def test_a_failure_is_shown_where_its_protocol_never_succeeded():
    (got,) = lines([cell(value=5.0, protocol="a@2"), cell(protocol="c4@2", status="failed")])
    assert (got["perplexity c4@2"], got["perplexity a@2"]) == ("OOM", "5")


def test_a_quantizer_that_all_rows_share_is_shown():
    assert [line["quantizer"] for line in lines([cell(value=5.0, quantizer="int8")])] == ["int8"]
    assert not any("quantizer" in line for line in lines([cell(value=5.0)]))


HOSTILE = [
    "=cmd|'/C calc'!A0",
    "<img src=x onerror=alert(1)>",
    "[red]x[/red]",
    "a | b `c` [d](javascript:e)",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_text(cli, tmp_path, name):
    fake_records.perplexity(tmp_path / "r", identity={"model": name})
    formats = ("csv", "md", "table", "json")
    outs = {f: cli("report", "--results", "r", "--format", f)[1] for f in formats}
    read = pd.read_csv(io.StringIO(outs["csv"]))["model"][0]
    assert read == ("'" + name if name.startswith("=") else name)
    assert not set("<[`") & set(outs["md"])
    assert len({x.count("|") for x in outs["md"].splitlines() if x.startswith("|")}) == 1
    assert name in outs["table"]
    assert json.loads(outs["json"])[0]["model"] == name


def test_several_folders_are_one_document(cli, tmp_path):
    for name in "ab":
        fake_records.perplexity(tmp_path / name, identity={"model": name})
    line = ("report", "--results", "a", "--results", "b", "--format")
    assert [row["model"] for row in json.loads(cli(*line, "json")[1])] == ["a", "b"]
    assert list(pd.read_csv(io.StringIO(cli(*line, "csv")[1]))["model"]) == ["a", "b"]


def test_bytes_have_a_unit_of_their_size():
    for value, said in {11_520.0: "11.5 kB", 100_000.0: "0.1 MB", 2.69e8: "269.0 MB"}.items():
        assert table.format_number(value, None, "B") == said


@pytest.mark.parts("leaderboard")
def test_columns_of_words_stand_at_the_left_in_markdown_and_latex():
    from bench.parts.leaderboard import latex

    headers, line = ["method", "rank", "made on", "source"], ["wanda", "1", "EPYC", "a paper"]
    one = table.TextTable("t", headers, [line], worded=frozenset({"made on"}))
    assert table.to_markdown(one).splitlines()[1] == "|---|---:|---|---|"
    assert "{@{}lrll@{}}" in latex.render_table(one)


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_rows_with_equal_numbers_stand_in_the_order_of_their_names(tmp_path, names):
    for name in names:
        fake_records.perplexity(tmp_path, 0.1, method=name, seed=0)
    results = read(tmp_path)
    records = sorted(results.records, key=lambda r: names.index(r.identity.method))
    (printed,) = table.text_tables(records)
    assert [line[0] for line in printed.lines] == ["a", "b"]
    (section,) = board.make_sections([results.only("tiny", records)])
    assert [row.name for row in section.tables[0].rows] == ["a 2:4", "b 2:4"]


@pytest.mark.parts("leaderboard")
def test_a_name_may_break_before_a_field_and_never_inside_a_pattern():
    from bench.parts.leaderboard import html

    template = html.environment().from_string("{{ name | breakable }}")
    made = str(template.render(name="a:from=b:lr=4e-3 2:4<"))
    assert made == "a:<wbr>from=<wbr>b:<wbr>lr=4e-3 2:4&lt;"
