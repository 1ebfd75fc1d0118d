"""Times of a decoded token and of a prompt by the shape and the bits of a model's weights, from
timings in one turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from reference import ROOT

from bench.parts.speed import engine_report
from bench.parts.speed.engine_report import TimedModel
from bench.results.store import ReadOnlyStore
from bench.system.text import amount, escape_markdown

BITS = {"bf16": 16, "fp16": 16, "int8": 8, "q8_0": 8, "int4": 4, "q4_0": 4}
"""Bits of a weight, by kind. A kind that mixes them has no place here."""
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
        identity, notes = entry.record.identity, entry.record.notes
        pattern = identity.model if identity.model != entry.model else entry.side
        if bits := BITS.get(identity.dtype):
            shapes = out.setdefault((entry.model, entry.step, notes["threads"]), {})
            shapes.setdefault(TimedShape(pattern, bits), []).append(entry)
    return out


def _fastest(found: Mapping[TimedShape, Iterable[TimedModel]], shape: TimedShape) -> TimedModel:
    """Return the fastest timing of a shape. Every engine also runs 2:4 weights as dense ones."""
    entries = [
        *found[shape],
        *(found[TimedShape(DENSE, shape.bits)] if shape.pattern == "2:4" else ()),
    ]
    return max(entries, key=lambda entry: entry.rate)


def _ms(entry: TimedModel) -> float:
    return 1000 * float(entry.record.notes["prompt_tokens"]) / entry.rate


def milliseconds(folder: str, model: str, step: str) -> dict[TimedShape, float]:
    """Return the time of a step on one core in the fastest engine, by shape. step: decode or
    prompt."""
    return {
        shape: _ms(_fastest(found, shape))
        for (timed, name, threads), found in _turns(folder).items()
        if timed == model and name.startswith(step) and threads == 1
        for shape in found
    }


def times(folder: str) -> str:
    """Return a table for each step and number of threads: each shape in its fastest engine, over
    the fastest dense one."""
    parts = []
    for (model, step, threads), found in _turns(folder).items():
        entry = next(iter(found.values()))[0]
        machine = entry.record.provenance["machine"]["cpu"]
        title = (
            f"{escape_markdown(model)}, {step}, {amount(threads, 'thread')}, "
            f"{escape_markdown(machine)}"
        )
        lines = [
            f"| {title} | bits | engine | ms | over dense | noise | of the limit |",
            "|---|---:|---|---:|---|---:|---:|",
        ]
        for shape in sorted(found, key=lambda shape: (-shape.bits, _ms(_fastest(found, shape)))):
            best, dense = _fastest(found, shape), _fastest(found, TimedShape(DENSE, shape.bits))
            # Of rates, so of the times the other way round.
            ratio = engine_report.ratio(dense, best)
            over = (
                "–" if best is dense else f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
            )
            limit = f"{best.share_of_limit:.0%}" if best.share_of_limit else "–"
            cells = (
                shape.pattern,
                shape.bits,
                best.name,
                f"{_ms(best):.2f}",
                over,
                f"{best.noise:.1%}",
                limit,
            )
            lines.append(f"| {' | '.join(map(str, cells))} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
