"""Ratios of perplexity after each transform, and the best rows of few bits, for docs/results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import result_folders
from perplexity_ratios import mean, seed_noises

from bench.compare.pairing import Seeds, group_by_identity
from bench.reporting import pairwise
from bench.reporting.cost import CostIndex
from bench.reporting.facts import Interval
from bench.results.identity import Identity
from bench.results.record import Record
from bench.system.grouping import group_by
from bench.system.text import escape_markdown

TRANSFORMS = ("awq", "smooth", "rotate", "permute")
NONE = "none"
MOST_BITS = (4.6, 3.3)
"""Bits per weight, of the packed matrices, that the best rows have at most."""


def transforms(folder: str) -> str:
    """Return a table for each model: ratios of perplexity after each transform."""
    results = result_folders.read(folder)
    costs, out = CostIndex(results.records), []

    def minutes(seeds: Seeds) -> str:
        cost = costs.of_row(record.identity for record in seeds.values())
        return (f", {cost.seconds / 60:.1f} min" if cost and not cost.at_least else "") + _draws(
            seeds
        )

    for model, records in group_by(results.records, lambda record: record.identity.model).items():
        rows: dict[str, dict[str, Seeds]] = {}
        for record in (r for r in records if r.identity.measure == "perplexity"):
            name, transform = _split(record.identity)
            rows.setdefault(name, {}).setdefault(transform, {})[record.identity.seed] = record
        alone = sorted((row[NONE] for row in rows.values() if NONE in row), key=mean)
        names = [name for name in TRANSFORMS if any(name in row for row in rows.values())]
        out += [
            f"**{model}**",
            "",
            f"| | perplexity | {' | '.join(names)} |",
            "|---" + "|---:" * (len(names) + 1) + "|",
        ]
        for before in alone:
            name, _ = _split(next(iter(before.values())).identity)
            cells = [f"{mean(before):.2f}{minutes(before)}"]
            for after in (rows[name].get(transform, {}) for transform in names):
                r = (
                    pairwise.compare(before, after, "perplexity", results, seed_noises())
                    if after
                    else None
                )
                cells.append(_ratio(r) + (minutes(after) if r else ""))
            out.append(f"| {name} | {' | '.join(cells)} |")
        out.append("")
    return "\n".join(out)


def _split(identity: Identity) -> tuple[str, str]:
    """Return the pruner and quantizer of a row, and the transform that it begins with."""
    stages = [name for stage in identity.stages if (name := stage.partition(":")[0]) != "dense"]
    transform = stages.pop(0) if stages and stages[0] in TRANSFORMS else NONE
    quantizer = [identity.quantizer] if identity.quantizer != NONE else []
    return " ".join([*stages[-1:], *quantizer]) or NONE, transform


class Sized(NamedTuple):
    """A row with its size."""

    perplexity: float
    label: str
    pattern: str
    bits: float
    megabytes: float
    alone: bool
    """True without a transform."""
    seeds: Seeds


def _sized(records: Sequence[Record]) -> Iterator[Sized]:
    """Yield the rows that have a perplexity and a size, the mean over their seeds."""
    sizes = {
        r.artifact: {x.metric: x.value for x in r.readings}
        for r in records
        if r.identity.measure == "size"
    }
    measured = [r for r in records if r.identity.measure == "perplexity" and r.artifact in sizes]
    for seeds in group_by_identity(measured).values():
        record = next(iter(seeds.values()))
        identity, size = record.identity, sizes[record.artifact]
        label = identity.method + (f" {identity.quantizer}" if identity.quantizer != NONE else "")
        bits, packed = size["bits_per_weight"] or 0.0, size["bytes_packed"] or 0.0
        yield Sized(
            mean(seeds),
            label,
            identity.pattern,
            bits,
            packed / 1e6,
            _split(identity)[1] == NONE,
            seeds,
        )


@cache
def best(folder: str) -> str:
    """Return a table of the rows with the lowest perplexity, of each model and pattern, by the bits
    that they have at most.

    A row is left out if a transform made it larger than all rows of these bits without one: a head
    that gets its own tensor.
    """
    results = result_folders.read(folder)
    out = [
        "| model | limit of bits per weight | pattern | best row | bits per weight | MB packed | "
        "calibration seeds | perplexity | perplexity / that of the limit's first row (95% "
        "interval) |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    for model, records in group_by(results.records, lambda record: record.identity.model).items():
        rows = list(_sized(records))
        for bits in MOST_BITS:
            within = [row for row in rows if row.bits <= bits]
            most = max(row.megabytes for row in within if row.alone)
            small = [row for row in within if row.megabytes <= most]
            first, *others = sorted(
                min(few) for few in group_by(small, lambda row: row.pattern).values()
            )
            for row in (first, *others):
                r = (
                    pairwise.compare(first.seeds, row.seeds, "perplexity", results, seed_noises())
                    if row is not first
                    else None
                )
                cells = (
                    model,
                    f"{bits}",
                    row.pattern,
                    row.label,
                    f"{row.bits:.3f}",
                    f"{row.megabytes:.1f}",
                    f"{len(row.seeds)}",
                    f"{row.perplexity:.2f}",
                    _ratio(r),
                )
                out.append(f"| {' | '.join(map(escape_markdown, cells))} |")
    return "\n".join(out)


def _draws(seeds: Seeds) -> str:
    return f", {len(seeds)} draws" if len(seeds) > 1 else ""


def _ratio(ratio: Interval | None) -> str:
    if ratio is None:
        return "–"
    value, low, high = (
        f"{x:.3f}" if x < 100 else f"{x:,.0f}" for x in (ratio.value, ratio.low, ratio.high)
    )
    return f"{value} ({low} to {high})"
