"""Quality against bytes and against arithmetic, for a pattern and what competes with it, from records."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import NamedTuple

from reference import ROOT

from bench.compare import resolve
from bench.compare.result_set import ResultSet
from bench.reporting import board, drawing, table_figures
from bench.reporting.hardware import hardware_limit
from bench.reporting.pareto import Front, FrontPoint, describe, pareto_optimal
from bench.reporting.view import TableColumn
from bench.results import metrics
from bench.results.record import Record
from bench.system.text import escape_markdown
from methods.pattern import Pattern

EQUAL = 1.02
"""Largest ratio of two costs that count as equal."""
NEAR = 5
"""Largest ratio of a row's perplexity to the dense model's that a picture shows."""
WIDTH, HEIGHT = 760, 340


@dataclass(frozen=True)
class Arithmetic(TableColumn):
    """The axis of `Row.arithmetic`."""

    @property
    def label(self) -> str:
        return "arithmetic of a prompt, dense = 1"


class Row(NamedTuple):
    """A row of a model, the mean of its seeds."""

    method: str
    quantizer: str
    pattern: Pattern
    perplexity: float
    size: float
    """Packed bytes of the whole model."""
    arithmetic: float
    """Time of the linears of a long prompt where arithmetic is the limit, over that of the dense model. 2:4 counts half, as
    on sparse tensor cores, a pattern that no hardware runs counts as dense, and so do quantized weights."""

    @property
    def name(self) -> str:
        stages = re.sub(r":from=[^ :]*| \+ lowrank:rank=[^ :]*(?= |$)|(?<=lowrank:)rank=[^ :]*:", "", self.method)
        pattern = "" if self.pattern.dense else str(self.pattern)
        return (
            " ".join(part for part in (stages, pattern, self.quantizer) if part not in ("", "none", "dense")) or "dense"
        )


@cache
def read(folders: str) -> tuple[Row, ...]:
    """Return the rows of folders, separated by commas, that have a perplexity of the same protocol and a size."""
    results = board.merge([resolve.read(ROOT / folder) for folder in folders.split(",")]).with_cache()
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for record in results.records:
        identity = record.identity
        row = found.setdefault((identity.method, identity.quantizer, identity.pattern), {})
        values = {r.metric: r.value for r in record.readings if r.value}
        for metric in {"perplexity", metrics.SIZE, "relative_flops"} & values.keys():
            row.setdefault(metric, []).append(values[metric])
        if identity.measure == "size":
            row.setdefault("targets", []).append(_count_targets(results, record))
    dense = found["dense", "none", "dense"]["targets"][0]
    rows = []
    for (method, quantizer, text), values in found.items():
        if {"perplexity", metrics.SIZE, "targets"} <= values.keys():
            pattern = Pattern.parse(text)
            terms = fmean(values.get("relative_flops", [1 - pattern.share])) - 1 + pattern.share
            share = 1 / (hardware_limit(pattern.base) or 1.0) + terms
            mean = math.exp(fmean(map(math.log, values["perplexity"])))
            size, targets = fmean(values[metrics.SIZE]), fmean(values["targets"])
            rows.append(Row(method, quantizer, pattern, mean, size, share * targets / dense))
    return tuple(rows)


def _count_targets(results: ResultSet, record: Record) -> float:
    return float(sum(results.items(record).weights))


def worth(folders: str, pattern: str) -> str:
    """Return in a sentence whether a row that costs no more than the best of a pattern is better. A second one names both fronts."""
    rows = read(folders)
    own = min(
        (row for row in rows if (str(row.pattern), row.quantizer) == (pattern, "none")), key=lambda row: row.perplexity
    )
    size = _answer(own, rows, lambda row: row.size, lambda row: f"in {row.size / 1e6:.2f} MB")
    time = _answer(own, rows, lambda row: row.arithmetic, lambda row: f"at {row.arithmetic:.2f} of the dense model's")
    names = [escape_markdown(", ".join(point.name for point in front.optimal)) for front in fronts(folders)]
    return (
        f"**Is {own.pattern} worth it here?** In bytes {size}; in the arithmetic of a prompt on sparse tensor cores {time}. "
        f"On the fronts, in bytes: {names[0]}; in arithmetic: {names[1]}.\n"
    )


def _answer(own: Row, rows: Iterable[Row], cost: Callable[[Row], float], amount: Callable[[Row], str]) -> str:
    as_cheap = [row for row in rows if row != own and cost(row) <= EQUAL * cost(own)]
    best = min(as_cheap, key=lambda row: row.perplexity, default=own)
    mine, other = (f"{escape_markdown(r.name)} has a perplexity of {r.perplexity:.2f} {amount(r)}" for r in (own, best))
    if best.perplexity >= own.perplexity:
        return f"yes, because {mine}, and no other row that costs as little is better"
    return f"no, because {other}, and {mine}"


def fronts(folders: str) -> tuple[Front, Front]:
    """Return quality against bytes, and against arithmetic, of the rows that are near the dense model."""
    rows, quality = _near(read(folders)), TableColumn("perplexity", "", "lower", "1", names_protocol=False)
    size = TableColumn(metrics.SIZE, "", "lower", "B", names_protocol=False)
    time = Arithmetic("", "", "lower", "1", names_protocol=False)
    return _front(size, quality, rows, lambda row: row.size), _front(time, quality, rows, lambda row: row.arithmetic)


def _near(rows: Iterable[Row]) -> list[Row]:
    dense = next(row.perplexity for row in rows if row.name == "dense")
    return [row for row in rows if row.perplexity <= NEAR * dense]


def _front(x: TableColumn, y: TableColumn, rows: Iterable[Row], cost: Callable[[Row], float]) -> Front:
    places = {row: (cost(row), row.perplexity) for row in rows}
    best = pareto_optimal(places.values())
    points = (
        FrontPoint(k, row.name, *place, 0.0, f"perplexity {row.perplexity:.4g}", place in best, row.pattern.dense)
        for k, (row, place) in enumerate(places.items())
    )
    return Front(x, y, tuple(points))


def picture(folders: str) -> str:
    """Draw both fronts side by side, as an SVG element."""
    figure, (panels,) = drawing.new_figure(WIDTH, HEIGHT, columns=2)
    both = fronts(folders)
    for panel, front in zip(panels, both, strict=True):
        table_figures.draw_front_on(figure, panel, front)
    return drawing.to_svg(figure, "perplexity against bytes and against arithmetic", " ".join(map(describe, both)))
