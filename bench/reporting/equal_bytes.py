"""Compare at equal size: each sparse row with the dense rows of about as many bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.reporting.labelled_rows import labelled_rows
from bench.reporting.table import TextTable, caption, cells, column_header, format_number
from bench.results import metrics
from bench.results.record import Record
from bench.results.rows import IDENTITY
from bench.system.grouping import group_by

MAX_SIZE_RATIO = 1.15
"""Largest ratio of two sizes that count as equal. 2:4 bfloat16 has 9 bits per weight, dense int8
with its scales over 8. Their embeddings differ more."""
LABELS = ("method", "pattern", "quantizer", "dtype")

Sized = tuple[float, list[dict[str, Any]]]
"""Bytes of the whole model, and the rows of one method."""


def text_tables(records: Sequence[Record]) -> list[TextTable]:
    """Make a table for each model that has such rows.

    Sparse rows with the same dense rows form a group. Groups go from many bytes to few; in a group,
    the sparse rows come first, the smallest at the top. A sparse row without a dense row of about
    its size is left out.
    """
    by_model = group_by(labelled_rows(records), lambda row: str(row["model"]))
    tables = (_text_table(model, rows) for model, rows in by_model.items())
    return [table for table in tables if table.lines]


def _text_table(model: str, rows: list[dict[str, Any]]) -> TextTable:
    lines = group_by(rows, lambda row: tuple(row[c] for c in IDENTITY))
    dense: list[Sized] = []
    sparse: list[Sized] = []
    for group in lines.values():
        size = _bytes(group)
        if size is not None:
            kind = dense if group[0]["pattern"] == "dense" else sparse
            kind.append((size, group))
    dense.sort(key=lambda x: x[0])
    sparse.sort(key=lambda x: x[0], reverse=True)
    windowed = (r for r in rows if metrics.find(r["metric"]).windowed)
    columns = list(dict.fromkeys((r["metric"], r["protocol"], r["measure"]) for r in windowed))
    groups: dict[tuple[int, ...], list[Sized]] = {}
    for size, group in sparse:
        near = tuple(
            i for i, x in enumerate(dense) if max(size, x[0]) <= MAX_SIZE_RATIO * min(size, x[0])
        )
        if near:
            groups.setdefault(near, []).append((size, group))
    out = []
    for number, (near, members) in enumerate(groups.items(), 1):
        members.sort(key=lambda x: x[0])
        members += [dense[i] for i in near]
        for size, group in members:
            labels = [str(group[0][c] or "") for c in LABELS]
            out.append(
                [str(number), *labels, format_number(size, None, "B"), *cells(group, columns)]
            )
    headers = [
        "group",
        *LABELS,
        metrics.find(metrics.SIZE).label,
        *(column_header(*c[:2]) for c in columns),
    ]
    return TextTable(f"{caption(model)}, at about equal bytes", headers, out)


def _bytes(group: list[dict[str, Any]]) -> float | None:
    """Return a line's bytes, the most of its seeds. None if they are not measured, or claimed."""
    sized = [r for r in group if r["metric"] == metrics.SIZE and not r.get("claimed")]
    return max((r["value"] for r in sized if r["value"] is not None), default=None)
