"""Seconds and peak bytes of every quantizer on a 2:4 model; the extras too, if they are installed.

Each quantizer runs in another process, so that its peak is its own. The model is pruned by
magnitude first, and with --blocks only its first blocks are targets. "Before" is the peak with the
model and the tokens loaded.

With --codes it measures codes on normally distributed weights instead, and no model: their squared
error over that of zeros, also of 2:4, and how many weights a second the Viterbi algorithm codes by
each kind of instructions.

python benchmarks/quantizers.py [--model smollm2-135m-instruct-q4] [--blocks 4] [--rounds 1]
python benchmarks/quantizers.py --codes
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import os
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import harness
from harness import MODEL, Figures, significant, start

from bench.catalog.entries import QUANTIZERS
from bench.inputs import loading
from bench.system import provenance
from bench.system.cache import temporary_folder
from bench.system.devices import KERNEL_PATH, cores
from methods.contract.errors import Skipped, UserError
from methods.contract.info import Does

if TYPE_CHECKING:
    from torch import Tensor

    from methods.contract.codec import StoredWeight

SEQUENCES = 16
VARIANTS: dict[str, tuple[dict[str, int], ...]] = {
    "higgs": ({"bits": 2}, {"bits": 4}),
    "tcq2": ({"memory": 10},), "tcq3": ({"memory": 10},), "tcq4": ({"memory": 10},),
}  # fmt: skip
"""Settings that are measured beside the defaults."""
MASK_ALONE = "2:4"
"""Name of a mask whose kept weights are not rounded."""
SIDE, TIMED = 1024, 2**18
"""Rows and columns of the weight, and number of weights that are timed."""


def one(name: str, model_name: str, blocks: int, rounds: int) -> Figures:
    """Run a quantizer, and return seconds and bytes."""
    import torch

    from methods.contract.method import Compute, Job
    from methods.contract.pattern import Pattern
    from methods.model.targets import family_of

    torch.set_num_threads(cores())
    found, opened, targets = harness.open_model(model_name)
    if blocks:
        family = family_of(opened.config)
        targets = tuple(t for t in targets if (family.block_of(t) or 0) < blocks)
    tokens = harness.draw_tokens(found.folder, SEQUENCES, min(512, found.seqlen))
    model = loading.load(found.folder, Compute())
    job = Job(source=found.folder, pattern=Pattern(2, 4), targets=targets, calibration=tokens)
    harness.make_method("methods", "magnitude").apply(model, job)
    quantizer = harness.make_method("quantizers", name)
    before, took = provenance.peak_bytes("cpu"), []
    for _ in range(rounds):
        fresh = copy.deepcopy(model) if rounds > 1 else model
        took.append(harness.seconds(partial(quantizer.apply, fresh, dataclasses.replace(job))))
    peaks = {"peak_bytes": provenance.peak_bytes("cpu"), "peak_bytes_before": before}
    return {"seconds": round(statistics.median(took), 3)} | peaks


def code_of(quantizer: Any, weight: Tensor) -> StoredWeight | None:
    """Code a weight float32 [out, in] whose inputs are independent and of equal size. None for a
    quantizer whose library alone has its codes."""
    import torch

    from bench.parts.codebooks import higgs, lut, rotated, searched
    from bench.parts.gguf import k_quants
    from methods.contract.codec import StoredWeight
    from methods.workshop.quantizing.grid_codec import GridCodec
    from methods.workshop.transforms.incoherence import turn_weight

    out, width = weight.shape
    if isinstance(quantizer, k_quants.Q4K):
        form = k_quants.type_for(quantizer.name, width)
        data = k_quants.quantize(weight, form, torch.ones(width))
        return StoredWeight(k_quants.GgmlCodec(form), {"blocks": torch.from_numpy(data)})
    if isinstance(quantizer, higgs.Higgs):
        pairs = higgs.HiggsCodec(quantizer.bits, (out, width))
        return StoredWeight(pairs, pairs.encode(turn_weight(weight)))
    if isinstance(quantizer, rotated.RotatedQuantizer):
        codec = quantizer.codec((out, width))
        return StoredWeight(codec, codec.encode(turn_weight(weight), torch.eye(width)))
    if isinstance(quantizer, lut.Lut3):
        every = torch.ones_like(weight, dtype=torch.bool)
        tables = quantizer.tables(weight, every, torch.ones(width), has_zero=False)
        values = lut.by_row(tables, quantizer.rows, out)
        codes = torch.searchsorted((values[:, 1:] + values[:, :-1]) / 2, weight)
        parts = {"codes": codes.to(torch.uint8), "tables": tables}
        return StoredWeight(lut.TableCodec(quantizer.width, quantizer.rows), parts)
    group = 128
    grid: Any = None
    if isinstance(quantizer, searched.Int3Searched):
        grid = searched.SearchedInteger(quantizer.bits)
    elif isinstance(quantizer, searched.NvFp4FourOverSix):
        group, grid = 16, searched.FourOverSix()
    elif hasattr(quantizer, "format"):
        one = quantizer.format.codec(width, None, quantizer.name)
        return StoredWeight(one, one.encode(weight))
    if grid is None:
        return None
    groups = weight.unflatten(1, (-1, group))
    grid = grid.of(groups)
    one = GridCodec.of(grid, group)
    return StoredWeight(one, one.store(weight, grid.scale(groups).squeeze(-1), grid))


def measure_code(quantizer: Any, weight: Tensor) -> Figures:
    """Return form, bits and error of a quantizer's code, and the speed of its search; {} without
    one."""
    from bench.formats import stored
    from methods.contract.pattern import Pattern

    one = code_of(quantizer, weight)
    if one is None:
        return {}
    with temporary_folder("codes") as room:
        stored.write(room, {"w": one}, {"w": (SIDE, SIDE)}, Pattern())
        bits = stored.StoredFolder(room).count().all_bits
    form = stored.describe(one.codec)
    if getattr(getattr(quantizer, "format", None), "inputs", ""):
        form += ", and inputs"
    figures = {"form": form, "bits": round(bits, 3), "error": error_of(one.decode(), weight)}
    return figures | (time_search(quantizer) if quantizer.name.startswith("tcq") else {})


def error_of(found: Tensor, weight: Tensor) -> float:
    """Return the squared error of a weight over the sum of its squares."""
    error = float((found - weight).square().mean() / weight.square().mean())
    return significant(error, 3)


def measure_codes() -> Figures:
    """Return the figures of each quantizer that has a code, and the error of a mask."""
    import torch

    from methods.contract.pattern import Pattern

    weight = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    figures: Figures = {}
    for name, entry in QUANTIZERS.items():
        missing = entry.extra == "llamacpp" and not importlib.util.find_spec("llama_cpp")
        has_form = entry.target and not entry.file and Does.KEEPS_WEIGHTS not in entry.does
        if missing or not has_form:
            continue
        for settings in ({}, *VARIANTS.get(name, ())):
            quantizer = harness.make_method("quantizers", name, settings)
            if figure := measure_code(quantizer, weight):
                label = ":".join([name, *(f"{key}={value}" for key, value in settings.items())])
                harness.say(label, figure)
                figures[label] = figure
    kept = weight.masked_fill(~Pattern(2, 4).keep(weight.abs()), 0)
    figures[MASK_ALONE] = {"error": error_of(kept, weight)}
    return figures


def time_search(quantizer: Any) -> Figures:
    """Return the millions of weights that a search codes in a second of a core, by instructions."""
    import torch

    from bench.parts.codebooks import trellis

    x = torch.randn(TIMED // trellis.STEPS, trellis.STEPS)
    figures: Figures = {}
    for path in ("avx512", "avx2"):
        os.environ[KERNEL_PATH] = path
        trellis.load.cache_clear()
        trellis.search(x[:1], quantizer.width, quantizer.memory)

        def work() -> None:
            trellis.search(x, quantizer.width, quantizer.memory)

        took = min(harness.in_turn({path: work}, 3, time.process_time)[path])
        figures[f"million weights/s, {path}"] = significant(TIMED / took / 1e6)
    return figures


def main(model: str = MODEL, blocks: int = 0, rounds: int = 1, codes: bool = False) -> None:
    harness.like_a_worker()
    if codes:
        import torch

        torch.set_num_threads(1)
        harness.finish("codes", measure_codes())
        return
    figures: Figures = {"model": model, "blocks": blocks or "all", "threads": cores()}
    for name in QUANTIZERS:
        if name != "none":
            try:
                figures[name] = harness.apart(one, name, model, blocks, rounds)
            except (Skipped, UserError) as fault:
                figures[name] = {"skipped": str(fault)}
    harness.finish("quantizers", figures)


if __name__ == "__main__":
    start(main)
