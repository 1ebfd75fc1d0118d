"""Names in tables and on the page: where they break, how they are ordered, and which columns stand at the left."""

import pytest

from bench.compare.resolve import read
from bench.reporting import board, html, latex, table
from helpers import fake_records


def test_columns_of_words_stand_at_the_left_in_markdown_and_latex():
    one = table.TextTable("t", ["method", "rank", "made on", "source"], [["wanda", "1", "EPYC", "a paper"]])
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


def test_a_name_may_break_before_a_field_and_never_inside_a_pattern():
    made = str(html.environment().from_string("{{ name | breakable }}").render(name="a:from=b:lr=4e-3 2:4<"))
    assert made == "a:<wbr>from=<wbr>b:<wbr>lr=4e-3 2:4&lt;"
