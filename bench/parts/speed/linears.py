"""Time the linears of a model alone: 2:4 against dense for each shape, and the sum over all
linears."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.measures.contract import MeasureContext, Readings
from bench.parts.packed24.timing import WrongProduct
from bench.parts.speed import comparison
from bench.parts.speed.cpu import Cpu
from bench.parts.speed.cuda import Cuda
from bench.parts.speed.decoding import KIND_OF_DTYPE, find_kind, pack_stored
from bench.results.record import Reading
from bench.system import nvidia_smi
from methods.contract.errors import Skipped, first_line
from methods.contract.method import Compute
from methods.contract.pattern import Pattern
from methods.model.folder import dtype_name
from methods.model.targets import dense_weight

Weights = Iterator[tuple[int, Tensor]]
"""For each shape, the number of linears and the weight [out, in] of one of them."""


def select_device(compute: Compute) -> Cpu | Cuda:
    """Return the device for timing."""
    return Cuda(compute.device) if compute.device.type == "cuda" else Cpu(compute.threads)


def read_linears(
    device: Cpu | Cuda, model: Callable[[], nn.Module], context: MeasureContext, tokens: int
) -> Readings:
    """Time the linears of an artifact, each shape once. Raise Skipped if none is 2:4, or if no
    shape has a kernel."""
    dtype, integers = context.compute.dtype, find_kind(context)
    kind = integers or KIND_OF_DTYPE.get(dtype, dtype_name(dtype))
    if kind not in device.kinds:
        raise Skipped(f"no 2:4 kernel for {kind}: use --dtype bfloat16")
    pruned = model()
    weights = {name: dense_weight(pruned.get_submodule(name)) for name in context.counts.layers}
    multiplicity = Counter(tuple(w.shape) for w in weights.values())
    names = {tuple(w.shape): name for name, w in reversed(weights.items())}
    firsts = {shape: weights[name] for shape, name in names.items()}
    if integers:
        pack_stored({name: weights[name] for name in names.values()}, integers, context)
    place = str(context.compute.device)
    before = nvidia_smi.describe(place)
    counted = ((multiplicity[shape], weight) for shape, weight in firsts.items())
    readings = time_linears(device, counted, tokens, kind)
    return replace(readings, notes={**readings.notes, **nvidia_smi.note(before, place)})


def random_weights(shapes: Counter[tuple[int, int]]) -> Weights:
    """Return random 2:4 weights in bfloat16 for a model that is not downloaded."""
    for i, ((out, width), count) in enumerate(shapes.items()):
        weight = torch.randn(out, width, generator=torch.Generator().manual_seed(i)).bfloat16()
        for rows in range(0, out, 1024):
            part = weight[rows : rows + 1024]
            part.copy_(torch.where(Pattern(2, 4).keep(part.float().abs()), part, 0))
        yield count, weight


def time_linears(
    device: Cpu | Cuda,
    weights: Weights,
    tokens: int,
    kind: str,
    after_shape: Callable[[], object] = lambda: None,
) -> Readings:
    """Time each shape once and add up all linears. The notes have a row for each shape.

    after_shape: called after each shape that was timed. Raise Skipped if no shape has a kernel.
    """
    peaks = device.peaks()
    fault: RuntimeError | None = None
    rows: list[dict[str, Any]] = []
    sums = [[0.0] * comparison.BLOCKS for _ in range(2)]
    for count, weight in weights:
        row: dict[str, Any] = {
            "shape": list(weight.shape),
            "count": count,
            "tokens": tokens,
            "kind": kind,
        }
        try:
            compared = device.compare(weight, tokens, kind)
            started = time.monotonic()
            timings = compared.run(device.clock)
        except (Skipped, WrongProduct) as why:
            rows.append(row | {"skipped": str(why)})
            continue
        except torch.OutOfMemoryError as why:
            rows.append(row | {"skipped": f"does not fit: {first_line(why)}"})
            continue
        except RuntimeError as why:
            # Of a library for this shape. The others do not depend on it.
            fault = fault or why
            rows.append(row | {"skipped": f"failed: {first_line(why)}"})
            continue
        row |= comparison.summarize(compared, timings, peaks) | {
            "wall_s": round(time.monotonic() - started, 2)
        }
        rows.append(row)
        for side, name in zip(sums, (row["sparse"], row["dense"]), strict=True):
            for i, t in enumerate(timings.blocks[name]):
                side[i] += count * t
        after_shape()
    if not any("speedup" in row for row in rows):
        if fault:
            raise fault
        raise Skipped(rows[0]["skipped"] if rows else "no linear to time")
    notes = {
        "shapes": rows,
        "peak_bandwidth": peaks.bandwidth,
        "peak_flops": dict(peaks.flops),
        "device": device.name,
    }
    if any("skipped" in row for row in rows):
        # A sum over some shapes only would mislead.
        return Readings(
            (Reading("shapes_timed", float(sum("speedup" in r for r in rows)), "1", ""),),
            notes=notes,
        )
    speedup = math.exp(statistics.fmean(math.log(d / s) for s, d in zip(*sums, strict=True)))
    summed = comparison.Timings({"2:4": tuple(sums[0]), "dense": tuple(sums[1])}, {})
    return comparison.to_readings(summed, "linears", "2:4", "dense", speedup, notes=notes)
