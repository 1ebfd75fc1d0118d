"""Quality against bytes, arithmetic and time, for a pattern and what competes with it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import NamedTuple

from page_records import DASH, ROOT, SEEDS, markdown, merge

from bench.inputs.models import quantized_file
from bench.parts.leaderboard import front_figure
from bench.parts.speed import engine_report
from bench.parts.speed.engine_report import TimedModel
from bench.reporting import drawing
from bench.reporting.hardware import hardware_limit
from bench.reporting.labelled_rows import quantizer_of_file
from bench.reporting.pareto import MIN_POINTS, Front, FrontPoint, describe, pareto_optimal
from bench.reporting.view import TableColumn
from bench.results import metrics
from bench.results.store import ReadOnlyStore
from bench.system.text import escape_markdown
from methods.contract.pattern import Pattern

SAME_COST, SAME_TIME = 1.02, 1.05
"""Largest ratio of two costs that count as equal. Repeated timings differ by some percent."""
NEAR = 5
"""Largest ratio of a row's perplexity to the dense model's that a picture shows."""
TIMES = "results/speed-shapes"
"""Folder with the times of shapes, timed in turn."""
BITS = {"bf16": 16, "fp16": 16, "int8": 8, "q8_0": 8, "int4": 4, "q4_0": 4}
"""Bits of a weight, by kind of a timed model. Kinds that mix bits are left out."""
DENSE = "dense"


class TimedShape(NamedTuple):
    """Pattern and bits of the weights. They decide the time of a step."""

    pattern: str
    bits: int


@cache
def _turns(folder: str) -> dict[tuple[str, str, int], dict[TimedShape, list[TimedModel]]]:
    """Return the timings of a folder by model, step and threads, and in each by shape."""
    store = ReadOnlyStore(ROOT / folder)
    out: dict[tuple[str, str, int], dict[TimedShape, list[TimedModel]]] = {}
    for entry in engine_report.entries(store, store.items):
        identity = entry.record.identity
        pattern = entry.side if identity.model == entry.model else identity.model
        if identity.dtype in BITS:
            shapes = out.setdefault((entry.model, entry.step, entry.record.notes["threads"]), {})
            shapes.setdefault(TimedShape(pattern, BITS[identity.dtype]), []).append(entry)
    return out


def _fastest(found: Mapping[TimedShape, list[TimedModel]], shape: TimedShape) -> TimedModel:
    """Return the fastest timing of a shape. Every engine also runs 2:4 weights as dense ones."""
    entries = list(found[shape])
    if shape.pattern == "2:4":
        entries += found[TimedShape(DENSE, shape.bits)]
    return max(entries, key=lambda entry: entry.rate)


def _ms(entry: TimedModel) -> float:
    return 1000 * float(entry.record.notes["prompt_tokens"]) / entry.rate


def milliseconds(folder: str, model: str, step: str) -> dict[TimedShape, float]:
    """Return the time of "decode" or "prompt" on one core in the fastest engine, by shape."""
    times: dict[TimedShape, float] = {}
    for (timed, name, threads), found in _turns(folder).items():
        if timed == model and name.startswith(step) and threads == 1:
            times |= {shape: _ms(_fastest(found, shape)) for shape in found}
    return times


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
    """Time of the linears of a long prompt over the dense model's, if arithmetic is the limit.

    2:4 counts half, as on sparse tensor cores with 16-bit factors. A pattern that no hardware runs
    with the row's quantizer counts as dense, and so do quantized weights.
    """
    decode_ms: float | None = None
    """Measured time of a token on a CPU for the row's shape and bits, if it was measured."""
    prompt_ms: float | None = None
    """Measured time of a prompt, likewise."""
    repeated: bool = True
    """True if a claim can rest on it: it has no seed, or at least SEEDS of them."""

    @property
    def name(self) -> str:
        term = r" \+ lowrank:rank=[^ :]*(?= |$)|(?<=lowrank:)rank=[^ :]*:"
        pattern = "" if self.pattern.dense else str(self.pattern)
        parts = (re.sub(term, "", self.method), pattern, self.quantizer)
        return " ".join(part for part in parts if part not in ("", "none", "dense")) or "dense"


@cache
def read(folders: str) -> tuple[Row, ...]:
    """Return the rows of folders that have a perplexity and a size, and the file that the model was
    read from."""
    results = merge(folders)
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    seeds: dict[tuple[str, str, str], set[int | None]] = {}
    for record in results.records:
        identity = record.identity
        key = (identity.method, identity.quantizer, identity.pattern)
        values = found.setdefault(key, {})
        for reading in record.readings:
            if reading.value and reading.metric in ("perplexity", metrics.SIZE, "relative_flops"):
                values.setdefault(reading.metric, []).append(reading.value)
        if identity.measure == "perplexity":
            seeds.setdefault(key, set()).add(identity.seed)
        if identity.measure == "size":
            values.setdefault("targets", []).append(float(sum(results.items(record).weights)))
    dense = found["dense", "none", "dense"]["targets"][0]
    model = results.records[0].identity.model
    decode, prompt = (milliseconds(TIMES, model, step) for step in ("decode", "prompt"))
    rows = []
    for (method, quantizer, text), values in found.items():
        if not {"perplexity", metrics.SIZE, "targets"} <= values.keys():
            continue
        pattern = Pattern.parse(text)
        terms = fmean(values.get("relative_flops", [1 - pattern.share])) - 1 + pattern.share
        share = 1 / (hardware_limit(pattern.base, quantizer) or 1.0) + terms
        own = seeds[method, quantizer, text]
        shape = _shape(pattern, quantizer)
        row = Row(
            method,
            quantizer,
            pattern,
            perplexity=math.exp(fmean(math.log(value) for value in values["perplexity"])),
            size=fmean(values[metrics.SIZE]),
            arithmetic=share * fmean(values["targets"]) / dense,
            decode_ms=decode.get(shape),
            prompt_ms=prompt.get(shape),
            repeated=None in own or len(own) >= SEEDS,
        )
        rows.append(row)
    file = quantized_file(model)
    original = next((row for row in rows if row.name == "dense"), None)
    if file and original:
        name = quantizer_of_file(file)
        size = float(file.bytes)
        # It has the weights of the dense row, but not its times.
        rows.append(original._replace(quantizer=name, size=size, decode_ms=None, prompt_ms=None))
    return tuple(rows)


def _shape(pattern: Pattern, quantizer: str) -> TimedShape:
    """Return what decides a row's time on a CPU. A pattern without a kernel counts as dense."""
    name = quantizer.partition(":")[0]
    bits = {"none": 16, "int8": 8}.get(name, 4 if name.startswith("int4") else 0)
    has_own = pattern.removed or pattern.beside or str(pattern) == "2:4"
    return TimedShape(str(pattern) if has_own else DENSE, bits)


class Axis(NamedTuple):
    """A cost of a row. 0: it was not measured."""

    words: str
    column: TableColumn
    of: Callable[[Row], float]
    show: Callable[[float], str]
    equal: float = SAME_COST
    """Largest ratio of two costs that count as equal."""


def _cost(name: str, unit: str, kind: type[TableColumn] = Cost) -> TableColumn:
    return kind(name, "", "lower", unit, names_protocol=False)


AXES = (
    Axis(
        "Bytes",
        _cost(metrics.SIZE, "B", TableColumn),
        lambda row: row.size,
        lambda size: f"{size / 1e6:.2f} MB",
    ),
    Axis(
        "The arithmetic of a prompt on sparse tensor cores",
        _cost("arithmetic of a prompt, dense = 1", "1"),
        lambda row: row.arithmetic,
        "{:.2f} of dense".format,
    ),
    Axis(
        "Decoding on this CPU",
        _cost("decoding of a token, one core", "ms"),
        lambda row: row.decode_ms or 0.0,
        "{:.3g} ms".format,
        SAME_TIME,
    ),
    Axis(
        "A prompt on this CPU",
        _cost("prompt, one core", "ms"),
        lambda row: row.prompt_ms or 0.0,
        "{:.3g} ms".format,
        SAME_TIME,
    ),
)
WORTH = (
    "Yes means that no row of equal or lower cost has a lower perplexity. Rows of every format "
    "compete. Bytes and arithmetic within 2%, and times within 5%, count as equal. A row that ran "
    "once decides no answer, but can be on a Pareto front: the rows that no other beats in both "
    "cost and perplexity."
)


def worth(folders: str, pattern: str) -> str:
    """Say whether a pattern's best row is better than all that cost no more, with a table.

    An answer rests on no row with fewer than SEEDS seeds.
    """
    rows = [row for row in read(folders) if row.repeated]
    same = [row for row in rows if (str(row.pattern), row.quantizer) == (pattern, "none")]
    own = min(same, key=lambda row: row.perplexity)
    optimal = {front.x: front.optimal for front in fronts(folders)}
    lines, answers = [], []
    for axis in AXES:
        cost = axis.of(own)
        if not cost:
            continue
        as_cheap = [row for row in rows if 0 < axis.of(row) <= axis.equal * cost]
        best = min(as_cheap, key=lambda row: row.perplexity)
        answers.append(f"{axis.words}: {_answer(own, best, as_cheap)}.")
        price = f"{axis.show(axis.of(best))}, perplexity {best.perplexity:.2f}"
        other = "none" if best == own else f"{escape_markdown(best.name)}, {price}"
        front = DASH
        if axis.column in optimal:
            front = ", ".join(point.name for point in optimal[axis.column])
        words = axis.words[0].lower() + axis.words[1:]
        lines.append((words, axis.show(cost), other, escape_markdown(front)))
    name = f">{escape_markdown(own.name)}, perplexity {own.perplexity:.2f}"
    text = markdown(("", name, "best row at equal or lower cost", "Pareto front"), lines)
    question = f"**Is {own.pattern} without a quantizer worth it here?**"
    return f"{question} {' '.join(answers)} {WORTH}\n\n{text}"


def _answer(own: Row, best: Row, as_cheap: Iterable[Row]) -> str:
    """Return whether `own` has the lowest perplexity of the rows that cost no more."""
    if best != own:
        return "no"
    if all(row.pattern.base == own.pattern.base for row in as_cheap):
        return f"not known, as no other pattern costs as little in {SEEDS} draws"
    return "yes"


def fronts(folders: str) -> list[Front]:
    """Return quality against each cost, of the rows that are near the dense model."""
    found = []
    for axis in AXES:
        costs = {row: axis.of(row) for row in _near(read(folders)) if axis.of(row)}
        if len(costs) >= MIN_POINTS:
            found.append(_front(axis.column, costs))
    return found


def _near(rows: Iterable[Row]) -> list[Row]:
    dense = next(row.perplexity for row in rows if row.name == "dense")
    return [row for row in rows if row.perplexity <= NEAR * dense]


def _front(x: TableColumn, costs: Mapping[Row, float]) -> Front:
    best = pareto_optimal([(cost, row.perplexity) for row, cost in costs.items()])
    points = []
    for row, cost in costs.items():
        tip, optimal = f"perplexity {row.perplexity:.4g}", (cost, row.perplexity) in best
        place = (cost, row.perplexity, 0.0)
        points.append(FrontPoint(row.name, *place, tip, optimal, row.pattern.dense))
    return Front(x, _cost("perplexity", "1", TableColumn), tuple(points))


def picture(folders: str) -> str:
    """Draw the fronts side by side, as an SVG element."""
    found = fronts(folders)
    lines = [found[i : i + 2] for i in range(0, len(found), 2)]
    about = " ".join(describe(front) for front in found)
    title = "perplexity against what a row costs"
    return drawing.to_svg(front_figure.draw_fronts(lines), title, about)


TABLES = {"worth": worth}
"""Functions by the kind of a table in results/boards.toml."""
