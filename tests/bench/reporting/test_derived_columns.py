"""A derived column is one entry of a list, which every renderer shows."""

import pytest

from bench.comparing.result_arguments import read
from bench.reporting import board, derived_cells, derived_columns, table
from bench.reporting.facts import Bound, Facts, RowNumbers
from helpers import fake_records, runs
from methods.contract.errors import UserError


def test_texts_and_values():
    facts = Facts(
        compressed=True, loss=Bound(0.02), track_loss=Bound(0.5), worst_track="code",
        tokens=819_000, seconds=4.0, at_least=True, device="a card",
    )  # fmt: skip
    cells = {c.name: c.cell(RowNumbers(facts)) for c in derived_columns.all_columns()}

    assert {name: (cell.text, cell.value) for name, cell in cells.items() if cell} == {
        "perplexity_ratio": ("×1.020", 1.02),
        "worst_track": ("50.0% code", 0.5),
        "tokens_to_make": ("≥ 819k", 819_000.0),
        "time_to_make": ("≥ 4 s", 4.0),
        "made_on": ("a card", None),
    }
    assert not any(
        c.cell(RowNumbers(Facts(compressed=True))) for c in derived_columns.all_columns()
    )


COLUMN = """
from bench.reporting.view import DerivedColumn, TableCell


def saved(row):
    bits = row.values.get("bits_per_weight")
    if bits is None:
        return None
    return TableCell(f"{row.dense['bits_per_weight'] - bits:g}", bits)


COLUMN = DerivedColumn("bits_saved", saved, after="size", better="higher", words={words})
"""


def install(tmp_path, monkeypatch, source, name="bits_saved"):
    runs.distribution(tmp_path / "site", "saved", source, columns={name: "saved:COLUMN"})
    runs.put_on_path(tmp_path / "site", monkeypatch)


@pytest.mark.parts("leaderboard")
@pytest.mark.parametrize(("words", "rule"), [(False, "---:"), (True, "---")])
def test_a_column_of_a_package_is_shown_everywhere(tmp_path, monkeypatch, words, rule):
    from bench.parts.leaderboard import html_data, latex

    install(tmp_path, monkeypatch, COLUMN.replace("{words}", str(words)))
    for method, bits in (("dense", 16.0), ("wanda", 9.0)):
        about = {"method": method, "made": method}
        fake_records.perplexity(tmp_path / "r", **about)
        fake_records.bits(tmp_path / "r", bits, **about)
    (section,) = board.make_sections([read(tmp_path / "r")])
    (one,) = section.tables

    order = [c.metric for c in one.columns]
    place = order.index("bits_saved")
    assert order.index("bits_per_weight") < place < order.index("perplexity")
    assert one.columns[place].sign == -1
    assert [row.cells[place].text for row in one.rows] == ["0", "7"]
    text = one.to_text_table()
    at = text.headers.index("bits saved")
    assert table.to_markdown(text).splitlines()[1].strip("|").split("|")[at] == rule
    assert latex.render_table(text).count("bits saved") == 1
    (data,) = html_data.page_data([section], 9, picks=False)["tables"]
    assert data["columns"][place]["metric"] == "bits_saved"

    records = read(tmp_path / "r").records
    (printed,) = table.text_tables(records, extra=derived_cells.extra_columns(records))
    at = printed.headers.index("bits saved")
    assert printed.headers[at - 1] == "bits per weight"
    assert [line[at] for line in printed.lines] == ["0", "7"]
    assert printed.is_worded("bits saved") == words
    by_stem = {record.stem: record for record in records}
    rows = derived_cells.to_csv_rows([one], by_stem)
    found = {row["method"]: row["text"] for row in rows if row["metric"] == "bits_saved"}
    assert found == {"dense": "0", "wanda": "7"}


@pytest.mark.parametrize(
    ("change", "name", "why"),
    [
        (
            ("COLUMN = ", "COLUMN = 7  # "),
            "bits_saved",
            "it is no bench.reporting.view.DerivedColumn",
        ),
        (("words={words}", "words=7"), "bits_saved", "words"),
        (("higher", "up"), "bits_saved", "better"),
        (("words={words}", ""), "other", "the column is called 'bits_saved'"),
        (("bits_saved", "perplexity"), "perplexity", "is no metric's"),
        (("TableCell(", "str("), "bits_saved", "str() argument"),
        (
            ('- bits:g}", bits', '- bits:g}", bits * 1e999'),
            "bits_saved",
            "a cell is no TableCell with a text and a number",
        ),
    ],
)
def test_a_column_that_cannot_be_used_is_named(tmp_path, monkeypatch, change, name, why):
    install(tmp_path, monkeypatch, COLUMN.replace(*change).replace("{words}", "False"), name)
    fake_records.bits(tmp_path / "r", 9.0, method="dense")
    with pytest.raises(UserError, match="repair or uninstall it") as refused:
        board.make_sections([read(tmp_path / "r")])
    assert why in str(refused.value)


def test_a_column_cannot_replace_ours(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, COLUMN.replace("{words}", "False"), "flips")
    assert [c.name for c in derived_columns.all_columns()].count("flips") == 1
    assert derived_columns.FLIPS in derived_columns.all_columns()
