"""The page "Which calibration text": what each text loses, by method, on texts and tracks.

`python scripts/calibration_page.py results/calibration docs` writes calibration.md, and a heat map
for each method into figures/.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from page_records import DASH, SEEDS, markdown, read

from bench.catalog.entries import CONTROL
from bench.reporting import drawing
from bench.results.record import Record
from bench.system.files import write_file

WANTED = {"perplexity": "perplexity", "answers": "bits_per_byte"}
"""Metric that is compared, by measure. Both measure the probability of the text."""
Cell = dict[int | None, float]
"""Loss by seed: how much higher the metric is than without compression, as a share."""


class Method(NamedTuple):
    """A method of the study and its losses."""

    name: str
    cells: Mapping[tuple[str, str], Cell]
    """Losses by calibration text and by what was measured: a text or a track."""

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys(source for source, _ in self.cells))

    @property
    def subjects(self) -> list[str]:
        return sorted({subject for _, subject in self.cells})

    def mean(self, source: str, subject: str) -> float:
        """Return the mean loss over draws, or nan."""
        cell = self.cells.get((source, subject), {})
        return statistics.mean(cell.values()) if cell else math.nan

    def worst(self, source: str) -> tuple[str, float]:
        """Return what a source loses most, and how much."""
        measured = [one for one in self.subjects if (source, one) in self.cells]
        losses = {subject: self.mean(source, subject) for subject in measured}
        worst = max(losses, key=lambda subject: losses[subject])
        return worst, losses[worst]

    @property
    def is_complete(self) -> bool:
        """True if every source was measured on everything with SEEDS draws."""
        counts = [
            len(self.cells.get((source, subject), ()))
            for source in self.sources
            for subject in self.subjects
        ]
        return min(counts) >= SEEDS


def methods_of(records: Iterable[Record]) -> list[Method]:
    """Return the calibrated methods of a folder. A track's loss is the mean over its tasks."""
    dense: dict[tuple[str, str], float] = {}
    found: dict[str, dict[tuple[str, str], dict[int | None, list[float]]]] = defaultdict(dict)
    values = list(_values(records))
    for record, value in values:
        identity = record.identity
        if identity.method == CONTROL and identity.quantizer == "none":
            dense[identity.model, identity.protocol.label] = value
    for record, value in values:
        identity = record.identity
        reference = dense.get((identity.model, identity.protocol.label))
        if identity.calibration is None or reference is None:
            continue
        parts = [part for part in (identity.method, identity.quantizer) if part != "none"]
        name = f"{identity.model}: {' + '.join(parts)} at {identity.pattern}"
        subject = identity.protocol.name.partition("/")[0]
        if identity.measure == "perplexity":
            subject = f"text {subject}"
        cell = found[name].setdefault((identity.calibration.data, subject), {})
        cell.setdefault(identity.seed, []).append(value / reference - 1)
    out = []
    for name, cells in found.items():
        means = {}
        for key, cell in cells.items():
            means[key] = {seed: statistics.mean(losses) for seed, losses in cell.items()}
        out.append(Method(name, means))
    return out


def _values(records: Iterable[Record]) -> Iterable[tuple[Record, float]]:
    for record in records:
        for reading in record.readings:
            if reading.metric == WANTED.get(record.identity.measure) and reading.value is not None:
                yield record, reading.value


def variance_parts(method: Method, subject: str) -> tuple[float, float]:
    """Return the variances of a loss by source and by draw: a one-way analysis of variance with
    random effects. nan with fewer than two sources or draws."""
    cells = [list(method.cells.get((source, subject), {}).values()) for source in method.sources]
    if len(cells) < 2 or min(map(len, cells)) < 2:
        return math.nan, math.nan
    draw = statistics.mean(map(statistics.variance, cells))
    draws = statistics.harmonic_mean(map(len, cells))
    between = statistics.variance(map(statistics.mean, cells))
    return max(0.0, between - draw / draws), draw


def page(methods: Iterable[Method]) -> str:
    """Return the page in Markdown."""
    parts = [
        "# Which calibration text\n",
        "Loss is how much higher perplexity, or bits per byte of a track's answers, is than "
        f"without compression. Each cell is the mean of {SEEDS} draws, if a sentence rests on "
        "it.\n",
    ]
    for method in methods:
        parts += [f"## {method.name}\n", f"![losses](figures/{file_of(method)})\n"]
        parts += [losses(method), answer(method), variances(method)]
    return "\n".join(parts)


def losses(method: Method) -> str:
    """Return a table with a row for each source."""
    rows = []
    for source in method.sources:
        numbers = [_percent(method.mean(source, subject)) for subject in method.subjects]
        rows.append((source, *numbers, method.worst(source)[0]))
    return markdown(("text", *(f">{one}" for one in method.subjects), "loses most"), rows)


def answer(method: Method) -> str:
    """Return which source loses least where it loses most, and whether code is lost first."""
    if not method.is_complete:
        return f"Not every cell has {SEEDS} draws, so this table names no best text.\n"
    worst = {source: method.worst(source) for source in method.sources}
    best = min(worst, key=lambda source: worst[source][1])
    subject, loss = worst[best]
    tracks = [one for one in method.subjects if not one.startswith("text ")]
    text = f"{best} loses least where it loses most: {_percent(loss)} on {subject}."
    if "code" in tracks:
        first = []
        for source in method.sources:
            lost = {track: method.mean(source, track) for track in tracks}
            if lost["code"] == max(lost.values()):
                first.append(source)
        text += f" Code is the track that loses most with {len(first)} of {len(worst)} texts"
        text += f" ({', '.join(first)})." if first else "."
    return text + "\n"


def variances(method: Method) -> str:
    """Return how much of the variance of each column is of the source, and of the draw."""
    rows = []
    for subject in method.subjects:
        source, draw = variance_parts(method, subject)
        share = source / (source + draw) if source + draw > 0 else math.nan
        deviations = (_percent(math.sqrt(one)) for one in (source, draw))
        rows.append((subject, *deviations, _percent(share)))
    headers = (">deviation between texts", ">between draws", ">share of the text in the variance")
    return markdown(("measured on", *headers), rows)


def heat_map(method: Method) -> str:
    """Return the picture of a method's losses. A color compares the texts of one column."""
    sources, subjects = method.sources, method.subjects
    figure, panels = drawing.new_figure(140 + 90 * len(subjects), 70 + 26 * len(sources))
    axes = panels[0, 0]
    axes.grid(visible=False)
    shades = []
    for source in sources:
        row = []
        for subject in subjects:
            column = [method.mean(one, subject) for one in sources]
            low, high = min(column), max(column)
            row.append((method.mean(source, subject) - low) / ((high - low) or 1))
        shades.append(row)
    axes.pcolormesh(shades, cmap="YlOrRd", vmin=0, vmax=1.5)
    for i, source in enumerate(sources):
        for k, subject in enumerate(subjects):
            label = _percent(method.mean(source, subject))
            axes.text(k + 0.5, i + 0.5, label, ha="center", va="center")
    axes.set_xticks([k + 0.5 for k in range(len(subjects))], subjects)
    axes.set_yticks([i + 0.5 for i in range(len(sources))], sources)
    axes.invert_yaxis()
    return drawing.to_file(drawing.to_svg(figure, f"{method.name}: loss by calibration text"))


def file_of(method: Method) -> str:
    """Return the name of a method's heat map."""
    letters = [letter if letter.isalnum() else "-" for letter in method.name]
    return f"calibration-{''.join(letters)}.svg"


def _percent(share: float) -> str:
    return DASH if math.isnan(share) else f"{100 * share:.2f}%"


def main(folder: str, docs: Path) -> None:
    methods = methods_of(read(folder).records)
    write_file(docs / "calibration.md", page(methods))
    (docs / "figures").mkdir(exist_ok=True)
    for method in methods:
        write_file(docs / "figures" / file_of(method), heat_map(method))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
