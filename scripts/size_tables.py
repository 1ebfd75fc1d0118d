"""Tables of rows under limits of bytes, of what a transform or training after rounding changes, and
of all quantizers."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import declared
from page_records import (
    DASH,
    ROOT,
    SOURCE_GRID,
    change_text,
    is_flattered,
    markdown,
    mean,
    merge,
    origin_note,
    read,
)
from reference import overview_cells

from bench.catalog.choice import DEFAULT_EMBEDDING
from bench.catalog.registry import lookup
from bench.comparing.pairing import Seeds, group_by_identity
from bench.comparing.result_set import ResultSet
from bench.inputs.models import quantized_file
from bench.reporting.labelled_rows import quantizer_of_file
from bench.results import metrics
from bench.results.identity import Identity
from bench.results.record import Record
from bench.system.grouping import group_by
from bench.system.text import escape_markdown

TRANSFORMS = ("awq", "smooth", "rotate", "permute")
BITS = "bits_per_weight"
NONE = "none"
MOST_BITS = (4.6, 3.3)
"""Limits of the bits per weight. The largest row of each without a transform is a limit of bytes
for all."""
SOURCE = "source file"
"""Pattern of the row of the file that a model was read from."""


def transforms(folder: str) -> str:
    """Return a table for each model: ratios of perplexity after each transform."""
    results = read(folder)
    parts = []

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
            cells = [name, f"{mean(before):.2f}{_draws(before)}"]
            for transform in names:
                after = rows[name].get(transform, {})
                if after:
                    cells.append(change_text(before, after, results) + _draws(after))
                else:
                    cells.append(DASH)
            lines.append(cells)
        headers = ("", ">perplexity", *(f">{name}" for name in names))
        text = markdown(headers, lines) + origin_note(records)
        parts.append(f"**{model}**\n\n{text}")
    return "\n".join(parts)


def _draws(seeds: Seeds) -> str:
    return f", {len(seeds)} draws" if len(seeds) > 1 else ""


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


def sized_rows(records: Sequence[Record]) -> Iterator[Sized]:
    """Yield the rows that have a perplexity and a size, the mean over their seeds."""
    sizes: dict[str, dict[str, float]] = {}
    for record in records:
        if record.identity.measure == "size":
            sizes[record.artifact] = _values(record)
    measured = [r for r in records if r.identity.measure == "perplexity" and r.artifact in sizes]
    for seeds in group_by_identity(measured).values():
        record = next(iter(seeds.values()))
        identity, size = record.identity, sizes[record.artifact]
        label = identity.method
        if identity.quantizer != NONE:
            label += f" {identity.quantizer}"
        bits, megabytes = size.get(BITS, 0.0), size.get(metrics.SIZE, 0.0) / 1e6
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
        sized = list(sized_rows(records))
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


ENGINES = (
    (r"integer of 8.* inputs", "vLLM"),
    (r".* inputs", "none yet"),
    (r"integer of [48]", "vLLM, GPTQModel, llama.cpp"),
    (r"integer of [23]", "GPTQModel"),
    (r"float8|microscaling of 4|nvfp4", "vLLM"),
    (r"I?Q\d", "llama.cpp"),
    (r".", "this project"),
)
"""Patterns of a stored form, and the engines that read it. The first that fits counts."""
CODES = "results/benchmarks/codes.json"
CODE_COLUMNS = ("engines", ">bits", ">error")
MORE_BITS = 1.05
"""From here on the bits per weight of a model are said beside those of the format."""


def quantizers() -> str:
    """Return all quantizers: engines, bits and error of a Gaussian, and ratios of perplexity, with
    the bits per weight of a model whose widths the format does not fit, the smallest model first.

    Of several boards with a row, the first declared counts. A measured row with settings follows
    that of its quantizer.
    """
    figures = json.loads((ROOT / CODES).read_text())["figures"]
    nominal = {name: own["bits"] for name, own in figures.items() if "bits" in own}
    unordered: dict[str, dict[str, str]] = {}
    parameters: dict[str, float] = {}
    for name in declared.folders(used_in="docs/quantizers.md"):
        if name == "benchmarks":
            continue
        for model, found in _dense_ratios(f"results/{name}", nominal).items():
            unordered[model] = found | unordered.get(model, {})
        parameters |= _parameters(read(f"results/{name}"))
    ratios = {model: unordered[model] for model in sorted(unordered, key=parameters.__getitem__)}
    measured = sorted({row for found in ratios.values() for row in found})
    rows = []
    for name, cells in overview_cells("quantizers").items():
        own = figures.get(name, {})
        form = own.get("form", "")
        engines = next((said for end, said in ENGINES if re.match(end, form)), "")
        bits, error = (str(own.get(key, "")) for key in ("bits", "error"))
        known = [*cells, engines, bits, error]
        with_settings = [row for row in measured if row.startswith(f"{name}:")]
        for row in (name, *with_settings):
            changes = [found.get(row, "") for found in ratios.values()]
            start = known if row == name else [row, *[""] * (len(known) - 1)]
            rows.append((own.get("bits", 99.0), [*start, *changes]))
    mask = figures["2:4"]["error"]
    rows.append((99.0, ["2:4", "the mask alone, nothing rounded", "", "", "", f"{mask}"]))
    rows.sort(key=lambda row: row[0])
    headers = ("name", "what it does", "needs", *CODE_COLUMNS, *(f">{model}" for model in ratios))
    return markdown(headers, [row + [""] * (len(headers) - len(row)) for _, row in rows])


def source_grid() -> str:
    """Return the share of each format's error that a model has whose weights come from a quantized
    file."""
    figures = json.loads(SOURCE_GRID.read_text())["figures"]
    models = list(dict.fromkeys(model for found in figures.values() for model in found))
    rows = [
        [f"`{name}`", *(f"{found.get(model, DASH)}" for model in models)]
        for name, found in figures.items()
    ]
    return markdown(("format", *(f">{model}" for model in models)), rows)


def tuned(*folders: str) -> str:
    """Return what training after rounding changes, for each model and quantizer that has both.
    Only draws with which both were made are compared."""
    results = merge(",".join(folders))
    rows = []
    seeds = _dense_seeds(results, "perplexity")
    for (model, name), after in sorted(seeds.items()):
        quantizer, _, settings = name.partition(":")
        before = seeds.get((model, quantizer))
        if settings and before:
            before = {seed: record for seed, record in before.items() if seed in after}
            cells = (model, quantizer, settings, f"{mean(before):.2f}", f"{mean(after):.2f}")
            change = change_text(before, after, results)
            rows.append(map(escape_markdown, (*cells, change, f"{len(after)}")))
    headers = ("model", "quantizer", "settings", ">perplexity without", ">perplexity with")
    return markdown((*headers, ">ratio", ">draws"), rows)


def _dense_ratios(folder: str, nominal: Mapping[str, float]) -> dict[str, dict[str, str]]:
    """Return the ratio of perplexity of each quantizer of dense models, by model.

    nominal: bits per weight of each quantizer. Much more in a model is said.
    """
    results = read(folder)
    seeds, sizes = _dense_seeds(results, "perplexity"), _dense_seeds(results, "size")
    ratios: dict[str, dict[str, str]] = {}
    for (model, name), after in seeds.items():
        before = seeds.get((model, NONE))
        if before and name != NONE:
            text = change_text(before, after, results) + _draws(after)
            size = next(iter(sizes.get((model, name), {}).values()), None)
            bits = _values(size).get(BITS, 0.0) if size else 0.0
            if bits > MORE_BITS * nominal.get(name, bits):
                text += f", {bits:.3g} bits"
            if is_flattered(model, name):
                text += " ‡"
            ratios.setdefault(model, {})[name] = text
    return ratios


def _values(record: Record) -> dict[str, float]:
    """Return the values of a record by metric, 0 for a reading without a value."""
    return {reading.metric: reading.value or 0.0 for reading in record.readings}


def _dense_seeds(results: ResultSet, measure: str) -> dict[tuple[str, str], Seeds]:
    """Return the records of a measure of dense models by model and quantizer."""
    seeds: dict[tuple[str, str], Seeds] = {}
    for record in results.records:
        identity = record.identity
        name = identity.quantizer.removesuffix(f":embed={DEFAULT_EMBEDDING}")
        # int4-awq is measured after the transform that it names.
        own = lookup("quantizers", name.partition(":")[0]).after.partition(":")[0]
        is_dense = identity.measure == measure and identity.method in ("dense", own)
        if is_dense and record.status == "ok":
            seeds.setdefault((identity.model, name), {})[identity.seed] = record
    return seeds


def _parameters(results: ResultSet) -> dict[str, float]:
    """Return the number of parameters of each dense model."""
    sizes = _dense_seeds(results, "size")
    own = {model: seeds for (model, name), seeds in sizes.items() if name == NONE}
    return {
        model: _values(next(iter(seeds.values())))["parameters"] for model, seeds in own.items()
    }


def allocated(folder: str) -> str:
    """Return what `bench allocate` wrote of its result, of what it found before it compared, and of
    each choice alone."""
    file = json.loads((ROOT / folder / "allocated.json").read_text())
    columns = ("bits", "predicted", "measured")
    rows = []
    for name, numbers in file["damage"].items():
        rows.append([name, *(f"{numbers[column]:.4g}" for column in columns)])
    counts = Counter(file["linears"].values())
    kept = ", ".join(f"{count} {name}" for name, count in counts.items())
    headers = (file["model"], ">bits per weight", ">predicted KL", ">measured KL")
    return f"{markdown(headers, rows)}\nThe file has {kept}.\n"


def making(folder: str) -> str:
    """Return the minutes and the memory in which each quantizer of dense models was made."""
    made = _dense_seeds(read(folder), "pattern")
    models = list(dict.fromkeys(model for model, _ in made))
    quickest: dict[str, dict[str, tuple[float, float]]] = {}
    for (model, name), seeds in made.items():
        # What a transform before it took is not in the cost of a quantizer.
        alone = [record for record in seeds.values() if record.identity.method == "dense"]
        costs = [record.cost for record in alone if name != NONE and "build_s" in record.cost]
        if costs:
            seconds = min(cost["build_s"] for cost in costs)
            peak = min(cost["build_peak_bytes"] for cost in costs)
            quickest.setdefault(name, {})[model] = seconds / 60, peak / 1e9
    rows = []
    for name in sorted(quickest, key=lambda name: max(quickest[name].values())):
        cells = [name]
        for model in models:
            minutes, gigabytes = quickest[name].get(model, (0.0, 0.0))
            known = model in quickest[name]
            cells += [f"{minutes:.1f}", f"{gigabytes:.1f}"] if known else [DASH, DASH]
        rows.append(cells)
    units = [f">{model}, {unit}" for model in models for unit in ("minutes", "GB")]
    return markdown(("quantizer", *units), rows)


TABLES: dict[str, Callable[..., str]] = {
    "transforms": transforms,
    "best": best,
    "tuned": tuned,
    "allocated": allocated,
    "making": making,
}
"""Functions by the kind of a table in results/boards.toml."""
