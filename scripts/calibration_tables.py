"""Tables and heat maps of docs/calibration.md: what each calibration text loses, by method."""

from __future__ import annotations

import math
import statistics
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import declared
import numpy as np
from page_records import DASH, SEEDS, markdown, origin_note, read

from bench.catalog.choice import short_label
from bench.catalog.entries import CONTROL
from bench.parts.sources import removed
from bench.planning.spec import Spec
from bench.reporting import drawing
from bench.reporting.pairwise import ALPHA
from bench.results.record import Record
from bench.stats.bootstrap import satterthwaite, students_t

METRICS = {"perplexity": "perplexity", "answers": "bits_per_byte"}
"""Metric that is compared, by measure."""
BOLD = "**"
CODE, RANDOM = "code, answers", "random"
DEFAULT = Spec().calibration.data[0]


class Method(NamedTuple):
    """A calibrated method and its losses: the rise in bits over the dense model's, as a share. Bits
    are those per token of a text, or per byte of a task's answers."""

    name: str
    sources: tuple[str, ...]
    """Calibration texts of the study."""
    subjects: tuple[str, ...]
    """What the dense model was measured on."""
    cells: dict[tuple[str, str], list[float]]
    """Losses by source and subject, one for each draw."""

    def mean(self, source: str, subject: str) -> float:
        """Return the mean loss over draws, or nan."""
        return statistics.mean(self.cells.get((source, subject), [math.nan]))

    def worst(self, source: str, among: str = "") -> str:
        """Return the subject that loses most. among: end of its name."""
        subjects = [one for one in self.subjects if one.endswith(among)]
        return max(subjects, key=lambda one: self.mean(source, one))

    @property
    def compares(self) -> bool:
        """Whether the default can be compared with another text, on all draws."""
        texts = [one for one in self.sources if one != RANDOM]
        return len(texts) > 1 and DEFAULT in texts and not self.lacking()

    def lacking(self) -> dict[str, str]:
        """Return the cells with fewer than SEEDS draws in words, by source."""
        found = {}
        for source in self.sources:
            few = [one for one in self.subjects if len(self.cells.get((source, one), ())) < SEEDS]
            if few:
                everything = len(few) == len(self.subjects)
                found[source] = "everything" if everything else " and ".join(few)
        return found


def sources_of(folder: str) -> tuple[str, ...]:
    """Return the calibration texts that the specs of a board name."""
    specs = declared.read()[Path(folder).name].spec_files()
    named = [tomllib.loads(file.read_text())["calibration"]["data"] for file in specs]
    return tuple(dict.fromkeys(source for one in named for source in one))


def methods_of(records: Collection[Record], sources: tuple[str, ...]) -> list[Method]:
    """Return the calibrated methods of records. A track's loss is the mean over its tasks."""
    dense = {}
    for record in records:
        one = record.identity
        if one.method == CONTROL and one.quantizer == "none" and _bits(record):
            dense[one.model, one.protocol.label] = record
    quantizers = {record.identity.quantizer for record in records}
    tasks: dict[tuple[str, str, str, int], list[float]] = defaultdict(list)
    for record in records:
        one, value = record.identity, _bits(record)
        reference = dense.get((one.model, one.protocol.label))
        if value and reference and one.calibration:
            quantizer = short_label(one.quantizer, sorted(quantizers))
            words = (one.model, one.method, one.pattern, quantizer)
            name = " ".join(word for word in words if word not in (CONTROL, "none"))
            key = (name, one.calibration.data, _subject(record), one.seed or 0)
            tasks[key].append(value / _bits(reference) - 1)
    methods: dict[str, Method] = {}
    wanted = Counter((model, _subject(record)) for (model, _), record in dense.items())
    subjects = tuple(sorted({subject for _, subject in wanted}))
    for (name, source, subject, _), rises in sorted(tasks.items()):
        method = methods.setdefault(name, Method(name, sources, subjects, {}))
        # A draw that lacks a task of the track does not compare.
        if len(rises) == wanted[name.split()[0], subject]:
            method.cells.setdefault((source, subject), []).append(statistics.mean(rises))
    for name, method in methods.items():
        measured = {source for source, _ in method.cells}
        some = tuple(source for source in sources if source in measured)
        methods[name] = method._replace(sources=some)
    return list(methods.values())


def _bits(record: Record) -> float:
    """Return the bits of a record, or 0."""
    measure = record.identity.measure
    for reading in record.readings:
        if reading.metric == METRICS.get(measure) and reading.value is not None:
            return math.log2(reading.value) if measure == "perplexity" else reading.value
    return 0.0


def _subject(record: Record) -> str:
    return f"{record.identity.protocol.name.partition('/')[0]}, {record.identity.measure}"


def losses(folder: str) -> str:
    """Return a table of the best texts, one of the parts of the variance, and the heat maps."""
    sources = sources_of(folder)
    methods = methods_of(read(folder).records, sources)
    parts = [best_texts(methods), variances(methods)]
    for method in methods:
        parts.append(f"**{method.name}**\n\n![losses](figures/{file_of(method)}.svg)\n")
        if absent := [f"`{source}`" for source in sources if source not in method.sources]:
            parts.append(f"Not measured here: {', '.join(absent)}.\n")
        if lacking := method.lacking():
            words = "; ".join(f"`{source}` on {where}" for source, where in lacking.items())
            parts.append(f"Fewer than {SEEDS} draws: {words}. No text is best yet.\n")
    return "\n".join(parts) + origin_note(read(folder).records)


def best_texts(methods: Sequence[Method]) -> str:
    """Return for each method the text that loses least where it loses most, and the default."""
    rows, compared, beyond = [], 0, 0
    for method in methods:
        best = answer(method) if method.compares else (DASH, DASH, DASH)
        compared += method.compares
        beyond += best[-1].startswith(BOLD)
        rows.append((method.name, *best, code_first(method)))
    headers = ("", "best text, and its largest loss", f"largest loss with `{DEFAULT}`")
    table = markdown((*headers, ">points more", "code loses most with"), rows)
    return (
        f"In {beyond} of {compared} rows another text than the default, `{DEFAULT}`, loses less "
        f"where it loses most, beyond the noise of draws.\n\n{table}\n"
        "The best text is the one whose largest loss is lowest. Points: the default's largest loss "
        "less that of the best text, with the 95% interval of draws. In bold: beyond the noise of "
        "draws. Last column: the texts with which code is the track that loses most.\n"
    )


def answer(method: Method) -> tuple[str, str, str]:
    """Return the text that loses least where it loses most, what the default loses there, and the
    difference. Its interval is Welch's, for as many comparisons as the study has other texts
    (Bonferroni)."""
    best = min(method.sources, key=lambda source: method.mean(source, method.worst(source)))
    ours, theirs = ((one, method.worst(one)) for one in (best, DEFAULT))
    shown = f"`{best}`: {_percent(method.mean(*ours))} on {ours[1]}"
    default = f"{_percent(method.mean(*theirs))} on {theirs[1]}"
    if best == DEFAULT:
        return shown, default, DASH
    draws = [method.cells[cell] for cell in (ours, theirs)]
    parts = [(statistics.variance(one) / len(one), len(one) - 1) for one in draws]
    more = method.mean(*theirs) - method.mean(*ours)
    spread = math.sqrt(sum(part for part, _ in parts))
    half = students_t(ALPHA / (len(method.sources) - 1), satterthwaite(parts)) * spread
    points = f"{BOLD}{100 * more:.1f}{BOLD}" if more > half else f"{100 * more:.1f}"
    return shown, default, f"{points} ({100 * (more - half):.1f} to {100 * (more + half):.1f})"


def code_first(method: Method) -> str:
    """Return with which texts code is the track that loses most, among those with all draws."""
    lacking = method.lacking()
    whole = [source for source in method.sources if source not in lacking]
    if not whole:
        return DASH
    first = [f"`{one}`" for one in whole if method.worst(one, "answers") == CODE]
    return f"{len(first)} of {len(whole)}" + (f": {', '.join(first)}" if first else "")


def variance_parts(method: Method, subject: str) -> tuple[float, float]:
    """Return the variances of a loss by text and by draw, without the control RANDOM: a one-way
    analysis of variance with random effects."""
    cells = [method.cells[source, subject] for source in method.sources if source != RANDOM]
    draw = statistics.mean(map(statistics.variance, cells))
    draws = statistics.harmonic_mean(map(len, cells))
    return max(0.0, statistics.variance(map(statistics.mean, cells)) - draw / draws), draw


def variances(methods: Sequence[Method]) -> str:
    """Return how much of the variance of each column comes from the text."""
    compared = [method for method in methods if method.compares]
    if not compared:
        return ""
    subjects = tuple(dict.fromkeys(one for method in compared for one in method.subjects))
    rows = []
    for method in compared:
        cells = [method.name]
        for subject in subjects:
            text, draw = variance_parts(method, subject)
            share = text / ((text + draw) or 1)
            cells.append(f"{share:.0%} ({100 * text**0.5:.1f}, {100 * draw**0.5:.1f})")
        rows.append(cells)
    table = markdown(("", *(f">{subject}" for subject in subjects)), rows)
    return (
        f"{table}\nThe text's part of the variance of a loss, without `{RANDOM}`. The rest is the "
        "draw's. In brackets: the standard deviations between texts and between draws, in "
        "percent.\n"
    )


def heat_map(method: Method) -> str:
    """Return the SVG file of a method's losses: the mean, and the range of draws. A color compares
    the texts of one column."""
    sources, subjects = method.sources, method.subjects
    figure, ((axes,),) = drawing.new_figure(150 + 92 * len(subjects), 64 + 36 * len(sources))
    means = np.array([[method.mean(source, one) for one in subjects] for source in sources])
    low, high = np.fmin.reduce(means), np.fmax.reduce(means)
    shades = (means - low) / np.maximum(high - low, 1e-9)
    axes.pcolormesh(shades, cmap="Blues", vmin=-0.1, vmax=2, edgecolors="white")
    for y, source in enumerate(sources):
        for x, subject in enumerate(subjects):
            draws = [100 * draw for draw in method.cells.get((source, subject), ())]
            span = f"\n{min(draws):.1f} to {max(draws):.1f}" if draws else ""
            label = _percent(means[y, x]) + span
            axes.text(x + 0.5, y + 0.5, label, ha="center", va="center", fontsize=8.5)
    axes.set_xticks(np.arange(len(subjects)) + 0.5, [one.replace(", ", "\n") for one in subjects])
    axes.set_yticks(np.arange(len(sources)) + 0.5, sources)
    axes.invert_yaxis()
    axes.xaxis.tick_top()
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return drawing.to_file(drawing.to_svg(figure, f"{method.name}: loss by calibration text"))


def pictures(folder: str) -> dict[str, str]:
    """Return the heat map of each method of a board, by the name of its file."""
    if not declared.read()[Path(folder).name].measured:
        return {}
    methods = methods_of(read(folder).records, sources_of(folder))
    return {file_of(method): heat_map(method) for method in methods}


def file_of(method: Method) -> str:
    """Return the name of a method's heat map, without its ending."""
    return "calibration-" + "".join(one if one.isalnum() else "-" for one in method.name)


def shared(_: str) -> str:
    """Return the passages that each text shares with test questions of tracks."""
    rows = []
    for source, about in removed.known().items():
        found = ", ".join(f"{count} of {track}" for track, count in about["found"].items())
        left = "0" if about["removed"] or not found else found
        rows.append((f"`{source}`", found or "0", str(len(about["removed"])), left))
    return markdown(("text", "passages found", ">paragraphs left out", "passages left"), rows)


def hours(folder: str) -> str:
    """Return the hours of one thread that the rows of each text took to make and to measure."""
    spent: Counter[str] = Counter()
    for record in read(folder).records:
        calibration = record.identity.calibration
        seconds = record.cost["wall_s"] + record.cost.get("build_s", 0)
        spent[f"`{calibration.data}`" if calibration else "none"] += seconds / 3600
    rows = [*sorted(spent.items()), ("all", spent.total())]
    return markdown(("text", ">hours"), ((name, f"{of:.2f}") for name, of in rows))


def _percent(share: float) -> str:
    return DASH if math.isnan(share) else f"{100 * share:.1f}%"


TABLES: dict[str, Callable[[str], str]] = {
    "texts": losses,
    "shared": shared,
    "source-hours": hours,
}
"""Functions by the kind of a table in results/boards.toml."""
