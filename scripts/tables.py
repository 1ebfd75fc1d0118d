"""Tables of a folder's rows: the first of the leaderboard, ratios of pairs, and trained rows.

A function of TABLES makes the text between two comments of a page. Its arguments are the words of
the comment. Folders in one argument are separated by commas.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import trained_rows
from page_records import (
    DASH,
    ROOT,
    compare,
    make_sections,
    markdown,
    merge,
    origin_note,
    perplexities,
    read,
)

from bench.comparing.pairing import Seeds
from bench.reporting import pareto, table
from bench.results import metrics
from bench.results.rows import newest
from bench.results.store import ReadOnlyStore
from bench.system.grouping import group_by
from bench.system.text import escape_markdown

NOISE_OF_PAIRS = "Intervals include the noise between seeds. Standard deviation of a row:"


def leaderboard(folder: str) -> str:
    """Return the tables of a results folder."""
    records = newest(ReadOnlyStore(ROOT / folder))
    parts = [
        f"**{escape_markdown(t.title)}**\n\n{table.to_markdown(t)}"
        for t in table.text_tables(records)
    ]
    return "\n".join([*parts, trained_rows.floors(trained_rows.read(records))])


LEADER_COLUMNS = (
    *("method", "pattern", "quantizer", "bytes packed", "bits per parameter", "bits per weight"),
    "perplexity ratio",
)
"""First words of the columns' headers."""
MAX_LEADERS = 10


def leaders(*words: str) -> str:
    """Return the first rows of the folders' leaderboard in LEADER_COLUMNS, and the notes folded.

    words: folders, and the number of rows if it is not MAX_LEADERS.
    """
    folders = [word for word in words if not word.isdigit()]
    most = max([int(word) for word in words if word.isdigit()], default=MAX_LEADERS)
    section = make_sections(*folders)[0]
    texts = section.tables[0].to_text_tables()
    whole, shown = texts[0], []
    for name in LEADER_COLUMNS:
        named = [i for i, header in enumerate(whole.headers) if header.startswith(name)]
        cells = {line[i] for i in named[:1] for line in whole.lines[:most]}
        if cells - {table.ABSENT}:
            shown.append(named[0])
    lines = [[line[i] for i in shown] for line in whole.lines[:most]]
    first = replace(whole, headers=[whole.headers[i] for i in shown], lines=lines, notes=())
    notes = "\n".join(f"{escape_markdown(note)}\n" for text in texts for note in text.notes)
    return f"{table.to_markdown(first)}\n<details><summary>Notes</summary>\n\n{notes}\n</details>\n"


def beside_smaller(folder: str, model: str) -> str:
    """Return the largest model's rows by bytes and bits per byte, with those of a smaller model."""
    section = make_sections(folder, smaller=model)[0]
    fronts = [front for one in section.tables for front in pareto.fronts(one)]
    front = next(f for f in fronts if f.y.metric == metrics.MEAN_BITS)
    title = f"{escape_markdown(section.title)}, and {escape_markdown(model)}"
    points = sorted(front.points, key=lambda point: point.y)
    rows = [(escape_markdown(p.name), f"{p.x / 1e6:.1f}", f"{p.y:.4f}") for p in points]
    text = markdown((title, ">bytes packed, MB", f">{front.y.name}"), rows)
    return f"{text}\n{escape_markdown(pareto.describe(front))}\n"


def ratios(folder: str, *names: str) -> str:
    """Return perplexity ratios of pairs of methods, named as in the table, or METHOD@PATTERN.

    Spaces of a name are written "_". A pair with ?NAME is left out until it is measured.
    """
    results = merge(folder)
    rows, floors = perplexities(results), {}
    for name, patterns in list(rows.items()):
        rows |= {f"{name}@{pattern}": {pattern: seeds} for pattern, seeds in patterns.items()}
    by_pattern = group_by(results.records, lambda record: record.identity.pattern)
    for pattern, records in by_pattern.items():
        for row in trained_rows.read(records):
            floors[f"{row.label}@{pattern}"] = f"{row.floor:g}"
    cells, noises = [], dict[str, None]()
    for typed in zip(names[::2], names[1::2], strict=True):
        pair = [name.removeprefix("?").replace("_+_", " + ") for name in typed]
        if any(n.startswith("?") and name not in rows for n, name in zip(typed, pair, strict=True)):
            continue
        own = [_only_pattern(name, rows, folder) for name in pair]
        after, before = (rows[name][p] for name, p in zip(pair, own, strict=True))
        r = compare(before, after, results)
        if r is None:
            advice = f"bench compare --results {folder} says why"
            sys.exit(f"{pair[0]} and {pair[1]} in {folder} cannot be compared: {advice}")
        over = f"{r.seeds} seeds, {r.n} {r.unit}" if r.seeds > 1 else f"{r.n} {r.unit}"
        if r.seed_noise and r.seeds == 1:
            over += ", one seed"
        methods = [name.partition("@")[0] for name in pair]
        ends = [floors.get(f"{m}@{p}") for m, p in zip(methods, own, strict=True)]
        if None not in ends and ends[0] != ends[1]:
            over += f"; not one schedule: lr ends at {ends[0]} and {ends[1]} of its peak"
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


def found(folder: str) -> str:
    """Return the settings of the trained rows, how they were found, and ratios to two controls."""
    results = read(folder)
    rows = perplexities(results)

    def ratio(method: str, control: str) -> str:
        before, after = (next(iter(rows.get(n, {"": {}}).values())) for n in (control, method))
        r = compare(before, after, results) if before and after and method != control else None
        if r is None:
            return DASH
        one_seed = ", one seed" if r.seed_noise and r.seeds == 1 else ""
        return f"{r.value:.3f} ({r.low:.3f} to {r.high:.3f}){one_seed}"

    trained = trained_rows.read(newest(ReadOnlyStore(ROOT / folder)))
    return trained_rows.settings_table(trained, ratio)


TABLES: dict[str, Callable[..., str]] = {
    "table": leaderboard,
    "found": found,
    "leaders": leaders,
    "ratio": ratios,
    "smaller": beside_smaller,
}
"""Functions by the first word of their comment."""
