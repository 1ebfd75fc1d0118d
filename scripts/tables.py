"""Tables of the pages from records: which rows each has, their columns and their sentences.

A function of TABLES makes the text between two comments of a page. Its arguments are the words of
the comment. Folders in one argument are separated by commas.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import trained_rows

from bench import search
from bench.compare import result_arguments, scaling_law
from bench.compare.known_variance import KnownVariance, learn
from bench.compare.pairing import Seeds, group_by_identity
from bench.compare.result_set import ResultSet
from bench.inputs import tracks
from bench.inputs.models import quantized_file
from bench.parts.forecasts.cards import split_cards
from bench.parts.forecasts.cost_model import CostModel
from bench.parts.forecasts.plan_costs import estimate_columns
from bench.planning.plan import make_plan
from bench.planning.search_space import read_search
from bench.planning.spec import Spec
from bench.reporting import (
    board,
    origins,
    pairwise,
    pareto,
    profile,
    searches,
    table,
    table_figures,
)
from bench.reporting import leaderboard as boards
from bench.reporting.cost import CostIndex
from bench.reporting.facts import Interval
from bench.reporting.labelled_rows import quantizer_of_file
from bench.reporting.table_figures import TableFigure
from bench.reporting.view import SEED_NOISE_NOTE, ReportSection, Table
from bench.results import metrics
from bench.results.identity import Identity
from bench.results.record import Record
from bench.results.rows import newest
from bench.results.store import ReadOnlyStore
from bench.stats.bootstrap import satterthwaite, students_t
from bench.stats.ratios import Change, PairedGroup, estimate_change
from bench.stats.seed_noise import SeedNoise
from bench.system.grouping import group_by
from bench.system.text import escape_markdown
from bench.system.toml import read_toml

ROOT = Path(__file__).parent.parent
DASH = "–"
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


PROFILES = "results/tracks"
"""Folder whose profiles the pages show."""


def profiles(folder: str) -> str:
    """Return a picture for each model of what each track loses. The page has the tables."""
    pictures = []
    for name, _, picture in profile_figures(folder):
        pictures.append(f"![{escape_markdown(picture.title)}](figures/{name}.svg)\n")
    return "\n".join([*pictures, f"{profile.CAPTION}\n"])


@cache
def track_ranks(folder: str, pattern: str, track: str, other: str) -> str:
    """Return in how many rows of a pattern a track loses most, and another ties with it."""
    parts = []
    for name, one, _ in profile_figures(folder):
        losses = [one.facts(k).tracks for k in profile.rows_of(one) if pattern in _words(one, k)]
        first = tied = 0
        for of_row in losses:
            ranks = {each: (best, worst) for each, best, worst in profile.rank(of_row)}
            first += ranks[track][0] == 1
            tied += ranks[other][0] <= ranks[track][1]
        model = name.removeprefix("profile-")
        parts.append(f"{first} of {len(losses)} rows of {model} ({other} ties with it in {tied})")
    return (
        f"At {pattern}, {track} loses the most bits per byte, alone or in a tie, in "
        f"{' and in '.join(parts)}.\n"
    )


def _words(one: Table, k: int) -> list[str]:
    """Return the words of a row's name, a pattern among them."""
    return one.rows[k].name.split()


def profile_figures(folder: str) -> list[tuple[str, Table, TableFigure]]:
    """Return the file name, the table and the heat map of each model of a folder."""
    if not (ROOT / folder / "records").is_dir():
        return []
    found = []
    for section in make_sections(folder):
        one, title = section.tables[0], section.title
        if profile.rows_of(one):
            found.append((f"profile-{title}", one, table_figures.draw_tracks(one, title)))
    return found


TOLD_PATTERN = "2:4"
"""Pattern of the rows whose differences the table of sizes tells."""


class TaskPart(NamedTuple):
    """What one task adds to the difference of two rows in a track."""

    track: str
    task: str
    change: Change
    """Difference of their losses, on the questions that were measured."""
    dense: float
    """Bits per byte of the dense model."""
    questions: int
    seconds: float
    """Seconds of a question in a row."""


def track_sizes(folder: str) -> str:
    """Return the smallest difference of two rows' losses that each size of the tracks can tell, and
    the seconds of a row. Of the sizes that were not measured they follow from the questions that
    were, whose variance falls as their number grows. The noise between seeds stays."""
    results, sizes = read(folder), tracks.sizes()
    draws, metric = known_variance().draws, metrics.find(profile.METRIC)
    told: dict[tuple[str, str], list[float]] = {}
    costs: dict[tuple[str, str], list[float]] = {}
    computed: set[str] = set()
    for records in group_by(results.records, lambda record: record.identity.model).values():
        rows = group_by(records, lambda record: record.identity.key("measure", "protocol"))
        dense = next(of for of in rows.values() if _is_dense(of[0].identity))
        chosen = [of for of in rows.values() if _is_told(of[0].identity)]
        for one, other in combinations(chosen, 2):
            parts = list(_parts_of_tracks(dense, one, other, results))
            for track, of_track in group_by(parts, lambda part: part.track).items():
                noise, _ = draws.of_record(one[0], metric)
                for size, limits in sizes.items():
                    half, seconds = _told(of_track, limits, noise)
                    told.setdefault((track, size), []).append(half)
                    costs.setdefault((track, size), []).append(seconds)
                    if any(_questions(part, limits) != part.questions for part in of_track):
                        computed.add(size)
    lines = []
    medians = {key: statistics.median(seconds) for key, seconds in costs.items()}
    for track in dict.fromkeys(track for track, _ in told):
        cells = [track]
        for size in sizes:
            span = f"{100 * min(told[track, size]):.0f} to {100 * max(told[track, size]):.0f}"
            cells.append(f"{span} points, {medians[track, size]:.0f} s")
        lines.append(cells)
    whole = {size: sum(s for (_, of), s in medians.items() if of == size) for size in sizes}
    lines.append(["all", *(f"{seconds:.0f} s" for seconds in whole.values())])
    kinds = {size: "computed" if size in computed else "measured" for size in sizes}
    return markdown(("track", *(f">{size}, {kind}" for size, kind in kinds.items())), lines)


def _is_dense(identity: Identity) -> bool:
    return identity.method == "dense" and identity.quantizer == NONE


def _is_told(identity: Identity) -> bool:
    return identity.pattern == TOLD_PATTERN and identity.quantizer == NONE


def _parts_of_tracks(
    dense: Sequence[Record], one: Sequence[Record], other: Sequence[Record], results: ResultSet
) -> Iterator[TaskPart]:
    """Yield the difference of two rows in each task, as a share of the dense model's bits."""
    sides = [
        {label: of[0] for label, of in profile.by_task(r).items()} for r in (dense, one, other)
    ]
    for label, record in sides[0].items():
        if not all(label in side for side in sides):
            continue
        was, a, b = (results.items(side[label]) for side in sides)
        bits = [items.columns["value"] for items in (was, a, b)]
        after = bits[0] + bits[2] - bits[1]
        group = PairedGroup(bits[0], after[None], was.clusters.astype(str))
        change = estimate_change([group])
        if change:
            name, count = record.identity.protocol.name, len(was.ids)
            seconds = float(sides[1][label].cost.get("wall_s", 0.0)) / count
            track = name.partition("/")[0]
            yield TaskPart(track, name, change, float(bits[0].mean()), count, seconds)


def _told(
    parts: Sequence[TaskPart], limits: Mapping[str, int], noise: SeedNoise
) -> tuple[float, float]:
    """Return half of the interval of the difference at a size, and the seconds of a row."""
    variances, seconds = [], 0.0
    for part in parts:
        count = _questions(part, limits)
        more = count / part.questions
        variance = part.change.stderr**2 / len(parts) ** 2 / more
        variances.append((variance, part.change.freedom * more))
        seconds += part.seconds * count
    scale = statistics.fmean(1 / part.dense for part in parts)
    variances.append((2 * noise.variance * scale**2, noise.freedom))
    total = sum(variance for variance, _ in variances)
    return students_t(pairwise.ALPHA, satterthwaite(variances)) * total**0.5, seconds


def _questions(part: TaskPart, limits: Mapping[str, int]) -> int:
    return tracks.limit_of(part.task, limits, part.questions)


def allocations(folder: str) -> str:
    """Return the damage of each file of `bench allocate`, predicted and measured."""
    rows = []
    for path in sorted((ROOT / folder).glob("*.json")):
        for choice, about in json.loads(path.read_text())["damage"].items():
            used = about.get("kept", about["bits"])
            damage = f"{about['predicted']:.4g}", f"{about['measured']:.4g}"
            rows.append((path.stem, choice, f"{used:g}", *damage))
    headers = ("file", "choice", ">bits, or share kept", ">predicted KL", ">measured KL")
    return markdown(headers, rows)


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
        text += f"\n{SEED_NOISE_NOTE} {escape_markdown('; '.join(noises))}.\n"
    return text + origin_note(results.records)


def origin_note(records: Iterable[Record]) -> str:
    """Return a paragraph on the processors and versions of a table's records, "" if all have
    one. The rows of these tables have no marks."""
    origin = origins.describe(records).replace(f" ({origins.MARK})", "")
    return f"\n{escape_markdown(origin)}\n" if origin else ""


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


BUDGETS = {"a minute": 60, "ten minutes": 600, "an hour": 3600, "a day": 86_400}
"""Seconds of a budget, by its name in the table."""
BUDGET_PATTERN = "2:4"
TYPED_FIELD = re.compile(r":(?!from=)[^: ]+=")
"""A field of a search or an ablation in a label."""


class Chain(NamedTuple):
    """A chain of stages that was measured."""

    label: str
    perplexity: float
    seconds: float
    """Seconds of all stages together."""
    device: str


class Pick(NamedTuple):
    """The chain to take for a budget."""

    chain: Chain
    ratio: Interval | None
    """Ratio to the lowest perplexity in the budget, or None for that chain itself."""


def pick(
    chains: list[Chain], seconds: float, ratio_of: Callable[[str, str], Interval | None]
) -> Pick | None:
    """Return the fastest chain that cannot be told apart from the one with the lowest perplexity.

    ratio_of(a, b): ratio of the perplexity of label b to that of label a, or None if unknown.
    """
    within = [chain for chain in chains if chain.seconds <= seconds]
    if not within:
        return None
    best = min(within, key=lambda chain: chain.perplexity)
    ties = [Pick(best, None)]
    for chain in within:
        ratio = None if chain is best else ratio_of(best.label, chain.label)
        if ratio and ratio.low <= 1:
            ties.append(Pick(chain, ratio))
    return min(ties, key=lambda tie: tie.chain.seconds)


def budget(*folders: str) -> str:
    """Return which chain of stages to take with a budget of time, for the model of each folder."""
    models = [merge(folder) for folder in folders]
    chains = [_chains(results) for results in models]
    rows = []
    for name, seconds in BUDGETS.items():
        for results, measured in zip(models, chains, strict=True):
            taken = pick(measured, seconds, partial(_chain_ratio, results))
            if taken:
                label, perplexity, took, device = taken.chain
                cells = (escape_markdown(label), f"{took:.0f} s, {device}", f"{perplexity:.2f}")
                model = results.records[0].identity.model
                rows.append((name, model, *cells, ratio_text(taken.ratio, "lowest")))
    return markdown(("up to", "model", "take", ">it took", ">perplexity", ">/ lowest"), rows)


def _chains(results: ResultSet) -> list[Chain]:
    """Return the chains of BUDGET_PATTERN with enough seeds and a known cost."""
    costs, found = CostIndex(results.records), []
    for label, patterns in perplexities(results).items():
        seeds = patterns.get(BUDGET_PATTERN, {})
        repeated = None in seeds or len(seeds) >= SEEDS
        if not repeated or TYPED_FIELD.search(label):
            continue
        cost = costs.of_row(record.identity for record in seeds.values())
        if cost and not cost.at_least:
            found.append(Chain(label, mean(seeds), cost.seconds, cost.device))
    return found


def _chain_ratio(results: ResultSet, before: str, after: str) -> Interval | None:
    rows = perplexities(results)
    return compare(rows[before][BUDGET_PATTERN], rows[after][BUDGET_PATTERN], results)


TRANSFORMS = ("awq", "smooth", "rotate", "permute")
NONE = "none"
MOST_BITS = (4.6, 3.3)
"""Limits of the bits per weight. The largest row of each without a transform is a limit of bytes
for all."""
SOURCE = "source file"
"""Pattern of the row of the file that a model was read from."""


def transforms(folder: str) -> str:
    """Return a table for each model: ratios of perplexity after each transform."""
    results = read(folder)
    costs, parts = CostIndex(results.records), []

    def minutes(seeds: Seeds) -> str:
        cost = costs.of_row(record.identity for record in seeds.values())
        took = f", {cost.seconds / 60:.1f} min" if cost and not cost.at_least else ""
        return f"{took}, {len(seeds)} draws" if len(seeds) > 1 else took

    for model, records in group_by(results.records, lambda record: record.identity.model).items():
        rows: dict[str, dict[str, Seeds]] = {}
        for record in records:
            if record.identity.measure == "perplexity":
                name, transform = _split(record.identity)
                by_transform = rows.setdefault(name, {})
                by_transform.setdefault(transform, {})[record.identity.seed] = record
        alone = {name: row[NONE] for name, row in rows.items() if NONE in row}
        used = {transform for row in rows.values() for transform in row}
        names = [name for name in TRANSFORMS if name in used]
        lines = []
        for name, before in sorted(alone.items(), key=lambda row: mean(row[1])):
            cells = [name, f"{mean(before):.2f}{minutes(before)}"]
            for transform in names:
                after = rows[name].get(transform, {})
                if after:
                    cells.append(change_text(before, after, results) + minutes(after))
                else:
                    cells.append(DASH)
            lines.append(cells)
        headers = ("", ">perplexity", *(f">{name}" for name in names))
        machines = sorted({record.processor_kind for record in records} - {""})
        timed = f"\nMinutes are of one core of {' or '.join(machines)}, beside other work.\n"
        text = markdown(headers, lines) + timed + origin_note(records)
        parts.append(f"**{model}**\n\n{text}")
    return "\n".join(parts)


def _split(identity: Identity) -> tuple[str, str]:
    """Return the pruner and quantizer of a row, and the transform that it begins with."""
    stages = [stage.partition(":")[0] for stage in identity.stages]
    stages = [name for name in stages if name != "dense"]
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
    parameters: float
    alone: bool
    """True without a transform."""
    seeds: Seeds


def _sized(records: Sequence[Record]) -> Iterator[Sized]:
    """Yield the rows that have a perplexity and a size, the mean over their seeds."""
    sizes: dict[str, dict[str, float]] = {}
    for record in records:
        if record.identity.measure == "size":
            sizes[record.artifact] = {r.metric: r.value or 0.0 for r in record.readings}
    measured = [r for r in records if r.identity.measure == "perplexity" and r.artifact in sizes]
    for seeds in group_by_identity(measured).values():
        record = next(iter(seeds.values()))
        identity, size = record.identity, sizes[record.artifact]
        label = identity.method
        if identity.quantizer != NONE:
            label += f" {identity.quantizer}"
        bits, megabytes = size.get("bits_per_weight", 0.0), size.get(metrics.SIZE, 0.0) / 1e6
        alone = _split(identity)[1] == NONE
        row = Sized(
            mean(seeds),
            label,
            identity.pattern,
            bits,
            megabytes,
            size["parameters"],
            alone,
            seeds,
        )
        yield row
        file = quantized_file(identity.model)
        if file and label == "dense":
            name = quantizer_of_file(file)
            yield row._replace(
                label=name, pattern=SOURCE, bits=file.bits, megabytes=file.bytes / 1e6
            )


@cache
def best(folder: str) -> str:
    """Return the rows with the lowest perplexity, of each model and pattern, under limits of bytes.

    The file that the model was read from is a row, under the first limit that it meets. See
    MOST_BITS for the limits.
    """
    results = read(folder)
    rows = []
    for model, records in group_by(results.records, lambda record: record.identity.model).items():
        sized = list(_sized(records))
        taken: list[Sized] = []
        for bits in MOST_BITS:
            within = [row for row in sized if row.bits <= bits and row.pattern != SOURCE]
            most = max(row.megabytes for row in within if row.alone)
            small = [row for row in sized if row.megabytes <= most]
            by_pattern = group_by(small, lambda row: row.pattern)
            winners = sorted(min(few) for few in by_pattern.values())
            for row in winners:
                if row in taken and row.pattern == SOURCE:
                    continue
                taken.append(row)
                first = taken[0]
                ratio = DASH
                if row is not first:
                    ratio = change_text(first.seeds, row.seeds, results)
                size = f"{row.megabytes:.1f}", f"{8e6 * row.megabytes / row.parameters:.3f}"
                cells = (model, f"{most:.1f}", row.pattern, row.label, *size, f"{row.bits:.3f}")
                about = f"{len(row.seeds)}", f"{row.perplexity:.2f}", ratio
                rows.append(map(escape_markdown, (*cells, *about)))
    headers = (
        *("model", ">limit, MB", "pattern", "best row", ">MB", ">bits per parameter"),
        *(">bits per weight", ">calibration seeds", ">perplexity"),
        ">perplexity / that of the model's first row (95% interval)",
    )
    return markdown(headers, rows)


SCALING, SEARCH = "results/tiny-scaling", "results/tiny-trials"
"""Folders of the law and of the search that the pages show."""
METHOD, CONTROL = "cast", "dense-ft"
"""Methods whose losses the law compares."""


def law(folder: str) -> str:
    """Return the parameters of the scaling law of a grid of runs, and the run that was held out."""
    fit, holdout, predicted = fit_law(folder)
    models = {point.model for point in [*fit.points, holdout]}
    rows = [row.values() for row in scaling_law.to_rows(fit, holdout, predicted)]
    return markdown((f"{len(fit.points)} runs of {len(models)} models", ">", ">95% interval"), rows)


@cache
def fit_law(folder: str) -> tuple[scaling_law.Law, scaling_law.GridRun, scaling_law.FitInterval]:
    """Return the law of a grid without its largest run, that run, and its prediction."""
    return scaling_law.predict_holdout(scaling_law.read(ROOT / folder, METHOD, CONTROL))


def trials(folder: str) -> str:
    """Return the best trial of each method of the folder's search.toml.

    Methods are ordered by the lowest perplexity after as many trials as every method has.
    """
    searched = read_trials(folder)
    equal = min(len(done.trials) for done in searched)
    rows = []
    for done in sorted(searched, key=lambda one: one.best_so_far[equal - 1]):
        value, label = DASH, DASH
        if done.best:
            value, label = f"{done.best.value:.2f}", escape_markdown(done.best.label)
        diverged = sum(not math.isfinite(trial.value) for trial in done.trials)
        counts = f"{len(done.trials)}", f"{diverged}", f"{done.best_so_far[equal - 1]:.2f}"
        rows.append((escape_markdown(done.method), *counts, value, label))
    headers = ("method", ">trials", ">diverged", f">lowest perplexity after {equal}")
    return markdown((*headers, ">after all", "its trial"), rows)


@cache
def read_trials(folder: str) -> list[search.MethodTrials]:
    spec = read_toml(ROOT / folder / "search.toml") | {"results": ROOT / folder}
    return search.read_trials(*read_search(spec))


WANTED = {"methods": ("wanda", "sparsegpt", "recon"), "quantizers": ("none", "int4-gptq")}
WANTED_MODELS = (
    "llama3.2-1b", "llama3.2-3b", "llama2-7b", "mistral-7b", "llama3-8b", "llama3.1-8b",
    "llama2-13b", "llama2-70b", "llama3-70b",
)  # fmt: skip
CARD, CARD_GB = "h100", 80.0
"""Card of the wanted rows, and its memory in GB."""


def wanted(*folders: str) -> str:
    """Return models that no folder has, with the command and the cost of their rows on a card."""
    have = {record.identity.model for folder in folders for record in ReadOnlyStore(ROOT / folder)}
    typed = {name: ",".join(values) for name, values in WANTED.items()}
    found = []
    for model in set(WANTED_MODELS) - have:
        spec, cards = split_cards(Spec(models=(model,), device=CARD, **WANTED))
        # No record is of such a card.
        rows = estimate_columns(make_plan(spec), CostModel(()), cards)
        memory = max(row["about_device_GB"] for row in rows)
        minutes = sum(row["about_s"] for row in rows) / 60
        disk = sum(row["about_disk_GB"] for row in rows)
        flags = f"--model {model} --methods {typed['methods']} --quant {typed['quantizers']}"
        cells = (f"{len(rows)}", f"{memory:.0f}", f"{disk:.0f}", f"{minutes:.0f}")
        if memory <= CARD_GB:
            found.append((memory, (model, f"`bench run {flags}`", *cells)))
    costs = (">GB on the card", ">GB of disk", ">minutes of arithmetic")
    return markdown(("model", "command", ">rows", *costs), [row for _, row in sorted(found)])


TABLES: dict[str, Callable[..., str]] = {
    "table": leaderboard,
    "found": found,
    "leaders": leaders,
    "profile": profiles,
    "ranks": track_ranks,
    "sizes": track_sizes,
    "allocation": allocations,
    "ratio": ratios,
    "transforms": transforms,
    "best": best,
    "budget": budget,
    "scaling": law,
    "search": trials,
    "wanted": wanted,
    "smaller": beside_smaller,
}
"""Functions by the first word of their comment."""
