"""Parts of pages that compare rows by their perplexity: ratios, chains for a budget, rows of as
many bytes."""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Callable
from functools import cache, partial

import budgets
import result_folders
import trained_rows
from reference import ROOT

from bench.compare.pairing import Seeds
from bench.compare.result_set import ResultSet
from bench.compare.seed_noise_table import SeedNoiseTable
from bench.reporting import board, pairwise, searches
from bench.reporting.cost import CostIndex
from bench.reporting.facts import Interval
from bench.reporting.view import SEED_NOISE_NOTE
from bench.results.record import Record
from bench.results.rows import newest
from bench.results.store import ReadOnlyStore
from bench.system.grouping import group_by
from bench.system.text import escape_markdown


@cache
def seed_noises() -> SeedNoiseTable:
    """Return the noise between seeds that the leaderboard adds, from all folders that are no
    searches."""
    every = [
        result_folders.read(f"results/{path.parent.name}")
        for path in sorted((ROOT / "results").glob("*/records"))
    ]
    return SeedNoiseTable(
        board.merge([one for one in every if not searches.is_search(one)]).records
    )


def ratios(folder: str, *names: str) -> str:
    results = result_folders.merge(folder)
    rows = _perplexities(results)
    rows |= {
        f"{name}@{p}": {p: seeds}
        for name, patterns in rows.items()
        for p, seeds in patterns.items()
    }
    ends = {
        f"{row.label}@{pattern}": f"{row.floor:g}"
        for pattern, records in group_by(
            results.records, lambda record: record.identity.pattern
        ).items()
        for row in trained_rows.read(records)
    }
    lines = ["| perplexity ratio | | 95% interval | |", "|---|---:|---:|---|"]
    noises: dict[str, None] = {}
    for a, b in zip(names[::2], names[1::2], strict=True):
        if any(
            name.startswith("?") and name[1:].replace("_+_", " + ") not in rows for name in (a, b)
        ):
            continue
        a, b = (name.removeprefix("?").replace("_+_", " + ") for name in (a, b))
        if several := [name for name in (a, b) if len(rows[name]) > 1]:
            sys.exit(
                f"{several[0]} in {folder} has several patterns: "
                f"{', '.join(f'{several[0]}@{p}' for p in rows[several[0]])}"
            )
        (before,), (after,) = rows[b].values(), rows[a].values()
        r = pairwise.compare(before, after, "perplexity", results, seed_noises())
        if r is None:
            sys.exit(
                f"{a} and {b} in {folder} cannot be compared: bench compare --results {folder} "
                "says why"
            )
        over = f"{r.seeds} seeds, {r.n} {r.unit}" if r.seeds > 1 else f"{r.n} {r.unit}"
        over += ", one seed" if r.seed_noise and r.seeds == 1 else ""
        floors = [ends.get(f"{name.partition('@')[0]}@{next(iter(rows[name]))}") for name in (a, b)]
        if None not in floors and floors[0] != floors[1]:
            over += f"; not one schedule: lr ends at {floors[0]} and {floors[1]} of its peak"
        noises |= dict.fromkeys(r.seed_noise.split("; ") if r.seed_noise else ())
        lines.append(
            f"| {escape_markdown(f'{a} / {b}'.replace('@', ' '))} | {r.value:.4f} | {r.low:.4f} "
            f"to {r.high:.4f} | {over} |"
        )
    if noises:
        lines.append(f"\n{SEED_NOISE_NOTE} {escape_markdown('; '.join(noises))}.")
    return "\n".join(lines) + "\n"


def budget(*folders: str) -> str:
    """Return which chain to take with a budget of time, for the model of each folder. Folders of a
    model are joined by commas."""
    chains: dict[str, list[budgets.Chain]] = {}
    compare: dict[str, Callable[[str, str], Interval | None]] = {}
    for names in folders:
        results = result_folders.merge(names)
        costs, named = CostIndex(results.records), _perplexities(results)
        rows = {
            label: by_pattern[budgets.PATTERN]
            for label, by_pattern in named.items()
            if budgets.PATTERN in by_pattern
        }
        model = results.records[0].identity.model
        chains[model] = [
            budgets.Chain(label, mean(seeds), cost.seconds, cost.device)
            for label, seeds in rows.items()
            # one draw of a chain carries no advice; a row with typed fields is a search or an
            # ablation
            if (None in seeds or len(seeds) >= budgets.SEEDS)
            and not re.search(r":(?!from=)[^: ]+=", label)
            and (cost := costs.of_row(record.identity for record in seeds.values()))
            and not cost.at_least
        ]
        compare[model] = partial(_ratio, results, rows)
    return "\n".join(budgets.lines(chains, compare)) + "\n"


def _perplexity(record: Record) -> float:
    return next(
        r.value for r in record.readings if r.metric == "perplexity" and r.value is not None
    )


def _ratio(results: ResultSet, rows: dict[str, Seeds], before: str, after: str) -> Interval | None:
    return pairwise.compare(rows[before], rows[after], "perplexity", results, seed_noises())


def _perplexities(results: ResultSet) -> dict[str, dict[str, Seeds]]:
    """Return the records of perplexity without a quantizer by method, pattern and seed."""
    rows: dict[str, dict[str, Seeds]] = {}
    for record in results.records:
        identity = record.identity
        if (identity.measure, identity.quantizer) == ("perplexity", "none"):
            rows.setdefault(identity.method, {}).setdefault(identity.pattern, {})[identity.seed] = (
                record
            )
    return rows


def mean(seeds: Seeds) -> float:
    """Return the mean perplexity over seeds."""
    return statistics.mean(map(_perplexity, seeds.values()))


def found(folder: str) -> str:
    """Return the settings of the trained rows, and their perplexity as a ratio to the two
    controls."""
    results = result_folders.read(folder)
    rows = _perplexities(results)

    def ratio(method: str, control: str) -> str:
        (before, *_), (after, *_) = (
            list(rows.get(name, {}).values()) or [{}] for name in (control, method)
        )
        if method == control or not before or not after:
            return "–"
        r = pairwise.compare(before, after, "perplexity", results, seed_noises())
        return (
            f"{r.value:.3f} ({r.low:.3f} to "
            f"{r.high:.3f}){', one seed' if r.seed_noise and r.seeds == 1 else ''}"
            if r
            else "–"
        )

    return trained_rows.settings_table(
        trained_rows.read(newest(ReadOnlyStore(ROOT / folder))), ratio
    )
