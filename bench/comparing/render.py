"""Comparisons as a table, as Markdown for a comment, and as JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from bench.catalog.choice import short_label
from bench.comparing.verdict import Comparison, Row
from bench.system.text import amount, code, escape_comment

MAX_COMMENT_LENGTH = 60_000
"""Largest number of characters of a comment. GitHub accepts 65,536."""
FOLDED_VERDICTS = ("OK", "NO_BASELINE")
"""Verdicts whose rows a comment hides until it is unfolded."""
COLORS = {
    "REGRESSION": "red",
    "NEW_FAILURE": "red",
    "MISSING": "red",
    "INCONCLUSIVE": "yellow",
    "IMPROVED": "green",
}


def format_number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "–"
    if unit == "B":
        return f"{value / 1e6:,.2f} MB"
    if abs(value) < 1000:
        return f"{value:,.4g}"
    return f"{value:,.1f}"


def format_change(row: Row) -> str:
    """Return a ratio or a difference, with its interval."""
    if row.effect is None:
        is_equal = row.after is not None and row.before == row.after
        if is_equal and row.verdict == "OK":
            return "same"
        return "–"
    value, low, high = row.effect
    if row.estimate and row.estimate.value == row.estimate.low == row.estimate.high == 0:
        return "same"
    text = _format_end(value, row.ratio)
    if row.ratio:
        text = f"×{text}"
    if low is None or high is None:
        return f"{text}, no interval"
    if low == high:
        return text
    return f"{text} [{_format_end(low, row.ratio)}, {_format_end(high, row.ratio)}]"


def _format_end(value: float, ratio: bool) -> str:
    if not ratio:
        return f"{value:+.4f}"
    return f"{value:.4g}" if value < 0.1 else f"{value:.4f}"


def cells(row: Row) -> dict[str, str]:
    """Return a row's columns as text, not yet escaped for Markdown."""
    e = row.estimate
    notes = [row.reason]
    if e and e.lost is not None:
        notes.append(f"{e.lost} lost, {e.gained} gained")
    if e and e.unit not in ("count", "items"):
        items = f"{e.n:,} {e.unit}"
        notes.append(f"{e.seeds} seeds, {items}" if e.seeds > 1 else items)
    p = ""
    if row.adjusted is not None and e and e.n > 1 and e.stderr:
        p = f"{row.adjusted:.2g}"
    if row.verdict == "INCONCLUSIVE" and row.effect and row.effect[1] is None:
        notes.append("too few for an interval: measure more")
    elif row.required_n:
        notes.append(f"{row.required_n[0]:,} {row.required_n[1]} would decide")
    elif row.verdict == "INCONCLUSIVE" and row.estimate:
        notes.append("on the margin: more items would not decide")
    return {
        "": row.mark,
        "row": row.name,
        "metric": row.metric,
        "before": format_number(row.before, row.unit),
        "after": format_number(row.after, row.unit),
        "change": format_change(row),
        "p": p,
        "verdict": row.verdict,
        "about": "; ".join(filter(None, notes)),
    }


def is_same(row: Row) -> bool:
    """Return whether the verdict on a counted number is OK, and its digits are equal."""
    if row.verdict != "OK":
        return False
    is_counted = row.estimate is None or row.estimate.unit == "count"
    digits = [format_number(value, row.unit) for value in (row.before, row.after)]
    return format_change(row) == "same" or (is_counted and digits[0] == digits[1])


def short_cells(row: Row, model: str) -> dict[str, str]:
    """Return the cells for 80 columns: a name with its metric and without the model, and a change
    of three decimals. model: the one of all rows, or ""."""
    name = " ".join(short_label(word, ()) for word in row.name.split())
    out = cells(row)
    name = name.removeprefix(f"{model} ").removesuffix(f" {row.metric}")
    out["row"] = f"{name} {row.metric}"
    out["change"] = re.sub(r"(\d\.\d{3})\d+", r"\1", out["change"])
    return out


def describe_order(comparison: Comparison, before: str, after: str) -> list[str]:
    """Say in sentences which side is ahead, in which metrics, and what would decide the rest."""
    leads: dict[str, dict[str, None]] = {after: {}, before: {}}
    undecided: dict[str, None] = {}
    needed = []
    for row in comparison.rows:
        e = row.estimate
        if row.verdict == "INCONCLUSIVE":
            undecided[row.metric] = None
            if row.required_n:
                needed.append(row.required_n)
        elif e and e.unit != "count" and row.better and not e.low <= 0 <= e.high:
            is_worse = (e.value > 0) == (row.better == "lower")
            leads[before if is_worse else after][row.metric] = None
    if before == after:
        return []
    first, second = leads.items()
    out = []
    for (side, metrics_), (other, _) in ((first, second), (second, first)):
        if metrics_:
            out.append(f"{side} is ahead of {other} in {', '.join(metrics_)}")
    if undecided:
        others = "in other rows " if out else ""
        text = f"{others}they cannot be told apart in {', '.join(undecided)}"
        if needed:
            count, unit = min(needed)
            text += f": {count:,} {unit} would decide the nearest"
        out.append(text)
    return [f"{'; '.join(out)}."] if out else []


def describe_counts(comparison: Comparison) -> str:
    """Return how many rows have each verdict."""
    counts = ", ".join(f"{n} {v}" for v, n in comparison.count().items())
    parts = [counts or "nothing to compare"]
    if comparison.new:
        parts.append(f"{comparison.new} new")
    if comparison.unjudged:
        parts.append(f"no margin for {', '.join(comparison.unjudged)}")
    return "; ".join(parts)


def describe_outcome(comparison: Comparison) -> str:
    """Return the outcome of a gate, as a sentence."""
    outcome = "failed" if comparison.failed else "passed"
    return f"{outcome}: {describe_counts(comparison)}"


def to_markdown(comparison: Comparison, headline: str) -> str:
    """Return the body of a comment: failures first, and rows without problems folded."""
    visible = [r for r in comparison.rows if r.verdict not in FOLDED_VERDICTS]
    folded = [r for r in comparison.rows if r.verdict in FOLDED_VERDICTS]
    out = f"### {escape_comment(headline)}\n"
    if comparison.family:
        sampled = amount(comparison.family, "sampled number")
        coverage = f"{100 * (1 - comparison.level):.4g}% intervals"
        family = f"{sampled}, {coverage}, α = {comparison.settings.alpha:g}"
        out += f"\n{escape_comment(family)}\n"
    if visible:
        out += "\n" + _table(visible)
    if folded and len(out) < MAX_COMMENT_LENGTH:
        rest = _table(folded, MAX_COMMENT_LENGTH - len(out))
        out += f"\n<details><summary>{len(folded)} more</summary>\n\n{rest}\n</details>\n"
    return out


def _table(rows: Sequence[Row], max_length: int = MAX_COMMENT_LENGTH) -> str:
    head = cells(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join("---" for _ in head) + "|"]
    for i, row in enumerate(rows):
        escaped = []
        for column, text in cells(row).items():
            is_name = column in ("row", "metric")
            escaped.append(code(text) if is_name else escape_comment(text))
        lines.append("| " + " | ".join(escaped) + " |")
        max_length -= len(lines[-1]) + 1
        if max_length < 500 and i + 1 < len(rows):
            return "\n".join(lines) + f"\n\nNot shown: {amount(len(rows) - i - 1, 'more row')}.\n"
    return "\n".join(lines) + "\n"


def to_json(comparison: Comparison) -> str:
    """Return the comparison as JSON, with an object for each row. NaN and infinities are null."""
    out = {
        "passed": not comparison.failed,
        "counts": comparison.count(),
        "family": comparison.family,
        "level": comparison.level,
        "alpha": comparison.settings.alpha,
        "new": comparison.new,
        "unjudged": comparison.unjudged,
        "rows": [_to_object(row) for row in comparison.rows],
    }
    return json.dumps(out, indent=1, allow_nan=False)


def _to_object(row: Row) -> dict[str, Any]:
    e, effect = row.estimate, row.effect or (None, None, None)
    out: dict[str, Any] = {
        "row": row.name,
        "metric": row.metric,
        "verdict": row.verdict,
        "mark": row.mark,
        "reason": row.reason,
        "before": row.before,
        "after": row.after,
        "unit": row.unit,
        "better": row.better,
        "effect": "ratio" if row.ratio else "difference",
        "value": effect[0],
        "low": effect[1],
        "high": effect[2],
        "p": e and e.p,
        "p_adjusted": row.adjusted,
        "n": e and e.n,
        "n_unit": e and e.unit,
        "seeds": e and e.seeds,
        "lost": e and e.lost,
        "gained": e and e.gained,
        "margin": row.margin,
        "n_needed": row.required_n and row.required_n[0],
        "n_needed_unit": row.required_n and row.required_n[1],
        "records": [r.stem for r in row.records],
    }
    for name, value in out.items():
        if isinstance(value, float) and not math.isfinite(value):
            out[name] = None
    return out
