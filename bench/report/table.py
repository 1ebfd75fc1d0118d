"""From records to rows, and from rows to a table that can be read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import task_averages
from bench.results.record import Record
from bench.results.rows import IDENTITY, QUIET, to_rows
from bench.system.text import escape_markdown

if TYPE_CHECKING:
    from rich.table import Table

PARTIAL = ("zeros_lost", "bits_per_weight")
"""Metrics that some lines of one run have and some have not: where a line stands is not theirs to say."""

ALWAYS = ("method", "pattern")

ABSENT = "–"
"""In place of a number that was not measured. Never blank, and never 0."""

Column = tuple[str, str, str]
"""metric, protocol, measure"""


class TextTable:
    """A pivoted table as text: headers, and one line of cells for each method."""

    def __init__(self, title: str, headers: list[str], lines: list[list[str]]) -> None:
        self.title, self.headers, self.lines = title, headers, lines


def text_tables(records: Sequence[Record]) -> list[TextTable]:
    """One grid a model. A column is one metric under one protocol; protocols never share one.

    Several seeds are shown as mean ± standard deviation over seeds; a single one as value ± standard error over items.
    A cell whose seeds did not all succeed shows the failure, and no average. Seeds that are not there are said, too: in
    the label where another method has them at the same settings, in the cell where its own line has them.
    """
    table = to_rows(records)
    return [
        _grid(model, [r for r in table if r["model"] == model]) for model in dict.fromkeys(r["model"] for r in table)
    ]


def _grid(model: str, table: list[dict[str, Any]]) -> TextTable:
    found = sheet(table)
    lines = [[*line.labels, *cells(line.group, found.columns)] for line in found.lines]
    return TextTable(model, list(found.told) + [header(*c[:2]) for c in found.columns], lines)


@dataclass(frozen=True)
class Line:
    """One line of a table: its labels as text, and the rows, of all its seeds, that its cells are read from."""

    labels: tuple[str, ...]
    group: list[dict[str, Any]]


@dataclass(frozen=True)
class Sheet:
    """One model's table before it is text. told: the names of the labels."""

    told: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]


def sheet(table: list[dict[str, Any]], quiet: bool = False) -> Sheet:
    """One model's rows, pivoted. quiet: with the metrics that a table leaves out."""
    told = [
        c
        for c in IDENTITY[1:]
        if c in ALWAYS
        or len({r[c] for r in table if r[c] is not None and (c not in ("calibration", "training") or r[c])}) > 1
    ]
    shown = [r for r in table if quiet or r["metric"] not in QUIET]
    shown += task_averages.rows(shown, IDENTITY)
    columns = _columns(shown)
    lines: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in shown:
        lines.setdefault(tuple(row[c] for c in IDENTITY), []).append(row)
    expected: dict[tuple[Any, ...], set[int]] = {}
    for row in shown:
        if row["seed"] is not None:
            expected.setdefault(_apart_from_method(row), set()).add(row["seed"])
    ranked = sorted(lines.values(), key=lambda group: _rank(group, columns))
    return Sheet(tuple(told), tuple(columns), tuple(Line(tuple(_identity_cells(told, g, expected)), g) for g in ranked))


def _columns(shown: list[dict[str, Any]]) -> list[Column]:
    measured = {(r["protocol"], r["measure"]) for r in shown if r["value"] is not None}
    columns: list[Column] = list(
        dict.fromkeys(
            (r["metric"], r["protocol"], r["measure"])
            for r in shown
            if not _unnamed(r) or (r["protocol"], r["measure"]) not in measured
        )
    )
    quality = ("perplexity", "kl", "top1_agreement", "mean_acc", "worst_drop", "acc")
    order = (*quality, "sparsity", "violated_groups", "zeros_lost", "bytes_packed", "bits_per_weight")
    columns.sort(key=lambda c: (order.index(c[0]) if c[0] in order else len(order), c[1] or ""))
    return columns


def _apart_from_method(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[c] for c in IDENTITY if c != "method")


def _seeds(group: list[dict[str, Any]]) -> set[int]:
    return {r["seed"] for r in group if r["seed"] is not None}


def _identity_cells(
    told: list[str], group: list[dict[str, Any]], expected: dict[tuple[Any, ...], set[int]]
) -> list[str]:
    """A line's labels. expected: the seeds that it or another method has, by the rest of its identity."""
    named = dict(group[0])
    if seeds := _seeds(group):
        named["method"] += _of(len(seeds), len(expected[_apart_from_method(group[0])]))
    return ["" if named[c] is None else str(named[c]) for c in told]


def _of(here: int, expected: int) -> str:
    """How many seeds there are, and of how many where some are missing."""
    if here < expected:
        return f" ({here} of {expected} seeds)"
    return f" ({here} seeds)" if here > 1 else ""


def header(metric: str, protocol: str) -> str:
    if metric in ("perplexity",) or protocol not in ("weights", "targets"):
        return f"{metric.replace('_', ' ')} {protocol}"
    return metric.replace("_", " ")


def _rank(group: list[dict[str, Any]], columns: list[Column]) -> tuple[Any, ...]:
    """Lines measured in the same columns stand together: dense first, then by the first of these, failures last."""
    columns = [c for c in columns if c[0] not in (*PARTIAL, *QUIET)]
    absent = tuple(not _readings(group, c) for c in columns)
    first = _readings(group, columns[absent.index(False)]) if False in absent else []
    good = [r["value"] for r in first if r["value"] is not None]
    sign = -1 if any(r["better"] == "higher" for r in first) else 1
    return (absent, group[0]["method"] != "dense", not good, sign * sum(good) / len(good) if good else 0.0)


def _readings(group: list[dict[str, Any]], column: Column) -> list[dict[str, Any]]:
    """A line's rows for one column; a failed measure counts in all of its columns."""
    metric, *of = column
    return [r for r in group if [r["protocol"], r["measure"]] == of and (r["metric"] == metric or _unnamed(r))]


def _unnamed(row: dict[str, Any]) -> bool:
    """Did its measure fail before it could name its metrics?"""
    return row["value"] is None and row["metric"] == row["measure"]


def cells(group: list[dict[str, Any]], columns: Iterable[Column]) -> list[str]:
    """A line's cells as text. A reason that stands further left is not told again: its first word is."""
    out: list[str] = []
    for column in columns:
        found = summary(group, column)
        text = found.text if found else ABSENT
        out.append(text.partition(":")[0] if found and found.value is None and text in out else text)
    return out


@dataclass(frozen=True)
class Summary:
    """What a cell says of a line's rows: a mean over seeds, or why there is none."""

    text: str
    rows: tuple[dict[str, Any], ...]
    value: float | None = None
    spread: float | None = None
    """Standard deviation over seeds; where there is one, the standard error over items."""


def summary(group: list[dict[str, Any]], column: Column) -> Summary | None:
    """None: not measured."""
    mine = tuple(_readings(group, column))
    if not mine:
        return None
    seeds = len(_seeds(group)) or 1
    bad = [r for r in mine if r["value"] is None]
    if bad:
        return Summary(_status(bad[0]) + (f" ({len(bad)} of {seeds} seeds)" if seeds > 1 else ""), mine)
    values = [r["value"] for r in mine]
    missing = _of(len(values), seeds) if len(values) < seeds else ""
    told = {r.get("told") for r in mine}
    if len(told) == 1 and (name := told.pop()):
        missing = f" ({name})" + missing
    mean, spread = values[0], mine[0]["stderr"]
    if len(values) > 1:
        mean = math.fsum(values) / len(values)
        spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) or None
    return Summary(number(mean, spread, mine[0]["unit"]) + missing, mine, mean, spread)


def _status(row: dict[str, Any]) -> str:
    if row["reason"] == "OOM":
        return "OOM"
    reason = row["reason"] or ""
    return f"{row['status']}: {reason}" if len(reason) < 60 else f"{row['status']}: {reason[:57]}..."


def number(value: float, stderr: float | None, unit: str) -> str:
    """As many digits as the error bar bears; bytes in MB."""
    if unit == "B":
        return f"{value / 1e6:,.1f} MB"
    if stderr:
        digits = max(0, 1 - math.floor(math.log10(stderr)))
        return f"{value:,.{digits}f} ± {stderr:,.{digits}f}"
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.4g}"


def rich_table(grid: TextTable) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(grid.title), title_justify="left")
    for i, header in enumerate(grid.headers):
        table.add_column(Text(header), justify="left" if header in IDENTITY else "right", no_wrap=i == 0)
    for line in grid.lines:
        table.add_row(*(Text(cell) for cell in line))
    return table


def markdown(grid: TextTable, escape: Callable[[str], str] | None = None) -> str:
    """escape: in place of `plain`."""

    def row(cells: Iterable[str]) -> str:
        return "| " + " | ".join(map(escape or escape_markdown, cells)) + " |"

    rule = "|" + "|".join("---" if h in IDENTITY else "---:" for h in grid.headers) + "|"
    return "\n".join([row(grid.headers), rule, *(row(line) for line in grid.lines)]) + "\n"
