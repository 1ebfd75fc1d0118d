"""Formats and scales beside those of other projects, on the linears of a model: how many are equal.

python benchmarks/formats.py [--model tiny]

compressed-tensors is needed. torchao, llama-cpp-python and llmcompressor are compared where they
are installed.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import (
    Figures,
    draw_tokens,
    finish,
    like_a_worker,
    make_method,
    open_model,
    recorded,
    significant,
    start,
)
from torch import Tensor, nn

from baselines.smooth import Awq
from bench.inputs import loading
from bench.parts.gguf import k_quants
from bench.system.cache import temporary_folder
from methods.contract.method import Compute, Job
from methods.contract.pattern import Pattern
from methods.workshop.pruning.hessian import add_gram, symmetric
from methods.workshop.pruning.walk import Walk
from methods.workshop.quantizing.grids import Grid, Microscaling, NvFloat4, round_
from methods.workshop.transforms.wiring import Wiring

K_QUANTS = {"q2_k": "q2_k", "q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m", "q6_k": "q6_k"}
"""Names of llama.cpp's program for our types."""
GRIDS: dict[str, tuple[Grid, int, str]] = {
    "mxfp4": (Microscaling(4), 32, "MXFP4A16"),
    "nvfp4": (NvFloat4(), 16, "NVFP4A16"),
}
SEQUENCES, GRID, GROUP = 32, 20, 32
"""Calibration sequences, number of ratios and group of AWQ."""


def compare(pairs: Sequence[tuple[Tensor, Tensor]]) -> Figures:
    """Return how our weights differ from other ones."""
    ours, theirs = (torch.cat([pair[i].flatten() for pair in pairs]) for i in (0, 1))
    equal, most = (ours == theirs).float().mean(), (ours - theirs).abs().max() / theirs.abs().max()
    figures: Figures = {"weights": len(ours), "equal": f"{float(equal):.3%}"}
    return figures | {"largest difference, of the largest weight": significant(float(most))}


def rounded_up(weight: Tensor) -> Tensor:
    """Return which weights are in a group of MXFP4 that others round up, bool [out, in].

    Its largest value is at least 1.75 times a power of two.
    """
    fraction = torch.frexp(weight.unflatten(1, (-1, 32)).abs().amax(-1)).mantissa
    return (fraction >= 1.75 / 2).repeat_interleave(32, 1)


def ours_of(name: str, weight: Tensor) -> Tensor:
    grid, group, _ = GRIDS[name]
    rounded = weight.clone()
    round_(rounded, grid, group)
    return rounded


def by_compressed_tensors(name: str, weight: Tensor) -> Tensor:
    """Round with the scales and the rounding of compressed-tensors."""
    ct: Any = importlib.import_module("compressed_tensors.quantization")
    helpers: Any = importlib.import_module("compressed_tensors.quantization.utils")
    _, group, preset = GRIDS[name]
    args = ct.preset_name_to_scheme(preset, ["Linear"]).weights
    groups = weight.unflatten(1, (-1, group))
    low, high = groups.amin(-1), groups.amax(-1)
    whole = helpers.generate_gparam(weight.amin(), weight.amax()) if name == "nvfp4" else None
    scale, zero = helpers.calculate_qparams(low, high, args, global_scale=whole)
    rounded: Tensor = ct.fake_quantize(weight, scale, zero, args, global_scale=whole)
    return rounded


def by_torchao(name: str, weight: Tensor) -> Tensor:
    """Round with torchao."""
    if name == "mxfp4":
        mx: Any = importlib.import_module("torchao.prototype.mx_formats.mx_tensor")
        floor = mx.ScaleCalculationMode.FLOOR
        rounded = mx.MXTensor.to_mx(weight, torch.float4_e2m1fn_x2, 32, floor)
    else:
        nv: Any = importlib.import_module("torchao.prototype.mx_formats.nvfp4_tensor")
        scale = nv.per_tensor_amax_to_scale(weight.abs().max())
        rounded = nv.NVFP4Tensor.to_nvfp4(weight, 16, per_tensor_scale=scale)
    values: Tensor = rounded.dequantize(torch.float32)
    return values


def compare_k_quants(folder: Path, room: Path) -> Figures:
    """Write files by llama.cpp's program, and count the matrices of equal bytes by our calls."""
    from gguf import GGUFReader

    from bench.inputs import llamacpp
    from bench.parts.gguf import gguf_file

    whole, out = room / "f16.gguf", room / "out.gguf"
    gguf_file.write(folder, whole, "f16")
    source, importance = {}, {}
    generator = torch.Generator().manual_seed(0)
    for tensor in GGUFReader(whole).tensors:
        if len(tensor.shape) == 2 and tensor.name.startswith("blk."):
            source[tensor.name] = tensor
            random = torch.rand(int(tensor.shape[0]), generator=generator)
            importance[tensor.name] = random + 0.1
    figures: Figures = {}
    for name, kind in K_QUANTS.items():
        for given in (importance, None):
            llamacpp.quantize(whole, out, kind, 1, given, pure=True)
            found = {t.name: t for t in GGUFReader(out).tensors if t.name in source}
            same, types = 0, set()
            for matrix, tensor in found.items():
                weight = torch.from_numpy(source[matrix].data.astype("float32"))
                form = k_quants.type_for(name, weight.shape[1])
                own = k_quants.quantize(weight, form, given[matrix] if given else None)
                same += form == tensor.tensor_type.name and own.tobytes() == tensor.data.tobytes()
                types.add(form)
            counts = {"matrices": len(found), "same bytes": same, "types": ", ".join(sorted(types))}
            figures[f"llama.cpp, {name}{', with importance' if given else ''}"] = counts
    return figures


def compare_awq(model: nn.Module, job: Job) -> Figures:
    """Return how far the exponents of AWQ's scales are from those of llm-compressor."""
    sizes, exponents = input_sizes(model, job), []
    for name in ("awq", "llmcompressor-awq"):
        changed = copy.deepcopy(model)
        make_method("methods", name, {"group": GROUP, "grid": GRID}).apply(changed, job)
        own = {}
        for norm, after in changed.named_parameters():
            if norm.endswith("layernorm.weight"):
                own[norm] = slope(sizes[norm], model.get_parameter(norm) / after)
        exponents.append(own)
    ours, theirs = exponents
    flat = flatness(model, job, theirs)
    apart = [abs(ours[norm] - theirs[norm]) * GRID for norm in ours]
    return {
        "norms": len(apart),
        "exponents within a step of the search": sum(x <= 1.5 for x in apart),
        "median distance in steps": round(statistics.median(apart), 2),
        "our error at their exponents, over the smallest": f"{min(flat):.3f} to {max(flat):.3f}",
        "mean exponent, ours": round(statistics.fmean(ours.values()), 3),
        "mean exponent, theirs": round(statistics.fmean(theirs.values()), 3),
    }


def flatness(model: nn.Module, job: Job, exponents: dict[str, float]) -> list[float]:
    """Return the error of our search at other exponents, over its smallest, of each norm."""
    awq, wiring, errors = Awq(group=GROUP, grid=GRID), Wiring(model, job, "awq"), {}
    for visit in Walk(copy.deepcopy(model), job, add_gram):
        errors[visit.name] = awq._errors(visit.weight.float(), symmetric(visit.stat))
    ratios = []
    for block, norm, readers in wiring.readers():
        total = torch.stack([errors[reader] for reader in readers]).sum(0)
        at = round(exponents[f"{block}.{norm}.weight"] * GRID)
        ratios.append(float(total[min(max(at, 0), GRID - 1)] / total.min()))
    return ratios


@torch.inference_mode()
def input_sizes(model: nn.Module, job: Job) -> dict[str, Tensor]:
    """Return the mean absolute value of each output of a norm, by the name of its weight."""
    found: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda _, __, out: found.update({name: out.abs().mean((0, 1))})

    norms = {n: m for n, m in model.named_modules() if n.endswith("layernorm")}
    hooks = [m.register_forward_hook(note(f"{n}.weight")) for n, m in norms.items()]
    model(input_ids=job.calibration)
    for hook in hooks:
        hook.remove()
    return found


def slope(size: Tensor, scale: Tensor) -> float:
    """Return the exponent a for which scales are nearest to size^a."""
    x, y = size.log(), scale.log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / x.square().sum())


def main(model: str = "tiny") -> None:
    like_a_worker()
    torch.set_num_threads(1)
    found, opened, targets = open_model(model)
    weights = [opened.weight(target).float() for target in targets]
    plain = [~rounded_up(weight) for weight in weights]
    references = {"compressed_tensors": by_compressed_tensors, "torchao": by_torchao}
    references = {k: v for k, v in references.items() if importlib.util.find_spec(k)}
    figures: Figures = {}
    for name in GRIDS:
        for package, reference in references.items():
            pairs = [(ours_of(name, weight), reference(name, weight)) for weight in weights]
            label = f"{package.replace('_', '-')}, {name}"
            figures[label] = compare(pairs)
            if label == "compressed-tensors, mxfp4":
                others = [(a[keep], b[keep]) for (a, b), keep in zip(pairs, plain, strict=True)]
                figures[f"{label}, groups that it does not round up"] = compare(others)
    with temporary_folder("formats") as room:
        if importlib.util.find_spec("llama_cpp"):
            figures |= compare_k_quants(found.folder, room)
        if importlib.util.find_spec("llmcompressor"):
            tokens = draw_tokens(found.folder, SEQUENCES, min(512, found.seqlen))
            more = {"calibration": tokens, "workdir": room}
            job = Job(source=found.folder, pattern=Pattern(), targets=targets, **more)
            figures["llm-compressor, AWQ"] = compare_awq(loading.load(found.folder, Compute()), job)
    named = {f"{model}: {name}": values for name, values in figures.items()}
    finish("formats", recorded("formats") | named)


if __name__ == "__main__":
    start(main)
