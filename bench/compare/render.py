"""A judgement shown: as a table, as Markdown for a comment, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.compare.escape import code, markdown, printable
from bench.compare.verdict import Comparison, Row

if TYPE_CHECKING:
    from rich.table import Table

MAX_COMMENT_LENGTH = 60_000
"""Characters of a comment: GitHub takes 65,536."""
FOLDED_VERDICTS = ("OK", "NOT_COMPARABLE")
"""Verdicts whose rows a comment folds away."""
COLORS = {"REGRESSION": "red", "NEW_FAILURE": "red", "MISSING": "red", "INCONCLUSIVE": "yellow", "IMPROVED": "green"}


def format_number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "–"
    if unit == "B":
        return f"{value / 1e6:,.2f} MB"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"


def format_change(row: Row) -> str:
    """Ratio, or difference, with its interval."""
    if row.effect is None:
        return "–"
    value, low, high = row.effect
    if row.estimate and row.estimate.value == row.estimate.low == row.estimate.high == 0:
        return "same"
    form = "{:.4f}" if row.ratio else "{:+.4f}"
    told = ("×" if row.ratio else "") + form.format(value)
    return told if low == high else f"{told} [{form.format(low)}, {form.format(high)}]"


def cells(row: Row) -> dict[str, str]:
    """A row's columns, as text that still has to be escaped."""
    e = row.estimate
    flips = f"{e.lost} lost, {e.gained} gained" if e and e.lost is not None else ""
    told = [row.reason, flips]
    if e and e.unit not in ("count", "items"):
        told.append((f"{e.seeds} seeds, " if e.seeds > 1 else "") + f"{e.n:,} {e.unit}")
    if row.needed:
        told.append(f"{row.needed[0]:,} {row.needed[1]} would decide")
    elif row.verdict == "INCONCLUSIVE":
        told.append("no number of items decides: it lies on the margin")
    return {
        "": row.mark,
        "row": printable(row.name),
        "metric": printable(row.metric),
        "before": format_number(row.before, row.unit),
        "after": format_number(row.after, row.unit),
        "change": format_change(row),
        "p": f"{row.adjusted:.2g}" if row.adjusted is not None and e and e.n > 1 else "",
        "verdict": row.verdict,
        "about": printable("; ".join(filter(None, told))),
    }


def rich_table(rows: Sequence[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in cells(rows[0]) if rows else ("nothing to compare",):
        table.add_column(name, justify="right" if name in ("before", "after", "change", "p") else "left")
    for row in rows:
        style = COLORS.get(row.verdict, "")
        table.add_row(*(Text(c, style if name in ("", "verdict") else "") for name, c in cells(row).items()))
    return table


def describe_counts(judged: Comparison) -> str:
    """How many rows have which verdict."""
    counts = ", ".join(f"{n} {v}" for v, n in judged.count().items()) or "nothing to judge"
    more = f"; {judged.new} new" if judged.new else ""
    left = f"; no margin for {', '.join(map(printable, judged.unjudged))}" if judged.unjudged else ""
    return counts + more + left


def describe_outcome(judged: Comparison) -> str:
    """How a gate ended, in a sentence."""
    return f"{'failed' if judged.failed else 'passed'}: {describe_counts(judged)}"


def to_markdown(judged: Comparison, headline: str) -> str:
    """The body of a comment. What failed stands first; what is well is folded away."""
    family = (
        f"{judged.family} sampled numbers, intervals at {100 * (1 - judged.level):.4g}%, α = {judged.rules.alpha:g}"
    )
    loud = [r for r in judged.rows if r.verdict not in FOLDED_VERDICTS]
    quiet = [r for r in judged.rows if r.verdict in FOLDED_VERDICTS]
    out = f"### {markdown(headline)}\n\n{markdown(family)}\n"
    if loud:
        out += "\n" + _table(loud)
    if quiet and len(out) < MAX_COMMENT_LENGTH:
        out += f"\n<details><summary>{len(quiet)} more</summary>\n\n{_table(quiet, MAX_COMMENT_LENGTH - len(out))}\n</details>\n"
    return out


def _table(rows: Sequence[Row], room: int = MAX_COMMENT_LENGTH) -> str:
    head = cells(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join("---" for _ in head) + "|"]
    for i, row in enumerate(rows):
        named = {k: code(v) if k in ("row", "metric") else markdown(v) for k, v in cells(row).items()}
        lines.append("| " + " | ".join(named.values()) + " |")
        room -= len(lines[-1]) + 1
        if room < 500 and i + 1 < len(rows):
            return "\n".join(lines) + f"\n\n{len(rows) - i - 1} more rows are not shown.\n"
    return "\n".join(lines) + "\n"


def to_json(judged: Comparison) -> str:
    """One object a row; NaN and infinities are null."""
    rows = [_to_object(r) for r in judged.rows]
    told = {"passed": not judged.failed, "counts": judged.count(), "family": judged.family, "level": judged.level}
    about = told | {"alpha": judged.rules.alpha, "new": judged.new, "unjudged": judged.unjudged, "rows": rows}
    return json.dumps(about, indent=1, allow_nan=False)


def _to_object(row: Row) -> dict[str, Any]:
    e, effect = row.estimate, row.effect or (None, None, None)
    out: dict[str, Any] = {"row": row.name, "metric": row.metric, "verdict": row.verdict, "mark": row.mark}
    out |= {"reason": row.reason, "before": row.before, "after": row.after, "unit": row.unit, "better": row.better}
    out |= {"effect": "ratio" if row.ratio else "difference", "value": effect[0], "low": effect[1], "high": effect[2]}
    out |= {"p": e and e.p, "p_adjusted": row.adjusted, "n": e and e.n, "n_unit": e and e.unit, "seeds": e and e.seeds}
    out |= {"lost": e and e.lost, "gained": e and e.gained, "margin": row.margin}
    out |= {"n_needed": row.needed and row.needed[0], "n_needed_unit": row.needed and row.needed[1]}
    out["records"] = [r.key[:32] for r in row.records]
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in out.items()}
