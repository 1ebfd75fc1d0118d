"""A derived column is one entry of a list, which every renderer shows."""

import pytest

from bench.compare.result_arguments import read
from bench.reporting import board, derived_columns, html_data, latex, table
from bench.reporting.facts import Bound, Facts, RowNumbers
from bench.reporting.view import DerivedColumn, ReportSection, TableCell
from helpers import fake_records


def test_texts_and_values():
    facts = Facts(
        compressed=True, loss=Bound(0.02), track_loss=Bound(0.5), worst_track="code",
        tokens=819_000, seconds=4.0, at_least=True, device="a card",
    )  # fmt: skip
    cells = {c.name: c.cell(RowNumbers(facts)) for c in derived_columns.COLUMNS}

    assert {name: (cell.text, cell.value) for name, cell in cells.items() if cell} == {
        "perplexity_ratio": ("×1.020", 1.02),
        "worst_track": ("50.0% code", 0.5),
        "tokens_to_make": ("≥ 819k", 819_000.0),
        "time_to_make": ("≥ 4 s", 4.0),
        "made_on": ("a card", None),
    }
    assert not any(c.cell(RowNumbers(Facts(compressed=True))) for c in derived_columns.COLUMNS)


@pytest.mark.parametrize(("words", "rule"), [(False, "---:"), (True, "---")])
def test_a_new_entry_is_shown_everywhere(tmp_path, monkeypatch, words, rule):
    def saved(row):
        bits = row.values.get("bits_per_weight")
        return None if bits is None else TableCell(f"{row.dense['bits_per_weight'] - bits:g}", bits)

    entry = DerivedColumn("bits_saved", saved, after="size", better="higher", words=words)
    monkeypatch.setattr(board, "COLUMNS", (*board.COLUMNS, entry))
    monkeypatch.setattr(derived_columns, "COLUMNS", board.COLUMNS)
    for method, bits in (("dense", 16.0), ("wanda", 9.0)):
        about = {"method": method, "made": method}
        fake_records.perplexity(tmp_path, **about)
        fake_records.bits(tmp_path, bits, **about)
    (one,) = board.make_sections([read(tmp_path)])[0].tables

    order = [c.metric for c in one.columns]
    place = order.index("bits_saved")
    assert order.index("bits_per_weight") < place < order.index("perplexity")
    assert one.columns[place].sign == -1
    assert [row.cells[place].text for row in one.rows] == ["0", "7"]
    text = one.to_text_table()
    at = text.headers.index("bits saved")
    assert table.to_markdown(text).splitlines()[1].strip("|").split("|")[at] == rule
    assert latex.render_table(text).count("bits saved") == 1
    (data,) = html_data.page_data([ReportSection("m", "", (one,))], 9, picks=False)["tables"]
    assert data["columns"][place]["metric"] == "bits_saved"
