"""Pick a row of a leaderboard: those that meet limits, the best first, and the nearest that does
not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from bench.reporting import pairwise, pareto, profile
from bench.reporting.derived_columns import time_to_make, tokens_to_make
from bench.reporting.facts import Bound, Facts, RowNumbers
from bench.reporting.labelled_rows import is_file
from bench.reporting.limits import Limit, Limits, given_limits
from bench.reporting.table import ABSENT
from bench.reporting.view import Table, TableRow
from bench.reporting.words import hundredths, percent, quantity
from bench.system.suggest import describe_unknown
from methods.contract.errors import UserError


class Check(NamedTuple):
    """A limit on a row. bound is None if it was not measured; unsure: the interval contains the
    limit."""

    limit: Limit
    wanted: float
    bound: Bound | None
    met: bool
    unsure: bool


@dataclass(frozen=True)
class Candidate:
    """A row with its checks. tied: whether it does not differ from the best row that meets all
    limits."""

    index: int
    row: TableRow
    facts: Facts
    quality: float
    checks: tuple[Check, ...]
    tied: bool = False

    @property
    def failed(self) -> list[Check]:
        return [c for c in self.checks if c.bound is not None and not c.met]

    @property
    def unmeasured(self) -> list[Check]:
        return [c for c in self.checks if c.bound is None]


@dataclass(frozen=True)
class Answer:
    """The rows that `bench pick` finds."""

    table: Table
    limits: Limits
    meets: tuple[Candidate, ...]
    """Rows that meet all limits, the best first. Of rows that tie with the best, the one of the
    fewest bytes is first."""
    nearest: Candidate | None
    """The row among those that fail whose largest excess over a limit is the smallest."""
    unmeasured: tuple[Candidate, ...]
    """Rows that fail no limit, but lack a number."""
    broken: tuple[TableRow, ...]
    """Rows whose weights break their pattern. They do not count."""
    candidates: int
    uncompared: int
    """Number of rows that meet all limits, but were not compared with the best in pairs."""
    began_with: Candidate | None = None
    """The quantized file that the model was dequantized from, if it is the best row. The next rows
    are what methods made."""


def keep(facts: Facts, tracks: Sequence[str]) -> Facts:
    """Return facts whose loss is the largest of these tracks. A row without one of them has
    none."""
    if not facts.tracks.keys() >= set(tracks):
        return replace(facts, loss=None)
    loss, _ = profile.worst({name: facts.tracks[name] for name in tracks})
    return replace(facts, loss=loss)


def pick(
    table: Table, limits: Limits, pattern: str = "", quantizer: str = "", tracks: Sequence[str] = ()
) -> Answer:
    """Find the rows of a board that meet the limits. Only compressed rows count; rows of a smaller
    budget count on their own.

    tracks: the loss is that of the one of these that loses most, not that of perplexity. It also
    orders the rows of a board without a quality column.
    pattern: rows of this pattern alone; quantizer: rows whose quantizer begins so ("int4" is
    int4-rtn and int4-gptq). Raise UserError without such rows or tracks.
    """
    column = _find_quality(table) if tracks else quality_column(table)
    if tracks:
        table = _with_loss_of(table, tracks)
    named = _with_own_names(table.rows)
    rows = [(k, row) for k, row in enumerate(named) if row.facts and row.facts.compressed]
    for key, wanted in (("pattern", pattern), ("quantizer", quantizer)):
        known = dict.fromkeys(row.filters[key] for _, row in rows)
        rows = [(k, row) for k, row in rows if _matches(row.filters[key], wanted, key)]
        if not rows and wanted:
            raise UserError(describe_unknown(f"{key} of {table.title}", wanted, known))
    given = given_limits(limits)
    candidates = []
    for k, row in rows:
        quality = _quality(table, row, column)
        if row.facts and not row.facts.broken and quality is not None:
            checks = tuple(check_limit(limit, row.facts, float(wanted)) for limit, wanted in given)
            candidates.append(Candidate(k, row, row.facts, quality, checks))
    if tracks:
        _require_told(candidates, limits.max_loss, tracks)
    meets = [c for c in candidates if not c.failed and not c.unmeasured]
    meets.sort(key=lambda c: (c.quality, c.index))
    differ = {} if column is None else pairwise.differ_from_best(table, column)
    first = tied_rows(meets, differ)
    others = [c for c in meets if c not in first]
    if len(first) > 1:
        first = [replace(c, tied=True) for c in first]
    failing = [c for c in candidates if c.failed and not c.unmeasured]
    began_with = next((c for c in first if is_file(c.row.filters)), None)
    if began_with:
        # A file is no result of a method: those follow it.
        made = [c for c in (*first, *others) if c.index != began_with.index]
        first, others = [*made, began_with], []
    return Answer(
        table,
        limits,
        (*first, *others),
        min(failing, key=lambda c: (_excess(c), c.quality, c.index), default=None),
        tuple(c for c in candidates if c.unmeasured and not c.failed),
        tuple(row for _, row in rows if row.facts and row.facts.broken),
        len(candidates),
        sum(pairwise.ordered(meets[0].index, c.index) not in differ for c in meets[1:]),
        began_with,
    )


def _with_own_names(rows: Sequence[TableRow]) -> list[TableRow]:
    """Return rows with names that tell them apart: of equal names, each with the texts that it was
    calibrated or trained on."""
    counts = Counter(row.name for row in rows)
    out = []
    for row in rows:
        texts = row.labels[3:] if counts[row.name] > 1 else ()
        out.append(replace(row, name=" ".join([row.name, *filter(None, texts)])))
    return out


def _require_told(
    candidates: Sequence[Candidate], limit: float | None, tracks: Sequence[str]
) -> None:
    """Raise UserError if the interval of every row that meets the limit of these tracks' loss
    contains it: the rows cannot tell it. The file of the dense model loses nothing, so it does not
    count."""
    if limit is None:
        return
    measured = [c.facts.loss for c in candidates if not is_file(c.row.filters)]
    losses = [loss for loss in measured if loss]
    highs = [math.inf if loss.high is None else loss.high for loss in losses]
    meeting = [high for loss, high in zip(losses, highs, strict=True) if loss.value <= limit]
    if not meeting or min(meeting) <= limit:
        return
    least = f"{math.ceil(1000 * min(highs)) / 10:g}%" if min(highs) < math.inf else "none"
    raise UserError(
        f"--max-loss {100 * limit:.15g}% cannot be told for {', '.join(tracks)}: the interval of "
        f"every row that meets it contains it. The least limit that a row surely meets is {least}: "
        "use at least that, or measure more questions (--set answers.size=large)"
    )


def _with_loss_of(table: Table, tracks: Sequence[str]) -> Table:
    """Return the table with the largest loss of these tracks in the facts of its rows. Raise
    UserError if no row has one of them."""
    measured = profile.names_of(table)
    unknown = [name for name in tracks if name not in measured]
    if unknown and not measured:
        raise UserError(
            f"no track of {table.title} was measured ({table.protocol}): run bench run "
            f"--tasks {unknown[0]}"
        )
    if unknown:
        raise UserError(describe_unknown(f"track of {table.title}", unknown[0], measured))
    rows = list(table.rows)
    for k, row in enumerate(rows):
        if row.facts:
            rows[k] = replace(row, facts=keep(row.facts, tracks))
    return replace(table, rows=tuple(rows))


def tied_rows(meets: Sequence[Candidate], differ: Mapping[pairwise.Rows, bool]) -> list[Candidate]:
    """Return the first row and those that do not differ from it, the one of the fewest bytes
    first."""
    tied = list(meets[:1])
    for c in meets[1:]:
        if differ.get(pairwise.ordered(meets[0].index, c.index)) is False:
            tied.append(c)
    return sorted(
        tied, key=lambda c: (c.facts.bytes is None, c.facts.bytes or 0.0, c.quality, c.index)
    )


def _matches(value: str, wanted: str, key: str) -> bool:
    if key == "quantizer":
        return value.startswith(wanted)
    return wanted in ("", value)


def describe_facts(facts: Facts) -> dict[str, str]:
    """Return a row's numbers as text, by the heads of their columns."""
    row = RowNumbers(facts)
    texts = dict.fromkeys(
        (
            *("MB", "bits per parameter", "bits per weight", "loss (95% interval)"),
            *("worst task, pp", "speedup", "tokens", "time"),
        ),
        ABSENT,
    )
    if facts.bytes is not None:
        texts["MB"] = f"{facts.bytes / 1e6:,.1f}"
    if facts.bits_per_parameter is not None:
        texts["bits per parameter"] = f"{facts.bits_per_parameter:.4g}"
    if facts.bits is not None:
        texts["bits per weight"] = f"{facts.bits:.4g}"
    if facts.loss:
        texts["loss (95% interval)"] = percent(*facts.loss.parts)
    if facts.drop:
        # The header has the unit.
        points = quantity(hundredths, "", *facts.drop.parts)
        texts["worst task, pp"] = f"{points} {facts.worst_task}".strip()
    if facts.speedup:
        texts["speedup"] = f"{facts.speedup.value:.2f}×"
    tokens, time = tokens_to_make(row), time_to_make(row)
    if tokens:
        texts["tokens"] = tokens.text
    if time:
        texts["time"] = time.text
    return texts


def quality_column(table: Table) -> int:
    """Return the column that rows are judged by, or raise UserError if there is none."""
    column = _find_quality(table)
    if column is not None:
        return column
    names = ",".join(profile.names_of(table))
    tracks = f", or say how much tracks may lose: --keep {names} --max-loss 5%" if names else ""
    raise UserError(
        f"no quality was measured for {table.title} ({table.protocol}): run bench run with "
        f"perplexity first{tracks}"
    )


def _find_quality(table: Table) -> int | None:
    metric = pareto.quality_metric(table)
    for c, column in enumerate(table.columns):
        if column.metric == metric and not column.hidden:
            return c
    return None


def _quality(table: Table, row: TableRow, column: int | None) -> float | None:
    """Return what a row is ordered by, lower is better: a column, or the loss if that is None.
    None: not measured."""
    if column is None:
        if row.facts and row.facts.loss:
            return row.facts.loss.value
        return math.inf
    cell = row.cells[column]
    if cell is None or cell.value is None:
        return None
    return table.columns[column].sign * cell.value


def check_limit(limit: Limit, facts: Facts, wanted: float) -> Check:
    """Compare a row with a limit."""
    bound = limit.bound(facts)
    if bound is None:
        return Check(limit, wanted, None, met=False, unsure=False)
    met, low, high = (limit.excess(x, wanted) <= 0 for x in (bound.value, *bound.ends))
    return Check(limit, wanted, bound, met, unsure=low != high)


def _excess(candidate: Candidate) -> float:
    return max(c.limit.excess(c.bound.value, c.wanted) for c in candidate.failed if c.bound)
