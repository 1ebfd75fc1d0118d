"""What a pattern costs: each method's perplexity ratio to dense, by pattern, with the speedup that hardware can give it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.reporting import words
from bench.reporting.scale import Tick, make_scale
from bench.reporting.view import Bound, Table
from methods.errors import UserError
from methods.pattern import Pattern

WIDTH, HEIGHT = 460, 340
LEFT, RIGHT, TOP, BOTTOM = 60, 448, 34, 262
MIN_PATTERNS = 2
MAX_METHODS = 4
STYLES = ("a", "b", "c", "d")
"""Classes of the style sheet: a color and a mark for each method."""
ORDER = ("wanda", "sparsegpt")
"""These methods come first."""


@dataclass(frozen=True)
class Mark:
    x: float
    y: float
    low: float
    high: float
    style: str
    name: str
    text: str


@dataclass(frozen=True)
class Group:
    """One pattern on the x axis."""

    x: float
    name: str
    limit: str


@dataclass(frozen=True)
class PatternCost:
    """All that the template draws, in pixels."""

    title: str
    description: str
    groups: tuple[Group, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    legend: tuple[tuple[str, str, float], ...]
    """Style, name and x of each method."""
    y_name: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM


def hardware_limit(pattern: Pattern) -> float | None:
    """The most that hardware can speed up the arithmetic of a pattern; None: no hardware has it.

    Sparse tensor cores have 2:4, at 2 times. (2N-2):2N runs on them as N - 1 windows of 2:4 for every N dense ones: N/(N-1).
    """
    half, odd = divmod(pattern.m, 2)
    if pattern.m < 4 or odd or pattern.n != pattern.m - 2:
        return None
    return half / (half - 1)


def draw(table: Table, title: str) -> PatternCost | None:
    """None if no method was measured with MIN_PATTERNS patterns. Rows without a quantizer alone count."""
    ratios: dict[str, dict[str, Bound]] = {}
    for method, pattern, bound in _rows(table):
        ratios.setdefault(method, {}).setdefault(pattern, bound)
    several = [m for m, by_pattern in ratios.items() if len(by_pattern) >= MIN_PATTERNS]
    methods = sorted(several, key=lambda m: (m not in ORDER, -len(ratios[m]), m))[:MAX_METHODS]
    if not methods:
        return None
    patterns = sorted({p for m in methods for p in ratios[m]}, key=_kept)
    shown = [bound for method in methods for bound in ratios[method].values()]
    scale = make_scale([end for b in shown for end in (b.value, *b.ends)] + [1.0], BOTTOM, TOP)
    width = (RIGHT - LEFT) / len(patterns)
    groups = tuple(
        Group(LEFT + width * (i + 0.5), p, _describe_limit(Pattern.parse(p))) for i, p in enumerate(patterns)
    )
    marks = []
    for k, method in enumerate(methods):
        for group in groups:
            if group.name in ratios[method]:
                bound = ratios[method][group.name]
                text = words.ratio(bound.value, bound.low, bound.high)
                x = round(group.x + 14 * (k - (len(methods) - 1) / 2), 1)
                y, bottom, top = map(scale, (bound.value, *bound.ends))
                marks.append(Mark(x, y, bottom, top, STYLES[k], f"{method} {group.name}", text))
    legend, x = [], float(LEFT)
    for k, method in enumerate(methods):
        legend.append((STYLES[k], method, x))
        x += 30 + 6.2 * len(method)
    return PatternCost(
        title,
        "; ".join(f"{m.name} {m.text}" for m in marks),
        groups,
        tuple(Tick(scale(v), words.tick(v)) for v in scale.ticks()),
        tuple(marks),
        tuple(legend),
        "perplexity ratio to dense" + (" (log)" if scale.log else ""),
    )


def _rows(table: Table) -> Iterator[tuple[str, str, Bound]]:
    for k in table.whole_rows:
        row = table.rows[k]
        pattern, facts = row.filters["pattern"], row.facts
        if facts and facts.ratio and not (row.is_quantized or pattern == "dense" or facts.broken):
            try:
                Pattern.parse(pattern)
            except UserError:
                continue  # a name of another program's pattern
            yield row.filters["method"], pattern, facts.ratio


def _kept(name: str) -> tuple[float, bool, int]:
    """Few weights kept first; n:m before unstructured."""
    pattern = Pattern.parse(name)
    kept = 1 - pattern.sparsity if pattern.unstructured else pattern.n / pattern.m
    return (kept, pattern.unstructured, pattern.m)


def _describe_limit(pattern: Pattern) -> str:
    limit = hardware_limit(pattern)
    return "none" if limit is None else f"{limit:.3g}×"
