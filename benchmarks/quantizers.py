"""Seconds and peak bytes of every quantizer on a 2:4 model; the extras too, if they are installed.

Each quantizer runs in another process, so that its peak is its own. The model is pruned by
magnitude first, and with --blocks only its first blocks are targets. "Before" is the peak with the
model and the tokens loaded.

With --codes it measures codes on normally distributed weights instead, and no model: their squared
error over that of zeros, also of 2:4, and how many weights a second the Viterbi algorithm codes by
each kind of instructions.

python benchmarks/quantizers.py [--model smollm2-135m-instruct-q4] [--blocks 4] [--rounds 1] [--codes]
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import os
import statistics
import time
from typing import TYPE_CHECKING, Any

import harness
from harness import MODEL, Figures, significant, start

from bench.catalog.entries import QUANTIZERS
from bench.inputs import loading
from bench.system import provenance
from bench.system.cache import temporary_folder
from bench.system.devices import KERNEL_PATH, cores
from methods.contract.errors import Skipped, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from methods.contract.codec import StoredWeight

SEQUENCES = 16
ROTATED = (
    "gauss2", "gauss3", "gauss4", "higgs:bits=2", "higgs:bits=3", "higgs:bits=4", "e8:bits=2",
    "e8:bits=3", "e8:bits=4", "tcq2:memory=10", "tcq3:memory=10", "tcq4:memory=10", "tcq2", "tcq3",
    "tcq4",
)  # fmt: skip
"""Codes of rotated weights."""
GGML = ("IQ2_XXS", "IQ2_XS", "Q2_K", "IQ3_XXS", "Q3_K", "IQ3_S", "IQ4_XS", "IQ4_NL", "Q4_K")
"""Types of llama.cpp."""
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
        took.append(harness.seconds(lambda m=fresh: quantizer.apply(m, dataclasses.replace(job))))
    peaks = {"peak_bytes": provenance.peak_bytes("cpu"), "peak_bytes_before": before}
    return {"seconds": round(statistics.median(took), 3)} | peaks


def code_of(name: str, weight: Tensor) -> StoredWeight:
    """Code a weight float32 [out, in] whose inputs are independent and of equal size."""
    import torch

    from bench.catalog.choice import parse_method
    from bench.parts.codebooks import higgs, lut, searched
    from bench.parts.gguf import k_quants
    from methods.contract.codec import StoredWeight
    from methods.workshop.quantizing.grid_codec import GridCodec
    from methods.workshop.quantizing.grids import Integer, NvFloat4
    from methods.workshop.transforms.incoherence import turn_weight

    out, width = weight.shape
    if name in GGML:
        data = k_quants.quantize(weight, name, torch.ones(width))
        return StoredWeight(k_quants.GgmlCodec(name), {"blocks": torch.from_numpy(data)})
    if name in ROTATED:
        choice = parse_method(name, "quantizers")
        quantizer = harness.make_method("quantizers", choice.name, choice.config)
        codec: Any = higgs.HiggsCodec(getattr(quantizer, "bits", 3), (out, width))
        if choice.name != "higgs":
            codec = quantizer.codec((out, width))
        return StoredWeight(codec, codec.encode(turn_weight(weight), torch.eye(width)))
    if name.startswith("lut"):
        table = harness.make_method("quantizers", name)
        keep = torch.ones_like(weight, dtype=torch.bool)
        values = table.tables(weight, keep, torch.ones(width), has_zero=False)
        rows = lut.by_row(values, table.rows, out)
        edges = (rows[:, 1:] + rows[:, :-1]) / 2
        codes = torch.searchsorted(edges, weight).to(torch.uint8)
        return StoredWeight(
            lut.TableCodec(table.width, table.rows), {"codes": codes, "tables": values}
        )
    grids = {
        "nvfp4": NvFloat4(), "nvfp4-46": searched.FourOverSix(), "int3-rtn": Integer(3),
        "int2-searched": searched.SearchedInteger(2), "int3-searched": searched.SearchedInteger(3),
        "int4-rtn": Integer(4), "int4-searched": searched.SearchedInteger(4),
    }  # fmt: skip
    group = 16 if name.startswith("nvfp4") else 128
    groups = weight.unflatten(1, (-1, group))
    grid = grids[name].of(groups)
    form = GridCodec.of(grid, group)
    return StoredWeight(form, form.store(weight, grid.scale(groups).squeeze(-1), grid))


def measure_codes() -> Figures:
    """Return bits and error of each code, and the speed of the searches."""
    import torch

    from bench.formats import stored
    from methods.contract.pattern import Pattern

    names = ["int2-searched", "int3-rtn", "int3-searched", "lut3", "int4-rtn", "int4-searched"]
    names += ["lut4", "nvfp4", "nvfp4-46", *ROTATED]
    if importlib.util.find_spec("llama_cpp"):
        names += GGML
    weight = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    figures: Figures = {}
    for name in names:
        one = code_of(name, weight)
        with temporary_folder("codes") as room:
            stored.write(room, {"w": one}, {"w": (SIDE, SIDE)}, Pattern())
            bits = stored.StoredFolder(room).count().all_bits
        error = float((one.decode() - weight).square().mean() / weight.square().mean())
        limit = 4**-bits
        figures[name] = {
            "bits": round(bits, 3),
            "error": significant(error, 3),
            "over the least possible": round(error / limit, 2),
        }
        harness.say(name, figures[name])
        if name.startswith("tcq"):
            figures[name] |= time_search(name)
    kept = weight.masked_fill(~Pattern(2, 4).keep(weight.abs()), 0)
    error = float((kept - weight).square().mean() / weight.square().mean())
    figures["2:4, nothing rounded"] = {"error": significant(error, 3)}
    return figures


def time_search(name: str) -> Figures:
    """Return the millions of weights that a search codes in a second of a core, by instructions."""
    import torch

    from bench.catalog.choice import parse_method
    from bench.parts.codebooks import trellis

    choice = parse_method(name, "quantizers")
    quantizer = harness.make_method("quantizers", choice.name, choice.config)
    x = torch.randn(TIMED // trellis.STEPS, trellis.STEPS)
    figures: Figures = {}
    for path in ("avx512", "avx2"):
        os.environ[KERNEL_PATH] = path
        trellis.load.cache_clear()
        trellis.search(x[:1], quantizer.width, quantizer.memory)

        def work() -> None:
            trellis.search(x, quantizer.width, quantizer.memory)

        took = min(harness.in_turn({name: work}, 3, time.process_time)[name])
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
