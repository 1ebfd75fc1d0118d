"""Pick a row of a leaderboard: those that meet limits, the best first, and the nearest that does
not.

The page reads `page_choices`: what this rule says of each row at each stop of its sliders.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

from bench.reporting import pairwise, pareto, profile
from bench.reporting.derived_columns import time_to_make, tokens_to_make
from bench.reporting.facts import Bound, Facts, RowNumbers
from bench.reporting.labelled_rows import is_file
from bench.reporting.table import ABSENT
from bench.reporting.view import Table, TableRow
from bench.reporting.words import hundredths, percent, quantity
from bench.system.suggest import describe_unknown
from methods.contract.errors import UserError


@dataclass(frozen=True)
class Limits:
    """The limits that a row must meet. None: no limit. Loss and worst drop are fractions."""

    max_mb: float | None = None
    max_bits: float | None = None
    max_loss: float | None = None
    max_worst_drop: float | None = None
    min_speedup: float | None = None
    budget_tokens: int | None = None


@dataclass(frozen=True)
class Limit:
    """A limit that can be set."""

    name: str
    noun: str
    sentence: str
    bound: Callable[[Facts], Bound | None]
    """Reads what is limited from a row's facts."""
    excess: Callable[[float, float], float]
    """Says by how much a value is over its limit (value, limit), on a scale that all limits share.
    At most 0: met."""
    number: Callable[[float], str]
    unit: str
    example: str
    label: str
    """Name of the page's slider."""
    stops: tuple[str, ...]
    """Values at which the slider stops, from strict to lax. Behind the last, the limit is off."""

    def text(self, value: float, low: float | None = None, high: float | None = None) -> str:
        """Format a value with its unit, and with its interval if it has one."""
        return quantity(self.number, self.unit, value, low, high)

    def given(self, value: float) -> str:
        """Format the limit itself with up to 15 digits, which a float keeps."""
        return f"{value / FORMS[self.name][2]:,.15g}{self.unit}"


def _share(value: float, limit: float) -> float:
    if limit:
        return value / limit - 1
    return math.inf if value > 0 else 0.0


def _exact(value: float | None) -> Bound | None:
    return None if value is None else Bound(value)


def _stops(numbers: str, unit: str = "") -> tuple[str, ...]:
    return tuple(number + unit for number in numbers.split())


LIMITS = (
    Limit(
        "max_mb",
        "size of the model",
        "at most {}",
        lambda f: _exact(None if f.bytes is None else f.bytes / 1e6),
        _share,
        "{:,.4g}".format,
        " MB",
        "100MB",
        "Most bytes of the model",
        _stops(
            "0.5 1 2 5 10 20 50 75 100 125 150 200 250 300 400 500 750 1000 2000 5000 10000", "MB"
        ),
    ),
    Limit(
        "max_bits",
        "bits per weight",
        "at most {} bits per weight",
        lambda f: _exact(f.bits),
        _share,
        "{:.4g}".format,
        "",
        "5",
        "Most bits per weight",
        _stops("2 2.5 3 3.25 3.5 4 4.25 4.5 5 5.5 6 8 8.5 9 10 12 16 17"),
    ),
    Limit(
        "max_loss",
        "loss",
        "a loss of at most {}",
        lambda f: f.loss,
        lambda v, x: (1 + v) / (1 + x) - 1,
        hundredths,
        "%",
        "3%",
        "Most loss",
        _stops("0 0.5 1 2 3 5 7.5 10 15 20 30 40 50 75 100 150 200 300 400 500 1000", "%"),
    ),
    Limit(
        "max_worst_drop",
        "worst task's drop",
        "a worst task that loses at most {}",
        lambda f: f.drop,
        lambda v, x: v - x,
        hundredths,
        " pp",
        "5pp",
        "Worst task loses at most",
        _stops("0 1 2 3 4 5 7.5 10 15 20 30", "pp"),
    ),
    Limit(
        "min_speedup",
        "speedup",
        "a measured speedup of at least {}",
        lambda f: f.speedup,
        lambda v, x: x / v - 1,
        "{:.2f}".format,
        "×",
        "1.2",
        "Least speedup",
        _stops("3 2 1.75 1.5 1.4 1.3 1.2 1.1 1"),
    ),
    Limit(
        "budget_tokens",
        "tokens to make",
        "at most {} tokens to make",
        lambda f: _exact(f.tokens),
        _share,
        "{:,.0f}".format,
        "",
        "2M",
        "Most tokens to make",
        _stops("0 10k 20k 50k 100k 200k 500k 1M 2M 5M 10M 100M 1B 10B"),
    ),
)
"""All limits, in the order of the flags."""

FORMS = {
    "max_mb": (r"(\d+(?:\.\d+)?) ?(?:MB)?", "a number of MB", 1.0),
    "max_bits": (r"(\d+(?:\.\d+)?)", "a number of at least 0", 1.0),
    "max_loss": (r"(\d+(?:\.\d+)?)%", "a percentage", 0.01),
    "max_worst_drop": (r"(\d+(?:\.\d+)?) ?pp", "percentage points", 0.01),
    "min_speedup": (r"(\d+(?:\.\d+)?)[x×]?", "a number above 0", 1.0),
    "budget_tokens": (r"(\d+(?:\.\d+)?)([kMB]?)", "a number of tokens", 1.0),
}
"""The form of each limit's text, its name in an error, and the factor of its number."""
MAX_DIGITS = 17
"""Longest number of a limit, in characters."""
SUFFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9}


def parse_limits(**texts: str | None) -> Limits:
    """Read limits from a user's texts, by the names of the fields. Raise UserError if a text has
    another form."""
    given: dict[str, Any] = {}
    for limit in LIMITS:
        text = texts.get(limit.name)
        if text is not None:
            given[limit.name] = _parse(limit, text)
    return Limits(**given)


def _parse(limit: Limit, text: str) -> float | int:
    form, words, scale = FORMS[limit.name]
    match = re.fullmatch(form, text.strip())
    is_valid = match is not None and len(match[1]) <= MAX_DIGITS
    is_zero = match is not None and float(match[1]) == 0
    if match is None or not is_valid or (is_zero and limit.name == "min_speedup"):
        flag = limit.name.replace("_", "-")
        raise UserError(f"invalid --{flag} {text!r}: must be {words}, for example {limit.example}")
    value = float(match[1]) * scale
    if limit.name == "budget_tokens":
        return round(value * SUFFIXES[match[2]])
    return value


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
    rows = [(k, row) for k, row in enumerate(table.rows) if row.facts and row.facts.compressed]
    for key, wanted in (("pattern", pattern), ("quantizer", quantizer)):
        known = dict.fromkeys(row.filters[key] for _, row in rows)
        rows = [(k, row) for k, row in rows if _matches(row.filters[key], wanted, key)]
        if not rows and wanted:
            raise UserError(describe_unknown(f"{key} of {table.title}", wanted, known))
    given = _given(limits)
    candidates = []
    for k, row in rows:
        quality = _quality(table, row, column)
        if row.facts and not row.facts.broken and quality is not None:
            checks = tuple(_check(limit, row.facts, float(wanted)) for limit, wanted in given)
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


def page_choices(table: Table) -> dict[str, Any] | None:
    """Return what the page's sliders read. Returns None if no row can be picked.

    Rows are in the order of their quality. `stops` has for each limit the first stop that the row
    meets, None if it was not measured. `unsure` has the stops that its interval contains. `tied`
    has the rows that come first if the row is the best, and `uncompared` the later ones that were
    not compared with it, or None if it was compared with none of many.
    """
    try:
        answer = pick(table, Limits())
        differ = pairwise.differ_from_best(table, quality_column(table))
    except UserError:
        return None
    rows = sorted(answer.meets, key=lambda c: (c.quality, c.index))
    if not rows:
        return None
    place = {c.index: at for at, c in enumerate(rows)}
    compared = set(chain.from_iterable(differ))
    patterns = {c.row.filters["pattern"] for c in rows}
    # A quantizer's name, and the part that names of several begin with: "int4" of "int4-gptq".
    quantizers = {c.row.filters["quantizer"] for c in rows}
    options = sorted(quantizers | {re.split("[-:]", name)[0] for name in quantizers})

    def labels(row: TableRow) -> dict[str, Any]:
        fitting = [name for name in options if row.filters["quantizer"].startswith(name)]
        return {"name": row.name, "pattern": row.filters["pattern"], "quantizers": fitting}

    out = []
    for at, c in enumerate(rows):
        stops: list[int | None] = []
        unsure = []
        for limit in LIMITS:
            checks = [_check(limit, c.facts, float(_parse(limit, stop))) for stop in limit.stops]
            is_measured = checks[0].bound is not None
            stops.append(sum(not one.met for one in checks) if is_measured else None)
            unsure.append([k for k, one in enumerate(checks) if one.unsure])
        tied, uncompared = [at], None
        if c.index in compared or len(rows) - at <= pairwise.MAX_PAIRED_ROWS:
            later = enumerate(rows[at + 1 :], at + 1)
            tied = [place[one.index] for one in tied_rows(rows[at:], differ)]
            uncompared = [
                k for k, one in later if pairwise.ordered(c.index, one.index) not in differ
            ]
        found = {
            "device": c.facts.device,
            "make": c.facts.make,
            "export": c.facts.export,
            "stops": stops,
            "unsure": unsure,
            "tied": tied,
            "uncompared": uncompared,
            "cells": list(describe_facts(c.facts).values()),
        }
        out.append(labels(c.row) | found)
    return {
        "rows": out,
        "headers": list(describe_facts(Facts(compressed=True))),
        "patterns": [[name, shlex.join(["--pattern", name])] for name in sorted(patterns)],
        "quantizers": [[name, shlex.join(["--quant", name])] for name in options],
        "broken": [labels(row) for row in answer.broken],
        "command": shlex.join(
            ["bench", "pick", "--model", table.title, "--protocol", table.protocol]
        ),
    }


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


def _given(limits: Limits) -> list[tuple[Limit, float]]:
    given = [(limit, getattr(limits, limit.name)) for limit in LIMITS]
    return [(limit, value) for limit, value in given if value is not None]


def _check(limit: Limit, facts: Facts, wanted: float) -> Check:
    bound = limit.bound(facts)
    if bound is None:
        return Check(limit, wanted, None, met=False, unsure=False)
    met, low, high = (limit.excess(x, wanted) <= 0 for x in (bound.value, *bound.ends))
    return Check(limit, wanted, bound, met, unsure=low != high)


def _excess(candidate: Candidate) -> float:
    return max(c.limit.excess(c.bound.value, c.wanted) for c in candidate.failed if c.bound)


def describe_limits(limits: Limits) -> str:
    """Say the limits in words, as the object of a sentence."""
    parts = [limit.sentence.format(limit.given(value)) for limit, value in _given(limits)]
    if not parts:
        return "all limits, because none is set"
    return "these limits: " + ", ".join(parts)
