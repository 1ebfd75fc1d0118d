"""Records of the tables on the pages, read once, and their comparisons as on the leaderboard."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from bench.comparing import result_arguments
from bench.comparing.known_variance import KnownVariance, learn
from bench.comparing.pairing import Seeds
from bench.comparing.result_set import ResultSet
from bench.parts.leaderboard import board_files as boards
from bench.reporting import board, origins, pairwise, searches
from bench.reporting.facts import Interval
from bench.reporting.view import ReportSection
from bench.results.record import Record
from bench.system.text import escape_markdown

ROOT = Path(__file__).parent.parent
DASH = "–"
SOURCE_GRID = ROOT / "results/benchmarks/source_grid.json"
FLATTERED = 0.8
"""Share of a format's error, up to which the file that a model comes from flatters its row."""
SEEDS = 3
"""Number of seeds that a row needs before a sentence of the pages rests on it."""


@cache
def read(folder: str) -> ResultSet:
    """Read a results folder, once for all pages."""
    return result_arguments.read(ROOT / folder).with_cache()


def merge(folders: str) -> ResultSet:
    """Merge folders: keep the newest record of each identity."""
    return board.merge([read(folder) for folder in folders.split(",")])


def markdown(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table. A column whose header begins with ">" is aligned to the right."""
    titles = list(headers)
    rules = ["---:" if title.startswith(">") else "---" for title in titles]
    lines = [[title.removeprefix(">") for title in titles], *rows]
    head, *texts = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head.replace("|  |", "| |"), f"|{'|'.join(rules)}|", *texts]) + "\n"


def ratio_text(ratio: Interval | None, none: str = DASH) -> str:
    """Return a ratio with its interval; from 100 on without decimals."""
    if ratio is None:
        return none
    numbers = (ratio.value, ratio.low, ratio.high)
    value, low, high = (f"{x:.3f}" if x < 100 else f"{x:,.0f}" for x in numbers)
    return f"{value} ({low} to {high})"


@cache
def _source_shares() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(SOURCE_GRID.read_text())["figures"]
    return found


def is_flattered(model: str, quantizer: str) -> bool:
    """Return whether a format errs less on a model than on others, because the model's weights come
    from a file with a similar grid (benchmarks/source_grid.py)."""
    shares = _source_shares().get(quantizer.partition(":")[0], {})
    return shares.get(model, 1.0) <= FLATTERED


@cache
def known_variance() -> KnownVariance:
    """Return the noise of numbers as the leaderboard has it, from all folders but searches."""
    folders = sorted(path.parent.name for path in (ROOT / "results").glob("*/records"))
    results = [read(f"results/{name}") for name in folders]
    kept = [one for one in results if not searches.is_search(one)]
    return learn(board.merge(kept))


def compare(before: Seeds, after: Seeds, results: ResultSet) -> Interval | None:
    """Return the ratio of perplexity after / before; None if they cannot be compared."""
    return pairwise.compare(before, after, "perplexity", results, known_variance())


def make_sections(*folders: str, smaller: str = "") -> list[ReportSection]:
    """Return the leaderboard of folders, with the noise that all folders show."""
    results = [read(folder) for folder in folders]
    return boards.make_sections(results, None, smaller, known_variance())


def change_text(before: Seeds, after: Seeds, results: ResultSet) -> str:
    """Return the ratio of perplexity after / before. It has no interval if the text has too few
    articles to know one."""
    found = compare(before, after, results)
    if found:
        return ratio_text(found)
    return f"{mean(after) / mean(before):.3f} (no interval)"


def mean(seeds: Seeds) -> float:
    """Return the mean perplexity over seeds."""
    values = []
    for record in seeds.values():
        found = [r.value for r in record.readings if r.metric == "perplexity"]
        values.append(next(value for value in found if value is not None))
    return statistics.mean(values)


def perplexities(results: ResultSet) -> dict[str, dict[str, Seeds]]:
    """Return the records of perplexity without a quantizer by method, pattern and seed."""
    rows: dict[str, dict[str, Seeds]] = {}
    for record in results.records:
        identity = record.identity
        if (identity.measure, identity.quantizer) == ("perplexity", "none"):
            patterns = rows.setdefault(identity.method, {})
            patterns.setdefault(identity.pattern, {})[identity.seed] = record
    return rows


def origin_note(records: Iterable[Record]) -> str:
    """Return a paragraph on the processors and versions of a table's records, "" if all have
    one. The rows of these tables have no marks."""
    origin = origins.describe(records).replace(f" ({origins.MARK})", "")
    return f"\n{escape_markdown(origin)}\n" if origin else ""
