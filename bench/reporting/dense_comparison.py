"""Compare rows of a leaderboard with the dense model: perplexity, worst task and speed, each with
its interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from bench.comparing.known_variance import KnownVariance
from bench.comparing.pairing import another_source
from bench.comparing.result_set import ResultSet
from bench.reporting import pairwise, task_averages
from bench.reporting.facts import Bound, Flips, Interval
from bench.reporting.view import Table
from bench.results import computed
from bench.results.record import Record
from bench.stats import bootstrap, multiple_tests

PREFERRED_SET = "wanda7"


def leading_column(table: Table, metric: str, device: str = "") -> int | None:
    """Return the column of a metric that a leaderboard shows: that of wanda7, else the column with
    the most numbers.

    device: for speeds, part of the column's name.
    """

    def preference(i: int) -> tuple[bool, int, int]:
        count = sum(bool(table.rows[k].cells[i]) for k in table.whole_rows)
        return (table.columns[i].protocol.startswith(PREFERRED_SET), count, -i)

    columns = [
        i
        for i, c in enumerate(table.columns)
        if c.metric == metric and device.lower() in c.protocol.lower()
    ]
    return max(columns, key=preference, default=None)


class DenseComparison:
    """Comparison of a table's rows with its dense row. known: noise of numbers; device: device of
    the speedups."""

    def __init__(
        self,
        table: Table,
        records: Mapping[str, Record],
        results: ResultSet,
        known: KnownVariance,
        device: str = "",
    ) -> None:
        self.table, self.records, self.results, self.known = table, records, results, known
        self.drop_column = leading_column(table, "worst_drop")
        self.speed_column = leading_column(table, "speedup", device)
        whole = (
            k
            for k, row in enumerate(table.rows)
            if row.filters["method"] == "dense" and not row.is_quantized
        )
        self.dense = next(whole, None)

    def loss(self, row: int, reference: int | None = None) -> Bound | None:
        """Return the increase of perplexity, as a fraction of the reference's: another row, by
        default the dense model."""
        if reference is None:
            reference = self.dense
        column = self.table.column("perplexity")
        before, own = self.table.value(reference, column), self.table.value(row, column)
        if column is None or before is None or own is None or row == reference:
            return None
        interval = self._interval(row, column, reference)
        if interval is None:
            return Bound(own / before - 1)
        return Bound(interval.value - 1, interval.low - 1, interval.high - 1)

    def worst_drop(self, row: int) -> tuple[Bound | None, str]:
        """Return the accuracy that the worst task of the leading set loses, and the task.

        The interval reaches from the largest lower end of the tasks to the largest upper end. With
        each task's interval at Bonferroni's level it covers the largest drop.
        """
        column = self.drop_column
        mean = self.table.value(row, column)
        if column is None or mean is None:
            return None, ""
        tasks, limit = task_averages.tasks_of(self.table.columns[column].protocol)
        level = multiple_tests.bonferroni(pairwise.ALPHA, len(tasks))
        drops = {}
        for task in tasks:
            at = self._task_column(task, limit)
            interval = None if at is None else self._interval(row, at, self.dense, level)
            if interval is None:
                return Bound(mean), ""
            drops[task] = Bound(-interval.value, -interval.high, -interval.low)
        if not drops:
            return Bound(mean), ""
        worst = max(drops, key=lambda task: drops[task].value)
        low = max(x.low for x in drops.values() if x.low is not None)
        return Bound(
            drops[worst].value, low, max(x.high for x in drops.values() if x.high is not None)
        ), worst

    def flips(self, row: int) -> Flips | None:
        """Return the share of questions that only one of this row and the dense model answers
        right.

        The questions are those of the leading set, or of every task that has an accuracy if no set
        is complete.
        """
        if row == self.dense or self.dense is None:
            return None
        tasks: list[list[Record]] = []
        for column in self._accuracy_columns():
            before, after = (
                pairwise.seeds_of(self.table, k, column, self.records) for k in (self.dense, row)
            )
            if not before or not after:
                return None
            tasks.append([next(iter(before.values())), *after.values()])
        found = computed.recall(
            __name__, chain(*tasks), ["flips", *map(len, tasks)], lambda: self._count_flips(tasks)
        )
        return Flips.of(found) if found else None

    def _count_flips(self, tasks: Sequence[Sequence[Record]]) -> tuple[Any, ...]:
        """Return the fields of the flips, or () if the rows cannot be compared. tasks: records of
        each, the dense model's first."""
        answers = []
        for dense, *own in tasks:
            if any(another_source(dense, record) for record in own):
                return ()
            read = [self.results.items(record) for record in (dense, *own)]
            if any(not np.array_equal(read[0].ids, one.ids) for one in read):
                return ()
            was, *seeds = (one.columns.get("acc", one.columns["value"]) for one in read)
            now = np.stack(seeds)
            answers.append((was != now, was, now))
        flips = pairwise.count_flips(answers)
        return flips.fields if flips else ()

    def _accuracy_columns(self) -> list[int]:
        columns = [i for i, c in enumerate(self.table.columns) if c.metric == "acc"]
        if self.drop_column is None:
            return columns
        tasks, limit = task_averages.tasks_of(self.table.columns[self.drop_column].protocol)
        of_set = [self._task_column(task, limit) for task in tasks]
        return [i for i in of_set if i is not None]

    def speedup(self, row: int) -> Bound | None:
        """Return the measured speedup over dense: the mean over seeds, with the interval of its
        blocks of timings."""
        column = self.speed_column
        value = self.table.value(row, column)
        if column is None or value is None:
            return None
        records = pairwise.seeds_of(self.table, row, column, self.records).values()
        ends = computed.recall(
            __name__, records, ["speedup"], lambda: self._ends_of_speedup(records)
        )
        return Bound(value, *ends)

    def _ends_of_speedup(self, records: Iterable[Record]) -> tuple[float, ...]:
        """Return the ends of the interval of a mean over seeds, or () without enough blocks."""
        scores = [self.results.items(record).columns for record in records]
        blocks = [columns["speedup"] for columns in scores if "speedup" in columns]
        if not blocks or min(map(len, blocks)) < 2 or len(set(map(len, blocks))) > 1:
            return ()
        ratios = np.stack(blocks)  # [seeds, blocks]
        _, low, high = bootstrap.ratio_of_blocks(ratios, np.ones_like(ratios), pairwise.ALPHA)
        return low, high

    def _task_column(self, task: str, limit: str) -> int | None:
        for i, c in enumerate(self.table.columns):
            if c.metric != "acc":
                continue
            cells = filter(None, (row.cells[i] for row in self.table.rows))
            names = chain.from_iterable(cell.records for cell in cells)
            record = next((self.records[name] for name in names if name in self.records), None)
            if record is None:
                continue
            protocol = record.identity.protocol
            if (protocol.name, str(protocol.limit or "")) == (task, limit):
                return i
        return None

    def _interval(
        self, row: int, column: int, reference: int | None, level: float = pairwise.ALPHA
    ) -> Interval | None:
        """Return the interval from the reference, another row, to this row."""
        if reference is None:
            return None
        a, b = (pairwise.seeds_of(self.table, k, column, self.records) for k in (reference, row))
        if not a or not b:
            return None
        return pairwise.compare(
            a, b, self.table.columns[column].metric, self.results, self.known, level
        )
