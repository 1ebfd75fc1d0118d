"""Pairs of a table's rows: the interval of what lies between them, and ranks that claim no more than was shown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations

from bench.compare import estimate
from bench.compare.pairing import Pair, Seeds, meet
from bench.compare.result_set import Items, ResultSet
from bench.report.view import Cell, Interval, Table
from bench.results.record import Record
from bench.stats import multiple_tests

MOST = 40
"""Rows of a column that are compared two by two: 780 pairs. Beyond, neither intervals nor ranks are given."""
ALPHA = 0.05


def paired(table: Table, records: Mapping[str, Record], side: ResultSet) -> Table:
    """The table with an interval for each pair of rows that was measured on the same items, and ranks from them.

    Each interval holds on its own. Rows tie unless Benjamini and Hochberg's p over the column's pairs is under ALPHA. A
    column is ranked where every number in it has scores by item.
    """
    side = _remembering(side)
    intervals: dict[tuple[int, int, int], Interval] = {}
    ranks: dict[int, tuple[str, ...]] = {}
    unranked = 0
    for c, column in enumerate(table.columns):
        seeds = {k: found for k in range(len(table.rows)) if (found := _seeds(table, k, c, records))}
        if len(seeds) > MOST:
            unranked = max(unranked, len(seeds))
        elif len(seeds) > 1:
            between = dict(_compared(seeds, column.metric, side))
            intervals |= {(a, b, c): interval for (a, b), interval in between.items()}
            if between and column.better and len(seeds) == sum(_has(r.cells[c]) for r in table.rows):
                ranks[c] = _ranks(table, c, _apart(between))
    return replace(table, intervals=intervals, ranks=ranks, unranked=unranked)


def _remembering(side: ResultSet) -> ResultSet:
    kept: dict[str, Items] = {}

    def items(record: Record) -> Items:
        if record.key not in kept:
            kept[record.key] = side.items(record)
        return kept[record.key]

    return ResultSet(side.name, side.records, items)


def _has(cell: Cell | None) -> bool:
    return cell is not None and cell.value is not None


def _seeds(table: Table, row: int, column: int, records: Mapping[str, Record]) -> Seeds:
    """A cell's records, where each has scores by item. An average over tasks has none of its own."""
    cell = table.rows[row].cells[column]
    if cell is None or cell.value is None or cell.average:
        return {}
    found = [records[key] for key in cell.made]
    return {r.identity.seed: r for r in found} if all(r.items for r in found) else {}


def _compared(seeds: Mapping[int, Seeds], metric: str, side: ResultSet) -> Iterator[tuple[tuple[int, int], Interval]]:
    for a, b in combinations(seeds, 2):
        pairs, _ = meet("", seeds[a], seeds[b], True)
        for pair in pairs:
            if pair.metric == metric and (found := _interval(pair, side)):
                yield (a, b), found


def _interval(pair: Pair, side: ResultSet) -> Interval | None:
    if pair.obstacle():
        return None
    try:
        e = estimate.estimate_pair(pair, side, side, ALPHA)
    except estimate.CannotPair:
        return None
    value, low, high = (e.value, e.low, e.high)
    if pair.definition.is_ratio:
        value, low, high = math.exp(value), math.exp(low), math.exp(high)
    return Interval(value, low, high, e.n, e.unit, e.seeds, e.p)


def apart(table: Table, column: int) -> dict[tuple[int, int], bool]:
    """Was each pair of rows that was compared told apart?"""
    return _apart({(a, b): i for (a, b, c), i in table.intervals.items() if c == column})


def _apart(found: Mapping[tuple[int, int], Interval]) -> dict[tuple[int, int], bool]:
    adjusted = multiple_tests.benjamini_hochberg([i.p for i in found.values()])
    return {pair: p < ALPHA for pair, p in zip(found, adjusted, strict=True)}


def _ranks(table: Table, column: int, apart: Mapping[tuple[int, int], bool]) -> tuple[str, ...]:
    sign = -1 if table.columns[column].better == "higher" else 1
    values = {k: sign * c.value for k, r in enumerate(table.rows) if (c := r.cells[column]) and c.value is not None}
    order = [str(k) for k in sorted(values, key=lambda k: values[k])]
    groups = multiple_tests.tie_groups(order, lambda a, b: apart.get(pair(int(a), int(b)), False))
    told = {int(name): str(best) if best == worst else f"{best}–{worst}" for name, best, worst in groups}
    return tuple(told.get(k, "") for k in range(len(table.rows)))


def pair(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)
