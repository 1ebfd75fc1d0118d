"""At equal bytes: sparse rows beside dense ones of about as many bits per weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.report.table import TextTable, cells, header
from bench.results import metrics
from bench.results.record import Record
from bench.results.rows import IDENTITY, to_rows

WITHIN = 1.15
"""2:4 bfloat16 is 9 bits a weight and dense int8, with its scales, a little over 8: these are to meet."""
LABELS = ("method", "pattern", "quantizer", "dtype")


def grids(records: Sequence[Record]) -> list[TextTable]:
    """One grid a model that has any. Each sparse row opens a band, followed by the dense ones within WITHIN of it.

    Bands go from many bits to few; rows of one band from the fewest bits up. A sparse row that has no dense one of its
    size is left out, for there is nothing to read it against.
    """
    table = to_rows(records)
    found = (
        _grid(model, [r for r in table if r["model"] == model]) for model in dict.fromkeys(r["model"] for r in table)
    )
    return [grid for grid in found if grid.lines]


def _grid(model: str, table: list[dict[str, Any]]) -> TextTable:
    lines: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in table:
        lines.setdefault(tuple(row[c] for c in IDENTITY), []).append(row)
    sized = [(bits, group) for group in lines.values() if (bits := _bits(group)) is not None]
    windowed = (r for r in table if metrics.find(r["metric"]).windowed)
    columns = list(dict.fromkeys((r["metric"], r["protocol"], r["measure"]) for r in windowed))
    dense = sorted((x for x in sized if x[1][0]["pattern"] == "dense"), key=lambda x: x[0])
    sparse = sorted((x for x in sized if x[1][0]["pattern"] != "dense"), key=lambda x: x[0], reverse=True)
    bands: dict[tuple[int, ...], list[tuple[float, list[dict[str, Any]]]]] = {}
    for bits, group in sparse:  # rows of one size, whatever made them, meet the same dense ones
        beside = tuple(i for i, x in enumerate(dense) if max(bits, x[0]) <= WITHIN * min(bits, x[0]))
        if beside:
            bands.setdefault(beside, []).append((bits, group))
    out = [
        [str(number), *(str(group[0][c] or "") for c in LABELS), f"{bits:.3g}", *cells(group, columns)]
        for number, (beside, members) in enumerate(bands.items(), 1)
        for bits, group in [*sorted(members, key=lambda x: x[0]), *(dense[i] for i in beside)]
    ]
    return TextTable(
        f"{model}, at about equal bits per weight",
        ["band", *LABELS, "bits per weight", *(header(*c[:2]) for c in columns)],
        out,
    )


def _bits(group: list[dict[str, Any]]) -> float | None:
    """A line's bits per weight; seeds agree on it."""
    known = [r["value"] for r in group if r["metric"] == "bits_per_weight" and r["value"] is not None]
    return max(known) if known else None
