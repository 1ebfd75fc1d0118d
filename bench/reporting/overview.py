"""The short table of a model for a terminal: six columns, which rows are best for their size, and
sentences on which methods the paired tests tell apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from bench.catalog import metric_owners, registry
from bench.catalog.choice import short_label
from bench.reporting import pairwise
from bench.reporting.board import BROKEN, Board
from bench.reporting.facts import Bound, Interval
from bench.reporting.table import ABSENT, TextTable, caption
from bench.reporting.view import Table, TableCell, TableRow, is_quantized
from bench.results import metrics, signatures
from bench.stats import multiple_tests
from bench.system.grouping import group_by
from bench.system.suggest import describe_unknown
from bench.system.text import amount
from methods.contract.errors import UserError

COLUMNS = ("row", "MB", "perplexity", "ratio", "task", "verdict")
"""The columns of the table by default. A table can have any other column of its board."""
LABELS = ("method", "pattern", "quantizer")
QUALITY = "perplexity"
SAME_SIZE = 1.01
"""Largest ratio of two sizes that count as equal, because stored scales differ by some bytes."""
NUMBER = re.compile(r"[\d,]+\.?\d*")
SEEDS = re.compile(r"\(\d[\d of]* seeds\)")
"""Number of seeds in the label of a row."""
MAX_LISTED = 5
"""Most rows of a group whose pairs a sentence describes one by one."""
LEGEND = (
    "front: no row of at most its MB has a lower perplexity; tied: one has, but a paired test "
    "cannot tell them apart; beaten: one has, beyond noise."
)


@dataclass(frozen=True)
class Overview:
    """A short table, with its sentences on the order of the rows."""

    table: TextTable
    verdicts: tuple[str, ...] = ()
    best: frozenset[tuple[int, int]] = frozenset()
    """Line and column of the best number of each column, among compressed rows."""


def row_names(table: Table) -> list[str]:
    """Return the names of a table's rows without what a reader can leave out."""
    quantizers = list(dict.fromkeys(row.filters["quantizer"] for row in table.rows))
    extra = table.label_names[3:]
    return [_row_name(row, quantizers, row.labels[len(row.labels) - len(extra) :])
            for row in table.rows]  # fmt: skip


def _row_name(row: TableRow, quantizers: Sequence[str], extra: Sequence[str]) -> str:
    parts = [row.filters["method"]]
    if row.filters["pattern"] != row.filters["method"]:
        parts.append(row.filters["pattern"])
    if is_quantized(row.filters):
        parts.append(short_label(row.filters["quantizer"], quantizers))
    return " ".join([*parts, *filter(None, extra)])


def require_columns(names: Sequence[str]) -> None:
    """Raise UserError for a name that is no column of any table."""
    known = [*map(str.lower, COLUMNS), *LABELS, *registry.entries("columns")]
    known += metric_owners.built_in()
    for name in names:
        if name.lower() not in known and metric_owners.find(name) is None:
            raise UserError(describe_unknown("column", name, dict.fromkeys(known), ", or all"))


def make(
    board: Board, columns: Sequence[str] = (), signers: Mapping[str, str] | None = None
) -> Overview | None:
    """Make the short table of a board, or return None for one without perplexities.

    columns: names that `require_columns` accepts, by default COLUMNS. signers: who signed each
    record, for one more column.
    """
    table = board.make_table(paired=board.is_quality, seeds=False)
    if table.column(QUALITY) is None and not columns:
        return None
    return _Maker(board, table).make(columns or COLUMNS, bool(columns), signers)


class _Maker:
    def __init__(self, board: Board, table: Table) -> None:
        self.board, self.table = board, table
        self.quantizers = list(dict.fromkeys(row.filters["quantizer"] for row in table.rows))
        self.names = row_names(table)
        self.rows = range(len(table.rows))
        self.quality = table.column(QUALITY)
        self.size = table.column(metrics.SIZE)
        self.task = self._best_task()
        of_quality = {(a, b): i for (a, b, c), i in table.intervals.items() if c == self.quality}
        self.intervals: Mapping[pairwise.Rows, Interval] = of_quality
        self.differ = _differing(of_quality)

    def make(
        self, columns: Sequence[str], chosen: bool, signers: Mapping[str, str] | None
    ) -> Overview:
        heads, texts, worded = [], [], set()
        for name in columns:
            for head, cells, is_words in self._columns(name):
                if not chosen and head not in ("row", "verdict") and set(cells) == {ABSENT}:
                    continue
                heads.append(head)
                texts.append(cells)
                if is_words:
                    worded.add(head)
        if signers is not None:
            heads.append(signatures.SIGNED_BY)
            texts.append([signatures.of_row(self._records(k), signers) for k in self.rows])
        lines = [list(line) for line in zip(*texts, strict=True)]
        title = " · ".join(filter(None, (caption(self.table.title), self.table.protocol)))
        notes = [] if chosen else self._notes()
        made = TextTable(title, heads, lines, tuple(notes), frozenset(worded))
        verdicts = () if chosen else tuple(self._sentences())
        return Overview(made, verdicts, frozenset(self._best(heads, lines)))

    def _best(self, heads: Sequence[str], lines: Sequence[Sequence[str]]) -> set[tuple[int, int]]:
        """Return the cells with the best number of a column in which a lower or a higher number is
        better."""
        found = set()
        for at, head in enumerate(heads):
            sign = self._sign(head)
            numbers = {}
            for n, row in enumerate(self.rows):
                facts = self.table.rows[row].facts
                number = NUMBER.match(lines[n][at])
                if facts and facts.compressed and not facts.broken and number:
                    numbers[n] = sign * float(number[0].replace(",", ""))
            best = min(numbers.values(), default=0.0)
            if sign:
                found |= {(n, at) for n, number in numbers.items() if number == best}
        return found

    def _sign(self, head: str) -> int:
        """Return 1 if lower is better in a column, -1 if higher is, and 0 if neither is."""
        if head in ("MB", "perplexity", "ratio"):
            return 1
        for column in self.table.columns:
            if head in (column.head, column.label):
                return column.sign if column.better else 0
        return 0

    def _columns(self, name: str) -> list[tuple[str, list[str], bool]]:
        """Return the columns of a name: head, cells, and whether they are words."""
        wanted = name.lower()
        match wanted:
            case "row":
                return [("row", [self._full_name(k) for k in self.rows], True)]
            case "mb":
                return [("MB", [self._megabytes(k) for k in self.rows], False)]
            case "perplexity":
                return [("perplexity", [self._number(k, self.quality) for k in self.rows], False)]
            case "ratio":
                return [("ratio", [_ratio(self._facts_ratio(k)) for k in self.rows], False)]
            case "task":
                head = "acc"
                if self.task is not None:
                    head = self.table.columns[self.task].label
                return [(head, [self._number(k, self.task) for k in self.rows], False)]
            case "verdict":
                return [("verdict", [self._verdict(k) for k in self.rows], True)]
        if wanted in LABELS:
            return [(wanted, [self.table.rows[k].filters[wanted] for k in self.rows], True)]
        out = []
        found = [c for c, one in enumerate(self.table.columns) if one.metric == wanted]
        for c in found:
            column = self.table.columns[c]
            cells = [self.table.rows[k].cells[c] for k in self.rows]
            texts = [cell.text if cell else ABSENT for cell in cells]
            is_words = bool(column.derived and column.derived.words)
            if set(texts) != {ABSENT} or len(found) == 1:
                out.append((column.head, texts, is_words))
        return out or [(wanted, [ABSENT] * len(self.rows), False)]

    def _cell(self, row: int, column: int | None) -> TableCell | None:
        return None if column is None else self.table.rows[row].cells[column]

    def _value(self, row: int) -> float | None:
        return self.table.value(row, self.quality)

    def _records(self, row: int) -> list[str]:
        return [name for cell in self.table.rows[row].cells if cell for name in cell.records]

    def _full_name(self, row: int) -> str:
        name = self.names[row]
        if self.names.count(name) > 1:
            # Rows of other budgets.
            identity = self.board.records[self._records(row)[0]].identity.labels()
            budget = filter(None, (identity["calibration"], identity["training"]))
            name = " ".join([name, *map(str, budget)])
        seeds = SEEDS.search(self.table.rows[row].labels[0])
        return f"{name} {seeds[0]}" if seeds else name

    def _megabytes(self, row: int) -> str:
        value = self.table.value(row, self.size)
        if value is None:
            return ABSENT
        return f"{value / 1e6:,.1f}" if value < 1e9 else f"{value / 1e6:,.0f}"

    def _number(self, row: int, column: int | None) -> str:
        """Return a value without its spread, or the first word of why it has none."""
        cell = self._cell(row, column)
        if cell is None:
            return ABSENT
        text = cell.text.partition(" ±")[0]
        return text if cell.value is not None else text.partition(":")[0]

    def _facts_ratio(self, row: int) -> Bound | None:
        facts = self.table.rows[row].facts
        return facts.ratio if facts else None

    def _best_task(self) -> int | None:
        """Return the mean over tasks, or the task that the dense model answers best above a guess,
        or the worst track."""
        mean = self.table.column("mean_acc")
        if mean is not None and not self.table.columns[mean].hidden:
            return mean
        guesses: dict[str, float] = {}
        for reading in self.board.rows:
            if reading["metric"] == "acc" and reading["guess"]:
                guesses[reading["protocol"]] = reading["guess"].best
        scores = {}
        for c, column in enumerate(self.table.columns):
            if column.metric != "acc":
                continue
            cells = [self.table.rows[k].cells[c] for k in self.rows]
            first = next((cell for cell in cells if cell and cell.value is not None), None)
            if first and first.value is not None:
                above = first.value - guesses.get(column.protocol, 0.0)
                scores[c] = above / (first.spread or 1.0)
        if scores:
            return max(scores, key=lambda c: scores[c])
        track = self.table.column("worst_track")
        is_measured = track is not None and any(row.cells[track] for row in self.table.rows)
        return track if is_measured else None

    def _verdict(self, row: int) -> str:
        line = self.table.rows[row]
        if line.is_broken:
            return BROKEN
        own = self._value(row)
        if own is None:
            cell = self._cell(row, self.quality)
            return cell.text.partition(":")[0] if cell else ABSENT
        if line.filters["method"] == "dense" and not line.is_quantized:
            return "reference"
        better = [k for k in self._no_larger(row) if (self._value(k) or own) < own]
        if any(pairwise.ordered(k, row) in self.differ for k in better):
            return "beaten"
        return "tied" if better else "front"

    def _no_larger(self, row: int) -> list[int]:
        """Return the rows of at most the bytes of this row. A row whose size is unknown is compared
        with others like it."""
        own = self.table.value(row, self.size)
        out = []
        for k in self.rows:
            size = self.table.value(k, self.size)
            alike = own is None and size is None
            smaller = own is not None and size is not None and size <= own * SAME_SIZE
            if k != row and not self.table.rows[k].is_broken and (alike or smaller):
                out.append(k)
        return out

    def _notes(self) -> list[str]:
        notes = []
        if self.task is not None:
            column = self.table.columns[self.task]
            about = f" ({column.about})" if column.about else ""
            notes.append(f"{column.label}: {column.protocol}{about}.")
        found = {self._verdict(k) for k in self.rows}
        if found & {"front", "tied", "beaten"}:
            notes.append(LEGEND)
        for k in self.rows:
            cells = (self._cell(k, c) for c in (self.quality, self.task))
            bad = [cell.text for cell in cells if cell and cell.value is None]
            if bad:
                notes.append(f"{self._full_name(k)}: {bad[0]}")
        label = "" if self.quality is None else self.table.columns[self.quality].label
        return [*notes, *(r for r in self.table.remarks if r.startswith(f"{label}: "))]

    def _sentences(self) -> list[str]:
        """Return what the paired tests say of rows of one pattern and quantizer."""
        compared = {k for rows in self.intervals for k in rows}
        rows = [k for k in self.rows if k in compared and not self.table.rows[k].is_broken]
        rows.sort(key=lambda k: self._value(k) or 0.0)
        groups = group_by(rows, self._format)
        groups = {name: group for name, group in groups.items() if len(group) > 1}
        if not groups and len(rows) > 1:
            groups = {("", ""): rows}
        self._test_together(groups.values())
        said: dict[tuple[str, tuple[str, ...]], dict[str, list[int]]] = {}
        for (pattern, quantizer), group in groups.items():
            sentences = tuple(self._order(group))
            said.setdefault((pattern, sentences), {})[quantizer] = group
        out = []
        for (pattern, sentences), alike in said.items():
            text = "; ".join(sentences)
            needed = self._needed(list(alike.values()))
            text = f"{text}: {needed}." if needed else f"{text}."
            out.append(f"{pattern}, {', '.join(alike)}: {text}" if len(groups) > 1 else text)
        return out

    def _test_together(self, groups: Iterable[Sequence[int]]) -> None:
        """Adjust the p values of the pairs within these groups, which the sentences describe."""
        pairs = []
        for rows in groups:
            pairs += [pairwise.ordered(*pair) for pair in combinations(rows, 2)]
        self.differ = _differing({pair: i for pair, i in self.intervals.items() if pair in pairs})

    def _format(self, row: int) -> tuple[str, str]:
        """Return the pattern and the quantizer of a row."""
        filters = self.table.rows[row].filters
        quantizer = short_label(filters["quantizer"], self.quantizers)
        return filters["pattern"], quantizer or "none"

    def _names(self, rows: Sequence[int]) -> dict[int, str]:
        """Return the shortest names that tell rows apart: their methods, or else their full
        names."""
        methods = {k: self.table.rows[k].filters["method"] for k in rows}
        if len(set(methods.values())) == len(rows):
            return methods
        return {k: self._full_name(k) for k in rows}

    def _order(self, rows: Sequence[int]) -> list[str]:
        """Describe who is ahead of whom. rows: best first."""
        names = self._names(rows)
        ahead = {}
        for at, k in enumerate(rows):
            ahead[k] = tuple(other for other in rows[at + 1 :] if self._differs(k, other))
        best, *others = rows
        if len(rows) > MAX_LISTED:
            ties = [names[k] for k in others if k not in ahead[best]]
            out = [f"{names[best]} has the lowest perplexity"]
            if ahead[best]:
                out.append(f"it is ahead of {amount(len(ahead[best]), 'row')}")
            if ties:
                out.append(f"it cannot be told from {_listed(ties)}")
            return out
        out = []
        for behind, leaders in group_by(rows, lambda k: ahead[k]).items():
            if behind:
                verb = "is" if len(leaders) == 1 else "are"
                leading = _listed([names[k] for k in leaders])
                out.append(f"{leading} {verb} ahead of {_listed([names[k] for k in behind])}")
        tied = [pair for pair in combinations(rows, 2) if not self._differs(*pair)]
        for group in _cliques(tied):
            out.append(f"{_listed([names[k] for k in group])} cannot be told apart")
        return out

    def _needed(self, groups: Sequence[Sequence[int]]) -> str:
        """Say how many more units would decide the nearest tie of small groups, or "" without
        one."""
        known, ties = [], 0
        for rows in groups:
            names = self._names(rows)
            for a, b in combinations(rows, 2):
                interval = self.intervals.get(pairwise.ordered(a, b))
                if len(rows) > MAX_LISTED or interval is None or self._differs(a, b):
                    continue
                ties += 1
                if interval.missing:
                    known.append((*interval.missing, f"{names[a]} and {names[b]}"))
        if known:
            count, unit, pair = min(known)
            noun = f"more {unit.removesuffix('s')}"
            more = f"about {amount(count, noun)} would"
            return more if ties == 1 else f"{more} tell {pair} apart"
        return "more of this text would not tell them apart" if ties else ""

    def _differs(self, a: int, b: int) -> bool:
        return pairwise.ordered(a, b) in self.differ


def _differing(intervals: Mapping[pairwise.Rows, Interval]) -> set[pairwise.Rows]:
    """Return the pairs that differ by Holm's method."""
    adjusted = multiple_tests.holm([i.p for i in intervals.values()])
    found = zip(intervals, adjusted, strict=True)
    return {rows for rows, p in found if multiple_tests.differs(p, pairwise.ALPHA)}


def _cliques(ties: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return groups of rows in which each ties with each. ties: pairs, in the order of the rows."""
    groups: list[list[int]] = []
    for a, b in ties:
        if any(a in group and b in group for group in groups):
            continue
        has_fitted = False
        for group in groups:
            if all((k, b) in ties for k in group):
                group.append(b)
                has_fitted |= a in group
        if not has_fitted:
            groups.append([a, b])
    return groups


def _listed(names: Sequence[str]) -> str:
    """Join names as a sentence does: a, b and c."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _ratio(bound: Bound | None) -> str:
    if bound is None:
        return ABSENT
    value, low, high = bound.parts
    text = f"{value:,.3f}" if value < 100 else f"{value:,.0f}"
    if low is None or high is None:
        return text
    digits = 3 if high - low < 0.1 else 2
    if value >= 100:
        digits = 0
    return f"{text} [{low:,.{digits}f}, {high:,.{digits}f}]"
