"""The table of texts: what each row loses of each text, by the text that it is calibrated on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from long_tables import row_of
from page_records import DASH, compare, markdown, merge, origin_note, ratio_text

from bench.comparing.pairing import Seeds
from bench.comparing.result_set import ResultSet
from bench.reporting.facts import Interval
from bench.results.record import Record
from bench.system.grouping import group_by
from bench.system.text import escape_markdown


class Row(NamedTuple):
    """A method with its pattern and quantizer, and the calibration text, "" without one."""

    name: str
    calibration: str


DENSE = Row("dense", "")
Losses = Mapping[Row, Interval]
"""Perplexity over that of the dense model by row."""
CAPTION = (
    "Perplexity over that of the dense model, with its 95% interval. In bold: more is lost than of "
    "the other text, and the intervals do not overlap."
)


def by_text(folder: str, other: str) -> str:
    """Return for each model of a board a line per row and a column per text.

    other: folder of the board that has the same rows on another text, which is the first column.
    """
    results = merge(f"{other},{folder}")
    measured = [r for r in results.records if r.identity.measure == "perplexity"]
    measured = [record for record in measured if record.status == "ok"]
    parts, used = [], []
    for model, records in group_by(measured, lambda record: record.identity.model).items():
        texts = group_by(records, lambda record: record.identity.protocol.name)
        if len(texts) < 2:
            continue
        (first, before), (second, after) = texts.items()
        rows = {_row_of(record) for record in after}
        shown = [record for record in records if _row_of(record) in rows]
        used += shown
        losses = [_losses(of, results) for of in (before, after)]
        parts.append(f"{escape_markdown(model)}:\n\n{_table((first, second), losses)}")
    return "\n".join([*parts, f"{CAPTION}\n", origin_note(used).lstrip("\n")])


def _row_of(record: Record) -> Row:
    calibration = record.identity.calibration
    return Row(row_of(record), calibration.data if calibration else "")


def _losses(records: list[Record], results: ResultSet) -> dict[Row, Interval]:
    rows: dict[Row, Seeds] = {}
    for record in records:
        rows.setdefault(_row_of(record), {})[record.identity.seed] = record
    dense = rows.pop(DENSE)
    found = {row: compare(dense, seeds, results) for row, seeds in rows.items()}
    return {row: ratio for row, ratio in found.items() if ratio is not None}


def _table(texts: tuple[str, str], losses: list[dict[Row, Interval]]) -> str:
    """Return the table, and a sentence on the rows that lose more of the second text."""
    before, after = losses
    lines = []
    least: dict[str, float] = {}
    for row in sorted(after, key=lambda row: after[row].value):
        least.setdefault(row.name, after[row].value)
    for row in sorted(after, key=lambda row: (least[row.name], after[row].value)):
        cells = [_cell(before.get(row), after[row]), _cell(after[row], before.get(row))]
        lines.append(
            [escape_markdown(row.name), f"`{row.calibration}`" * bool(row.calibration), *cells]
        )
    headers = ["", "calibrated on", *(f">{escape_markdown(text)}" for text in texts)]
    said = [_said(texts, before, after), *_exchanged(texts, losses)]
    return "\n\n".join([" ".join(said), markdown(headers, lines)])


def _cell(ratio: Interval | None, other: Interval | None) -> str:
    if ratio is None:
        return DASH
    value, interval = ratio_text(ratio).split(" ", 1)
    return f"**{value}** {interval}" if other and ratio.low > other.high else f"{value} {interval}"


def _said(texts: tuple[str, str], before: Losses, after: Losses) -> str:
    """Return how many rows lose more of the second text, by calibration text."""
    parts = []
    shared = [row for row in after if row in before]
    for calibration, rows in group_by(shared, lambda row: row.calibration).items():
        more = sum(after[row].value > before[row].value for row in rows)
        beyond = sum(after[row].low > before[row].high for row in rows)
        how = f"calibrated on {calibration}" if calibration else "without calibration"
        parts.append(f"{how} {more} of {len(rows)}, {beyond} beyond the intervals")
    return f"Rows that lose more of {texts[1]} than of {texts[0]}: {'; '.join(parts)}."


def _exchanged(texts: tuple[str, str], losses: Sequence[Losses]) -> list[str]:
    """Return for each text how many rows lose less of it if they are calibrated on the second."""
    parts = []
    for text, of in zip(texts, losses, strict=True):
        pairs = []
        for row in of:
            default = next((other for other in of if _is_default(other, row, texts[1])), None)
            if default:
                pairs.append((of[row], of[default]))
        if pairs:
            less = sum(one.value < other.value for one, other in pairs)
            beyond = sum(one.high < other.low for one, other in pairs)
            parts.append(
                f"{less} of {len(pairs)} lose less of {text}, {beyond} beyond the intervals"
            )
    return [f"Calibrated on {texts[1]} instead, {'; '.join(parts)}."] if parts else []


def _is_default(other: Row, row: Row, text: str) -> bool:
    """Say whether the other row is the same method, calibrated on its own text."""
    return row.calibration == text != other.calibration and row.name == other.name


TABLES: dict[str, Callable[..., str]] = {"by-text": by_text}
