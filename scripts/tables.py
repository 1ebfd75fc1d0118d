"""Tables of a board's rows: the first of the leaderboard, ratios of pairs, and a smaller model.

A function of TABLES takes the folder of a board, and the words of the table in results/boards.toml.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from page_records import (
    compare,
    make_sections,
    markdown,
    merge,
    origin_note,
    perplexities,
)

from bench.comparing.pairing import Seeds
from bench.parts.leaderboard.smaller_models import NOT_MADE
from bench.reporting import pareto, table
from bench.reporting.view import ReportSection
from bench.results import metrics
from bench.system.text import escape_markdown

NOISE_OF_PAIRS = "Intervals include the noise between seeds. Standard deviation of a row:"


LEADER_COLUMNS = (
    *("method", "pattern", "quantizer", "bytes packed", "bits per parameter", "bits per weight"),
    "perplexity ratio",
)
"""First words of the columns' headers."""
MAX_LEADERS = "10"


def leaders(folder: str, rows: str = MAX_LEADERS, *parts: str) -> str:
    """Return the first rows of each model of a folder in LEADER_COLUMNS, and the notes folded.

    parts: with any, only the dense row and rows with one of these in their method or quantizer, of
    the models that have such rows.
    """
    sections = make_sections(folder)
    if len(sections) == 1:
        return _first_rows(sections[0], int(rows), parts)
    shown = [one for one in sections if not parts or _has_any(one, parts)]
    texts = [f"{one.title}:\n\n{_first_rows(one, int(rows), parts)}" for one in shown]
    return "\n".join(texts)


def _has_any(section: ReportSection, parts: Sequence[str]) -> bool:
    """Return whether a row of a section has one of these words in its method or quantizer."""
    lines = section.tables[0].to_text_tables()[0].lines
    return any(_matches(line, parts) for line in lines[1:])


def _matches(line: Sequence[str], parts: Sequence[str]) -> bool:
    label = " ".join(line[:3])
    return any(part in label for part in parts)


def _first_rows(section: ReportSection, most: int, parts: Sequence[str]) -> str:
    texts = section.tables[0].to_text_tables()
    whole, shown = texts[0], []
    if parts:
        others = [line for line in whole.lines[1:] if _matches(line, parts)]
        whole = replace(whole, lines=[*whole.lines[:1], *others])
    for name in LEADER_COLUMNS:
        named = [i for i, header in enumerate(whole.headers) if header.startswith(name)]
        cells = {line[i] for i in named[:1] for line in whole.lines[:most]}
        if cells - {table.ABSENT}:
            shown.append(named[0])
    lines = [[line[i] for i in shown] for line in whole.lines[:most]]
    first = replace(whole, headers=[whole.headers[i] for i in shown], lines=lines, notes=())
    shown_table = table.to_markdown(first)
    notes = "\n".join(f"{escape_markdown(note)}\n" for text in texts for note in text.notes)
    if not notes:
        return shown_table
    return f"{shown_table}\n<details><summary>Notes</summary>\n\n{notes}\n</details>\n"


def beside_smaller(folder: str, model: str) -> str:
    """Return the Pareto front of the largest model's rows and a smaller model's, and which of the
    largest model's rows a smaller one is better than in bytes and bits per byte."""
    section = make_sections(folder, smaller=model)[0]
    fronts = [front for one in section.tables for front in pareto.fronts(one)]
    front = next(f for f in fronts if f.y.metric == metrics.MEAN_BITS)
    smaller = [point for point in front.points if point.name.startswith(model)]
    larger = [point for point in front.points if point not in smaller]
    beaten = []
    for point in larger:
        if any(other.x <= point.x and other.y < point.y for other in smaller):
            beaten.append(escape_markdown(point.name))
    rows = []
    for point in front.optimal:
        name = point.name.removesuffix(f" ({NOT_MADE})")
        name = name if point in smaller else f"{section.title} {name}"
        rows.append((escape_markdown(name), f"{point.x / 1e6:.1f}", f"{point.y:.4f}"))
    title, small = escape_markdown(section.title), escape_markdown(model)
    headers = ("Pareto front of both models", ">bytes packed, MB", f">{front.y.name}")
    return (
        f"A row of {small} has fewer bits per byte, in at most the bytes, than {len(beaten)} of "
        f"{len(larger)} rows of {title}: {', '.join(beaten)}.\n\n{markdown(headers, rows)}"
    )


def ratios(folder: str, *names: str) -> str:
    """Return perplexity ratios of pairs of methods, named as in the table, or METHOD@PATTERN.

    names: pairs, after a model if the folder has several.
    """
    results = merge(folder)
    pairs = list(names)
    if len(pairs) % 2:
        model = pairs.pop(0)
        results = results.only(model, [r for r in results.records if r.identity.model == model])
    rows = perplexities(results)
    for name, patterns in list(rows.items()):
        rows |= {f"{name}@{pattern}": {pattern: seeds} for pattern, seeds in patterns.items()}
    missing = [name for name in dict.fromkeys(pairs) if name not in rows]
    if missing:
        sys.exit(
            f"{folder} has no perplexity of {', '.join(missing)}, named in results/boards.toml"
        )
    cells, noises = [], dict[str, None]()
    for pair in zip(pairs[::2], pairs[1::2], strict=True):
        own = [_only_pattern(name, rows, folder) for name in pair]
        after, before = (rows[name][p] for name, p in zip(pair, own, strict=True))
        r = compare(before, after, results)
        if r is None:
            advice = f"bench compare --results {folder} says why"
            sys.exit(f"{pair[0]} and {pair[1]} in {folder} cannot be compared: {advice}")
        over = f"{r.seeds} seeds, {r.n} {r.unit}" if r.seeds > 1 else f"{r.n} {r.unit}"
        if r.seed_noise and r.seeds == 1:
            over += ", one seed"
        if r.seed_noise:
            noises |= dict.fromkeys(r.seed_noise.split("; "))
        label = escape_markdown(" / ".join(pair).replace("@", " "))
        cells.append((label, f"{r.value:.4f}", f"{r.low:.4f} to {r.high:.4f}", over))
    text = markdown(("perplexity ratio", ">", ">95% interval", ""), cells)
    if noises:
        text += f"\n{NOISE_OF_PAIRS} {escape_markdown('; '.join(noises))}.\n"
    return text + origin_note(results.records)


def _only_pattern(name: str, rows: dict[str, dict[str, Seeds]], folder: str) -> str:
    """Return the pattern of a row, or exit if it has several."""
    if len(rows[name]) > 1:
        choices = ", ".join(f"{name}@{pattern}" for pattern in rows[name])
        sys.exit(f"{name} in {folder} has several patterns: {choices}")
    return next(iter(rows[name]))


TABLES: dict[str, Callable[..., str]] = {
    "leaders": leaders,
    "ratio": ratios,
    "smaller": beside_smaller,
}
"""Functions by the kind of a table in results/boards.toml."""
