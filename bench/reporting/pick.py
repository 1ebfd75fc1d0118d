"""Pick a row of a leaderboard: those that meet limits, the best first, and the nearest that does not.

The page picks by the same rule, in bench/assets/report/pick.js. A test asks both the same questions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

from bench.reporting import pairwise, pareto
from bench.reporting.view import Bound, Facts, Table, TableRow
from bench.reporting.words import hundredths, quantity
from bench.system.suggest import describe_unknown
from methods.errors import UserError


@dataclass(frozen=True)
class Limits:
    """What a row must meet; None: no limit. Loss and worst drop are fractions."""

    max_bits: float | None = None
    max_loss: float | None = None
    max_worst_drop: float | None = None
    min_speedup: float | None = None
    budget_tokens: int | None = None


@dataclass(frozen=True)
class Limit:
    """One limit that can be set: how it is read from a row and printed, the latter by `number` and `unit`.

    excess: by how much a value is over its limit (value, limit), on a scale on which limits can be compared; at most 0: met.
    """

    name: str
    noun: str
    sentence: str
    bound: Callable[[Facts], Bound | None]
    excess: Callable[[float, float], float]
    number: Callable[[float], str]
    unit: str
    example: str

    def text(self, value: float, low: float | None = None, high: float | None = None) -> str:
        """A value of it, with its interval if it has one."""
        return quantity(self.number, self.unit, value, low, high)


def _share(value: float, limit: float) -> float:
    return value / limit - 1 if limit else (float("inf") if value > 0 else 0.0)


def _exact(value: float | None) -> Bound | None:
    return None if value is None else Bound(value)


LIMITS = (
    Limit(
        "max_bits", "bits per weight", "at most {} bits per weight", lambda f: _exact(f.bits), _share, "{:.4g}".format, "",
        "5",
    ),
    Limit(
        "max_loss", "loss", "a loss of at most {}", lambda f: f.loss, lambda v, x: (1 + v) / (1 + x) - 1, hundredths, "%",
        "3%",
    ),
    Limit(
        "max_worst_drop", "worst task's drop", "a worst task that loses at most {}", lambda f: f.drop,
        lambda v, x: v - x, hundredths, " pp", "5pp",
    ),
    Limit(
        "min_speedup", "speedup", "a measured speedup of at least {}", lambda f: f.speedup, lambda v, x: x / v - 1,
        "{:.2f}".format, "×", "1.2",
    ),
    Limit(
        "budget_tokens", "tokens to make", "at most {} tokens to make", lambda f: _exact(f.tokens), _share, "{:,.0f}".format,
        "", "2M",
    ),
)  # fmt: skip
"""In the order of the flags."""

FORMS = {
    "max_bits": (r"(\d+(?:\.\d+)?)", "a number", 1.0),
    "max_loss": (r"(\d+(?:\.\d+)?)%", "a percentage", 0.01),
    "max_worst_drop": (r"(\d+(?:\.\d+)?) ?pp", "percentage points", 0.01),
    "min_speedup": (r"(\d+(?:\.\d+)?)[x×]?", "a number above 0", 1.0),
    "budget_tokens": (r"(\d+(?:\.\d+)?)([kMB]?)", "a number of tokens", 1.0),
}
"""What the text of a limit must look like, in words, and what its number is multiplied by."""
MAX_DIGITS = 17
SUFFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9}


def parse_limits(**texts: str | None) -> Limits:
    """Limits from what a user wrote, by the names of the fields.

    Raises:
        UserError: a text is not of its form.
    """
    values: dict[str, float | int] = {}
    for limit in LIMITS:
        text = texts.get(limit.name)
        if text is None:
            continue
        form, words, scale = FORMS[limit.name]
        match = re.fullmatch(form, text.strip())
        if match is None or len(match[1]) > MAX_DIGITS or (limit.name == "min_speedup" and float(match[1]) == 0):
            flag = limit.name.replace("_", "-")
            raise UserError(f"invalid --{flag} {text!r}: must be {words}, for example {limit.example}")
        value = float(match[1]) * scale
        values[limit.name] = round(value * SUFFIXES[match[2]]) if limit.name == "budget_tokens" else value
    return Limits(**values)  # type: ignore[arg-type]


class Check(NamedTuple):
    """One limit on one row. bound is None if it was not measured; unsure: the interval contains the limit."""

    limit: Limit
    wanted: float
    bound: Bound | None
    met: bool
    unsure: bool


@dataclass(frozen=True)
class Candidate:
    """A row with its checks. tied: no significant difference to the best value among the rows that meet all limits."""

    index: int
    row: TableRow
    quality: float
    checks: tuple[Check, ...]
    tied: bool = False

    @property
    def facts(self) -> Facts:
        assert self.row.facts is not None
        return self.row.facts

    @property
    def failed(self) -> list[Check]:
        return [c for c in self.checks if c.bound is not None and not c.met]

    @property
    def unmeasured(self) -> list[Check]:
        return [c for c in self.checks if c.bound is None]


@dataclass(frozen=True)
class Answer:
    """What `bench pick` finds.

    meets: the best first. Of the rows that do not differ from the best value, the one of the fewest bits is first.
    nearest: of the rows that fail, the one whose largest excess over a limit is the smallest.
    unmeasured: rows that fail nothing, but lack a number; broken: rows whose weights break their pattern, which do not count.
    uncompared: rows that meet all limits, but were not compared with the best in pairs.
    """

    table: Table
    limits: Limits
    meets: tuple[Candidate, ...]
    nearest: Candidate | None
    unmeasured: tuple[Candidate, ...]
    broken: tuple[TableRow, ...]
    candidates: int
    uncompared: int


def pick(table: Table, limits: Limits, pattern: str = "", quantizer: str = "") -> Answer:
    """The rows of a board that meet the limits. Only compressed rows count; rows of a smaller budget count on their own.

    pattern: rows of this pattern alone; quantizer: rows whose quantizer begins so ("int4" is int4-rtn and int4-gptq).

    Raises:
        UserError: the board has no quality column, or no such rows.
    """
    column = quality_column(table)
    rows = [(k, row) for k, row in enumerate(table.rows) if row.facts and row.facts.compressed]
    for key, wanted in (("pattern", pattern), ("quantizer", quantizer)):
        known = dict.fromkeys(row.filters[key] for _, row in rows)
        rows = [(k, row) for k, row in rows if _matches(row.filters[key], wanted, key)]
        if not rows and wanted:
            raise UserError(describe_unknown(f"{key} of {table.title}", wanted, known))
    broken = tuple(row for _, row in rows if row.facts and row.facts.broken)
    candidates = []
    for k, row in rows:
        cell = row.cells[column]
        if row.facts and not row.facts.broken and cell and cell.value is not None:
            sign = -1 if table.columns[column].better == "higher" else 1
            candidates.append(Candidate(k, row, sign * cell.value, _checks(row.facts, limits)))
    meets = sorted((c for c in candidates if not c.failed and not c.unmeasured), key=lambda c: (c.quality, c.index))
    differ = pairwise.significance(table, column)
    tied = [c for c in meets if c is meets[0] or differ.get(pairwise.ordered(meets[0].index, c.index)) is False]
    rest = [c for c in meets if c not in tied]
    first = sorted(tied, key=lambda c: (c.facts.bits is None, c.facts.bits or 0.0, c.quality, c.index))
    failing = [c for c in candidates if c.failed and not c.unmeasured]
    return Answer(
        table,
        limits,
        tuple(Candidate(c.index, c.row, c.quality, c.checks, tied=len(first) > 1) for c in first) + tuple(rest),
        min(failing, key=lambda c: (_excess(c), c.quality, c.index), default=None),
        tuple(c for c in candidates if c.unmeasured and not c.failed),
        broken,
        len(candidates),
        sum(pairwise.ordered(meets[0].index, c.index) not in differ for c in meets[1:]),
    )


def _matches(value: str, wanted: str, key: str) -> bool:
    return not wanted or (value.startswith(wanted) if key == "quantizer" else value == wanted)


def quality_column(table: Table) -> int:
    """The column that rows are judged by.

    Raises:
        UserError: there is none.
    """
    metric = pareto.quality_metric(table)
    for c, column in enumerate(table.columns):
        if column.metric == metric and not column.hidden:
            return c
    raise UserError(
        f"no quality was measured for {table.title} ({table.protocol}): run bench run with perplexity first"
    )


def _checks(facts: Facts, limits: Limits) -> tuple[Check, ...]:
    out = []
    for limit in LIMITS:
        wanted = getattr(limits, limit.name)
        if wanted is None:
            continue
        bound = limit.bound(facts)
        met = bound is not None and limit.excess(bound.value, wanted) <= 0
        ends = () if bound is None or bound.low is None or bound.high is None else (bound.low, bound.high)
        unsure = len({limit.excess(x, wanted) <= 0 for x in ends}) == 2
        out.append(Check(limit, float(wanted), bound, met, unsure))
    return tuple(out)


def _excess(candidate: Candidate) -> float:
    return max(c.limit.excess(c.bound.value, c.wanted) for c in candidate.failed if c.bound)


def describe_limits(limits: Limits) -> str:
    """The limits in words, as the object of a sentence."""
    parts = []
    for field, limit in zip(fields(limits), LIMITS, strict=True):
        value = getattr(limits, field.name)
        if value is not None:
            parts.append(limit.sentence.format(limit.text(value)))
    return ("these limits: " + ", ".join(parts)) if parts else "all limits, because none is set"
