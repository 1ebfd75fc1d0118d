"""Names and numbers in figures and tables: none is cut at an edge, none lies on another, words stand at the left."""

from pathlib import Path

import pytest

from bench.compare.resolve import read
from bench.reporting import board, html, label, latex, leaderboard, pareto, pareto_chart, table
from bench.reporting.view import Table, TableCell, TableColumn, TableRow
from helpers import fake_records, reports


def test_a_label_is_cut_by_its_width_and_not_by_its_letters():
    assert label.width("mmmm") > 2 * label.width("llll") and label.width("a", bold=True) > label.width("a")
    assert label.cut("wanda 2:4", 200) == "wanda 2:4"
    short = label.cut("magnitude + retrain:from=magnitude 2:4", 200, bold=True)
    assert short.endswith("…") and label.width(short, bold=True) <= 200
    assert label.cut("wanda", 1) == "…"


def chart(*places):
    columns = (TableColumn("perplexity", "p", "lower", "1"), TableColumn("bytes_packed", "weights", "lower", "B"))
    rows = tuple(
        TableRow(f"r{i}", (), {}, (TableCell("", y), TableCell("", 1e6 * x))) for i, (x, y) in enumerate(places)
    )
    (front,) = pareto.fronts(Table("t", (), columns, rows))
    return pareto_chart.draw(front, "t")


def test_the_hint_is_left_out_where_a_row_or_its_name_stands():
    assert chart((1, 30), (2, 20), (3, 10)).hint
    assert chart((1, 10), (1.2, 9.9), (3, 30)).hint is None, "a row"
    crowded = chart((1, 12), (1.02, 11.9), (1.7, 10), (3, 30))
    names = [one for one in crowded.labels if one.y > pareto_chart.BOTTOM - 18 and one.x < pareto_chart.LEFT + 60]
    assert not (names and crowded.hint)


def test_columns_of_words_stand_at_the_left_in_markdown_and_latex():
    one = table.TextTable("t", ["method", "rank", "made on", "source"], [["wanda", "1", "EPYC", "a paper"]])
    assert table.to_markdown(one).splitlines()[1] == "|---|---:|---|---|"
    assert "{@{}lrll@{}}" in latex.render_table(one)


def test_the_head_of_the_page_counts_the_rows_that_its_filters_count(tmp_path):
    reports.folder(tmp_path / "run")
    made = html.render_page(
        leaderboard.make_sections([read(tmp_path / "run")], reports.published(tmp_path / "published"))
    )
    assert "records of 1 model in 6 rows, and 3 rows published by others." in made
    alone = html.render_page(leaderboard.make_sections([read(tmp_path / "run")], Path("none")))
    assert "published by others" not in alone


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


def test_a_name_may_break_before_a_field_and_never_inside_a_pattern():
    made = str(html.environment().from_string("{{ name | breakable }}").render(name="a:from=b:lr=4e-3 2:4<"))
    assert made == "a:<wbr>from=<wbr>b:<wbr>lr=4e-3 2:4&lt;"
