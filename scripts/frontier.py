"""Quality against bytes, arithmetic and measured time, for a pattern and what competes with it,
from records."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import NamedTuple

import budgets
import result_folders
import timed_shapes
from timed_shapes import TimedShape

from bench.inputs.datasheets import DeviceSpec, device_specs
from bench.reporting import drawing, front_figure
from bench.reporting.hardware import hardware_limit
from bench.reporting.pareto import MIN_POINTS, Front, FrontPoint, describe, pareto_optimal
from bench.reporting.view import TableColumn
from bench.results import metrics
from bench.system.text import escape_markdown
from methods.contract.pattern import Pattern

SAME_TIME = 1.05
"""Largest ratio of two measured times that count as equal. A timing and its repetition differ by
some percent."""
NEAR = 5
"""Largest ratio of a row's perplexity to the dense model's that a picture shows."""
TIMES = "results/speed-shapes"
"""Folder with the times of shapes in turn."""
CARDS = ("h100", "a100", "l4", "rtx4090")
"""Cards whose times are computed."""
PROMPT = 2048
"""Tokens of the prompt whose time is computed."""


@dataclass(frozen=True)
class Cost(TableColumn):
    """An axis with a name that is no metric's."""

    @property
    def label(self) -> str:
        return self.metric


class Row(NamedTuple):
    """A row of a model, the mean of its seeds."""

    method: str
    quantizer: str
    pattern: Pattern
    perplexity: float
    size: float
    """Packed bytes of the whole model."""
    arithmetic: float
    """Time of the linears of a long prompt where arithmetic is the limit, over that of the dense
    model. 2:4 counts half, as on sparse tensor cores, a pattern that no hardware runs counts as
    dense, and so do quantized weights."""
    decode_ms: float | None = None
    prompt_ms: float | None = None
    """Measured times of a token and of a prompt on a CPU, of the row's shape and bits. None if they
    were not measured."""
    repeated: bool = True
    """True if a claim can rest on it: it has no seed, or has budgets.SEEDS of them."""
    weights: float = 0.0
    """Number of weights of the dense model's linears."""

    @property
    def name(self) -> str:
        stages = re.sub(
            r" \+ lowrank:rank=[^ :]*(?= |$)|(?<=lowrank:)rank=[^ :]*:", "", self.method
        )
        pattern = "" if self.pattern.dense else str(self.pattern)
        return (
            " ".join(
                part
                for part in (stages, pattern, self.quantizer)
                if part not in ("", "none", "dense")
            )
            or "dense"
        )


@cache
def read(folders: str) -> tuple[Row, ...]:
    """Return the rows of folders, separated by commas, that have a perplexity of the same protocol
    and a size."""
    results = result_folders.merge(folders)
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    seeds: dict[tuple[str, str, str], set[int | None]] = {}
    for record in results.records:
        identity = record.identity
        row = found.setdefault((identity.method, identity.quantizer, identity.pattern), {})
        values = {r.metric: r.value for r in record.readings if r.value}
        for metric in {"perplexity", metrics.SIZE, "relative_flops"} & values.keys():
            row.setdefault(metric, []).append(values[metric])
        if identity.measure == "perplexity":
            seeds.setdefault((identity.method, identity.quantizer, identity.pattern), set()).add(
                identity.seed
            )
        if identity.measure == "size":
            row.setdefault("targets", []).append(float(sum(results.items(record).weights)))
    dense = found["dense", "none", "dense"]["targets"][0]
    model = results.records[0].identity.model
    timings = [timed_shapes.milliseconds(TIMES, model, step) for step in ("decode", "prompt")]
    rows = []
    for (method, quantizer, text), values in found.items():
        if {"perplexity", metrics.SIZE, "targets"} <= values.keys():
            pattern = Pattern.parse(text)
            terms = fmean(values.get("relative_flops", [1 - pattern.share])) - 1 + pattern.share
            share = 1 / (hardware_limit(pattern.base) or 1.0) + terms
            mean = math.exp(fmean(map(math.log, values["perplexity"])))
            size, targets = fmean(values[metrics.SIZE]), fmean(values["targets"])
            shape = _shape(pattern, quantizer)
            own = seeds[method, quantizer, text]
            repeated = None in own or len(own) >= budgets.SEEDS
            ms = [times.get(shape) for times in timings]
            rows.append(
                Row(
                    method,
                    quantizer,
                    pattern,
                    mean,
                    size,
                    share * targets / dense,
                    *ms,
                    repeated,
                    dense,
                )
            )
    return tuple(rows)


def _shape(pattern: Pattern, quantizer: str) -> TimedShape:
    """Return what decides the time of a row on a CPU. A pattern without a kernel takes as long as
    dense weights."""
    bits = {"none": 16, "int8": 8}.get(quantizer, 4 if quantizer.startswith("int4") else 0)
    has_own = pattern.removed or pattern.beside or str(pattern) == "2:4"
    return TimedShape(str(pattern) if has_own else timed_shapes.DENSE, bits)


class Axis(NamedTuple):
    """A cost of a row. 0: it was not measured."""

    words: str
    column: TableColumn
    of: Callable[[Row], float]
    show: Callable[[float], str]
    equal: float
    """Largest ratio of two costs that count as equal."""


AXES = (
    Axis(
        "bytes",
        TableColumn(metrics.SIZE, "", "lower", "B", names_protocol=False),
        lambda row: row.size,
        lambda size: f"{size / 1e6:.2f} MB",
        1.02,
    ),
    Axis(
        "the arithmetic of a prompt on sparse tensor cores",
        Cost("arithmetic of a prompt, dense = 1", "", "lower", "1", names_protocol=False),
        lambda row: row.arithmetic,
        "{:.2f} of dense".format,
        1.02,
    ),
    Axis(
        "decoding on this CPU",
        Cost("decoding of a token, one core", "", "lower", "ms", names_protocol=False),
        lambda row: row.decode_ms or 0.0,
        "{:.3g} ms".format,
        SAME_TIME,
    ),
    Axis(
        "a prompt on this CPU",
        Cost("prompt, one core", "", "lower", "ms", names_protocol=False),
        lambda row: row.prompt_ms or 0.0,
        "{:.3g} ms".format,
        SAME_TIME,
    ),
)


def worth(folders: str, pattern: str) -> str:
    """Say in a sentence whether the best row of a pattern is better than all that cost no more, and
    show both in a table.

    An answer rests on no row with fewer than budgets.SEEDS seeds.
    """
    rows = [row for row in read(folders) if row.repeated]
    own = min(
        (row for row in rows if (str(row.pattern), row.quantizer) == (pattern, "none")),
        key=lambda row: row.perplexity,
    )
    name = f"{escape_markdown(own.name)}, perplexity {own.perplexity:.2f}"
    lines = [f"| | {name} | best row at equal or lower cost | Pareto front |", "|---|---:|---|---|"]
    found, answers = {front.x: front for front in fronts(folders)}, []
    for axis in AXES:
        if not axis.of(own):
            continue
        as_cheap = [row for row in rows if 0 < axis.of(row) <= axis.equal * axis.of(own)]
        best = min(as_cheap, key=lambda row: row.perplexity)
        answers.append(
            f"{axis.words[0].upper()}{axis.words[1:]}: {'yes' if best == own else 'no'}."
        )
        other = (
            f"{escape_markdown(best.name)}, {axis.show(axis.of(best))}, perplexity "
            f"{best.perplexity:.2f}"
        )
        front = (
            ", ".join(point.name for point in found[axis.column].optimal)
            if axis.column in found
            else "–"
        )
        other = "none" if best == own else other
        lines.append(
            f"| {axis.words} | {axis.show(axis.of(own))} | {other} | {escape_markdown(front)} |"
        )
    note = (
        "Yes means that no row of equal or lower cost has a lower perplexity. Rows of every "
        "format compete. Bytes and arithmetic within 2%, and times within 5%, count as equal. A "
        "row that ran once decides no answer, but can be on a Pareto front: the rows that no "
        "other beats in both cost and perplexity."
    )
    return (
        f"**Is {own.pattern} without a quantizer worth it here?** {' '.join(answers)} {note}\n\n"
        + "\n".join(lines)
        + "\n"
    )


def fronts(folders: str) -> list[Front]:
    """Return quality against each cost that was found, of the rows that are near the dense
    model."""
    rows = _near(read(folders))
    costs = {axis: {row: cost for row in rows if (cost := axis.of(row))} for axis in AXES}
    return [_front(axis.column, found) for axis, found in costs.items() if len(found) >= MIN_POINTS]


def _near(rows: Iterable[Row]) -> list[Row]:
    dense = next(row.perplexity for row in rows if row.name == "dense")
    return [row for row in rows if row.perplexity <= NEAR * dense]


def _front(x: TableColumn, costs: Mapping[Row, float]) -> Front:
    places = {row: (cost, row.perplexity) for row, cost in costs.items()}
    best = pareto_optimal(places.values())
    points = (
        FrontPoint(
            row.name,
            *place,
            0.0,
            f"perplexity {row.perplexity:.4g}",
            place in best,
            row.pattern.dense,
        )
        for row, place in places.items()
    )
    return Front(
        x, TableColumn("perplexity", "", "lower", "1", names_protocol=False), tuple(points)
    )


def picture(folders: str) -> str:
    """Draw the fronts side by side, as an SVG element."""
    found = fronts(folders)
    return _draw(
        [found[i : i + 2] for i in range(0, len(found), 2)], "perplexity against what a row costs"
    )


def _draw(lines: Sequence[Sequence[Front]], title: str) -> str:
    """Draw lines of fronts, as an SVG element."""
    about = " ".join(describe(front) for line in lines for front in line)
    return drawing.to_svg(front_figure.draw_fronts(lines), title, about)


def compute_ms(row: Row, tokens: int, card: DeviceSpec) -> float:
    """Return the least milliseconds of a step of `tokens` tokens on a card, from its datasheet.

    It is the time of the arithmetic of all linears or of reading the whole model once, whichever is
    longer. Attention, the KV cache and the arithmetic of the head are left out.
    """
    flops, moved = 2.0 * tokens * row.arithmetic * row.weights, row.size
    return 1000 * max(flops / (card.peak("bf16") * 1e12), moved / (card.tbps * 1e12))


def card_fronts(folders: str) -> dict[str, tuple[Front, Front]]:
    """Return quality against the computed time of a decoded token and of a prompt, by the name of
    the card."""
    rows, specs = _near(read(folders)), device_specs()
    out = {}
    for key in CARDS:
        card = specs[key]
        name = card.name.partition(",")[0]
        decode, prompt = (
            _front(
                Cost(f"{name}: {what}, computed", "", "lower", "ms", names_protocol=False),
                {r: compute_ms(r, n, card) for r in rows},
            )
            for what, n in (("a token", 1), (f"a prompt of {PROMPT}", PROMPT))
        )
        out[name] = decode, prompt
    return out


def card_picture(folders: str) -> str:
    """Draw the computed fronts, a line for each card, as an SVG element."""
    return _draw(
        list(card_fronts(folders).values()),
        "perplexity against computed, not measured, milliseconds on cards",
    )


def cards(folders: str) -> str:
    """Return the rows on the computed fronts of each card, with their milliseconds, as a table."""
    lines = [
        f"| computed, not measured | decoding of a token, ms | prompt of {PROMPT:,} tokens, ms |",
        "|---|---|---|",
    ]
    for name, both in card_fronts(folders).items():
        cells = (
            ", ".join(f"{escape_markdown(p.name)} {p.x:.3g}" for p in front.optimal)
            for front in both
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
