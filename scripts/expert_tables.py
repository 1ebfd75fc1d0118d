"""Tables and picture of the rows that remove, replace and merge experts."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations
from statistics import fmean
from typing import Any, NamedTuple

from page_records import DASH, compare, markdown, mean, perplexities, ratio_text, read
from scipy.stats import rankdata, spearmanr

from bench.comparing.pairing import Seeds
from bench.reporting import drawing
from bench.reporting.facts import Interval
from bench.results.record import Record
from bench.system.text import escape_markdown

FOLDER = "results/experts"
SCORED = re.compile(r"experts:drop=([\d.]+)%:by=(\w+)")
REFERENCE = ("wiki-mini", 32)
"""Calibration text and number of sequences of all rows but those of `texts`."""
PLACES = 2
"""Smallest change of a rank that `texts` names."""
SIZES = (">experts kept", ">M parameters", ">M active", ">MB")
LOAD = ">tokens per expert"
HEADERS = (">perplexity / dense", ">KL", ">same top token", ">error of a block")


class ExpertRow(NamedTuple):
    """A row of the tables. Numbers are means over seeds."""

    method: str
    quantizer: str
    ratio: Interval
    """Perplexity over that of the dense model."""
    values: dict[str, float]
    """Means of metrics, and `layer_error`, the mean over blocks."""
    loads: list[int]
    """Tokens of each expert that is left, of all blocks and seeds. Empty if unknown."""

    def load(self) -> str:
        """Return the cell below LOAD: the mean, the least and the most."""
        if not self.loads:
            return DASH
        return f"{fmean(self.loads):.0f} ({min(self.loads)} to {max(self.loads)})"

    def sizes(self, experts: float) -> list[str]:
        """Return the cells below SIZES. experts: number of them in the dense model."""
        millions = [self.values[name] / 1e6 for name in ("parameters", "active_parameters")]
        millions.append(self.values["bytes_packed"] / 1e6)
        return [f"{self.values['experts'] / experts:.1%}", *(f"{each:.2f}" for each in millions)]

    def cells(self) -> list[str]:
        """Return the cells below HEADERS."""
        agreement = [f"{self.values['kl']:.3f}", f"{self.values['top1_agreement']:.1%}"]
        error = self.values.get("layer_error")
        return [ratio_text(self.ratio), *agreement, DASH if error is None else f"{error:.3f}"]


def _text(record: Record) -> tuple[str, int]:
    """Return the calibration text of a record and its sequences. One without is of REFERENCE."""
    calibration = record.identity.calibration
    if not calibration:
        return REFERENCE
    return calibration.data, calibration.sequences or 0


def _rows() -> list[ExpertRow]:
    results = read(FOLDER)
    own = [record for record in results.records if _text(record) == REFERENCE]
    means, loads = _means(own), _loads(own)
    dense = perplexities(results)["dense"]["dense"]
    groups: dict[tuple[str, str], Seeds] = {}
    for record in own:
        identity = record.identity
        if identity.measure == "perplexity":
            key = (identity.method, identity.quantizer)
            groups[key] = {**groups.get(key, {}), identity.seed: record}
    rows = []
    for key, seeds in groups.items():
        ratio = None if key == ("dense", "none") else compare(dense, seeds, results)
        if ratio is not None:
            rows.append(ExpertRow(*key, ratio, means[key], loads.get(key, [])))
    return rows


def _loads(records: list[Record]) -> dict[tuple[str, str], list[int]]:
    """Return the tokens of each expert that is left, in all blocks and seeds, by row."""
    found: dict[tuple[str, str], list[int]] = {}
    for record in records:
        blocks: Any = record.notes.get("tokens_per_expert_after", [])
        for block in blocks:
            found.setdefault((record.identity.method, record.identity.quantizer), []).extend(block)
    return found


def _means(records: list[Record]) -> dict[tuple[str, str], dict[str, float]]:
    """Return the mean of each metric over the seeds of a row."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for record in records:
        own = found.setdefault((record.identity.method, record.identity.quantizer), {})
        for reading in record.readings:
            if reading.value is not None:
                own.setdefault(reading.metric, []).append(reading.value)
        errors: Any = record.notes.get("layer_error")
        if errors:
            own.setdefault("layer_error", []).append(fmean(errors))
    return {key: {name: fmean(all_) for name, all_ in own.items()} for key, own in found.items()}


def _scored() -> dict[float, dict[str, ExpertRow]]:
    """Return the rows of scores by percentage of experts and score, the lowest perplexity first."""
    shares: dict[float, dict[str, ExpertRow]] = {}
    for row in sorted(_rows(), key=lambda row: row.ratio.value):
        match = SCORED.fullmatch(row.method)
        if match and row.quantizer == "none":
            shares.setdefault(float(match[1]), {})[match[2]] = row
    return dict(sorted(shares.items()))


def scores() -> str:
    """Return a table of the scores, and how the error of a block orders them."""
    lines, sentences = [], []
    for share, rows in _scored().items():
        for by, row in rows.items():
            lines.append([f"{share:g}%", f"`{by}`", row.load(), *row.cells()])
        known = [row for row in rows.values() if "layer_error" in row.values]
        errors = [row.values["layer_error"] for row in known]
        rank = spearmanr(errors, [row.ratio.value for row in known]).statistic
        sentences.append(f"{rank:.2f} at {share:g}%")
    return (
        markdown(("experts dropped", "`by`", LOAD, *HEADERS), lines)
        + "\nRank correlation (Spearman) of the error of a block with perplexity, over the scores "
        f"that read text: {', '.join(sentences)}.\n"
    )


def texts() -> str:
    """Return a table of the rank of the scores that read text, by calibration text and size."""
    results = read(FOLDER)
    cells: dict[tuple[str, int], dict[str, Seeds]] = {}
    for record in results.records:
        identity = record.identity
        match = SCORED.fullmatch(identity.method)
        if match and match[1] == "25" and identity.calibration and identity.measure == "perplexity":
            scores = cells.setdefault(_text(record), {})
            scores[match[2]] = {**scores.get(match[2], {}), identity.seed: record}
    dense = mean(perplexities(results)["dense"]["dense"])
    names = [*cells[REFERENCE]]
    means = {}
    for cell, scores in cells.items():
        means[cell] = [mean(scores[by]) for by in names]
    expected = rankdata(means[REFERENCE])
    lines = []
    for cell, values in sorted(means.items(), key=lambda item: (item[0][0] != "wiki-mini", item)):
        moved = []
        for by, before, now in zip(names, expected, rankdata(values), strict=True):
            if abs(now - before) >= PLACES:
                moved.append(f"`{by}` {before:g} to {now:g}")
        rank = "reference" if cell == REFERENCE else f"{_rank(values, means[REFERENCE]):.2f}"
        best = names[values.index(min(values))]
        lowest, highest = (f"{value / dense:.3f}" for value in (min(values), max(values)))
        lines.append(
            [cell[0], str(cell[1]), rank, f"`{best}` {lowest}", highest, ", ".join(moved) or DASH]
        )
    draws = []
    for seed in (0, 1, 2):
        draws.append([mean({seed: cells[REFERENCE][by][seed]}) for by in names])
    between = fmean(_rank(one, other) for one, other in combinations(draws, 2))
    headers = ("text", ">sequences", ">rank correlation", "lowest", ">highest", "moved")
    return (
        markdown(headers, lines)
        + "\nRank correlation (Spearman) of two draws of the reference, mean of the pairs: "
        f"{between:.2f}.\n"
    )


def _rank(one: list[float], other: list[float]) -> float:
    return float(spearmanr(one, other).statistic)


def after() -> str:
    """Return a table of replaced, merged and trained rows, and of quantizers, by bytes."""
    shown = []
    for row in _rows():
        if not SCORED.fullmatch(row.method) or row.method.endswith("by=reap"):
            shown.append(row)
    lines = []
    experts = max(row.values["experts"] for row in shown)
    for row in sorted(shown, key=lambda row: (row.values["bytes_packed"], row.ratio.value)):
        label = row.method if row.quantizer == "none" else f"{row.method} {row.quantizer}"
        lines.append([escape_markdown(label), *row.sizes(experts), row.load(), *row.cells()])
    return markdown(("row", *SIZES, LOAD, *HEADERS), lines)


def picture() -> str:
    """Return an SVG file: the perplexity of each score, with intervals, the lowest on top."""
    shares = _scored()
    names = [*list(shares.values())[-1]]
    figure, ((axes,),) = drawing.new_figure(640, 80 + 28 * len(names))
    for number, (share, rows) in enumerate(shares.items()):
        # Two shares beside each other, so that intervals do not hide each other.
        y = [names.index(by) + 0.2 * number for by in rows]
        ratios = [row.ratio for row in rows.values()]
        x = [ratio.value for ratio in ratios]
        lower = [ratio.value - ratio.low for ratio in ratios]
        upper = [ratio.high - ratio.value for ratio in ratios]
        label = f"{share:g}% of the experts dropped"
        axes.errorbar(
            x, y, xerr=(lower, upper), fmt="o", color=drawing.SERIES[number], markersize=4,
            label=label,
        )  # fmt: skip
    axes.set(xscale="log", xlabel="perplexity / dense")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    drawing.name_ticks(axes.xaxis)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    title = "experts: perplexity by score"
    return drawing.to_file(drawing.to_svg(figure, title))


TABLES: dict[str, Callable[..., str]] = {
    "expert-scores": scores,
    "expert-texts": texts,
    "expert-rows": after,
}
