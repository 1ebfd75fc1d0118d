"""What size does: perplexity / dense of each format, against a model's number of weights."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from page_records import DASH, compare, markdown, merge, origin_note, ratio_text

from bench.comparing.pairing import Seeds
from bench.reporting import drawing
from bench.reporting.facts import Interval
from bench.results.identity import Identity
from bench.system.text import escape_markdown

FORMATS = {
    "int8": ("dense", "dense", "int8"),
    "int4-gptq": ("dense", "dense", "int4-gptq"),
    "tcq3": ("dense", "dense", "tcq3"),
    "awq nvfp4": ("awq", "dense", "nvfp4"),
    "wanda 2:4": ("wanda", "2:4", "none"),
    "sparsegpt 2:4": ("sparsegpt", "2:4", "none"),
    "recon 2:4": ("sparsegpt + recon", "2:4", "none"),
}
"""Method, pattern and quantizer of each line, by its name. drawing.SERIES has a color for each."""
DENSE = ("dense", "dense", "none")
LEAST_MODELS = 2
"""Fewest models of a format that make a line."""
APART = 1.03
"""Factor between the weights of two formats in the picture, so that no interval hides another."""


class Sizes(NamedTuple):
    """Ratios of the formats of some models."""

    weights: dict[str, float]
    """Number of weights by model, the smallest model first."""
    ratios: dict[str, dict[str, Interval]]
    """Ratio of perplexity to dense by format and model. Models have the order of `weights`."""
    note: str
    """Paragraph on the processors and versions of the rows."""


@cache
def read(folders: str) -> Sizes:
    """Return the ratios of FORMATS that at least LEAST_MODELS models of the folders have. A row
    without an interval is left out."""
    results = merge(folders)
    rows: dict[str, dict[tuple[str, str, str], Seeds]] = {}
    weights: dict[str, float] = {}
    for record in results.records:
        identity, row = record.identity, _row(record.identity)
        if identity.measure == "perplexity":
            rows.setdefault(identity.model, {}).setdefault(row, {})[identity.seed] = record
        elif identity.measure == "size" and row == DENSE:
            counts = [one.value for one in record.readings if one.metric == "parameters"]
            weights[identity.model] = float(counts[0] or 0)
    weights = {model: weights[model] for model in sorted(weights, key=weights.__getitem__)}

    ratios: dict[str, dict[str, Interval]] = {}
    for name, row in FORMATS.items():
        of_models = {}
        for model in weights:
            own = rows.get(model, {})
            if row in own and DENSE in own:
                of_models[model] = compare(own[DENSE], own[row], results)
        known = {model: ratio for model, ratio in of_models.items() if ratio}
        if len(known) >= LEAST_MODELS:
            ratios[name] = known
    shown = {model for known in ratios.values() for model in known}
    weights = {model: count for model, count in weights.items() if model in shown}
    drawn = {DENSE, *(FORMATS[name] for name in ratios)}
    used = [r for r in results.records if r.identity.model in shown and _row(r.identity) in drawn]
    return Sizes(weights, ratios, origin_note(used))


def _row(identity: Identity) -> tuple[str, str, str]:
    """Return the method, pattern and quantizer of an identity, without the format of embeddings."""
    return identity.method, identity.pattern, identity.quantizer.partition(":embed=")[0]


def by_size(folder: str, *others: str) -> str:
    """Return a table of the ratios: a line for each format, a column for each model, by weights.
    others: more folders."""
    sizes = read(",".join((folder, *others)))
    lines = []
    for name, known in sizes.ratios.items():
        cells = [ratio_text(known.get(model), DASH) for model in sizes.weights]
        lines.append([name, *cells])
    titles = []
    for model, count in sizes.weights.items():
        titles.append(f">{escape_markdown(model)}, {_count_text(count)}")
    return markdown(["perplexity / dense", *titles], lines) + sizes.note


def _count_text(count: float) -> str:
    return f"{count / 1e6:.3g}M" if count < 1e9 else f"{count / 1e9:.3g}B"


def size_picture(folders: str) -> str:
    """Return an SVG file: the ratio of each format against the number of weights, with intervals;
    "" if no format has enough models."""
    sizes = read(folders)
    if not sizes.ratios:
        return ""
    figure, ((axes,),) = drawing.new_figure(680, 380)
    for number, (name, known) in enumerate(sizes.ratios.items()):
        x = [sizes.weights[model] * APART**number for model in known]
        y = [ratio.value for ratio in known.values()]
        lower = [ratio.value - ratio.low for ratio in known.values()]
        upper = [ratio.high - ratio.value for ratio in known.values()]
        color = drawing.SERIES[list(FORMATS).index(name)]
        axes.errorbar(x, y, yerr=(lower, upper), fmt="o-", color=color, markersize=4, label=name)
    axes.set(xscale="log", yscale="log", xlabel="weights", ylabel="perplexity / dense")
    counts = list(sizes.weights.values())
    axes.set_xticks(counts, [_count_text(count) for count in counts])
    axes.xaxis.minorticks_off()
    drawing.name_ticks(axes.yaxis)
    axes.legend(fontsize=8, frameon=False)
    models = [f"{model} {_count_text(count)}" for model, count in sizes.weights.items()]
    title = "perplexity / dense against the number of weights"
    return drawing.to_file(drawing.to_svg(figure, title, f"Models: {', '.join(models)}."))
