"""Export quantized weights in the format of compressed-tensors, which vLLM and transformers load."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.export.integers import StoredLinears, require_linears
from bench.kernels.integers24 import restore_scales
from bench.system.packages import pip_install, require
from bench.verify import FUNCTION_TOLERANCE
from methods.errors import UserError
from methods.folder import Folder, Writer
from methods.quantizing import grids
from methods.targets import as_regexes, family_of


@dataclass(frozen=True)
class StoredFormat:
    """Storage format of a quantizer's weights. `weights` and `inputs` are QuantizationArgs of compressed-tensors."""

    name: str
    """Name of the format in compressed-tensors."""
    weights: Mapping[str, Any]
    inputs: Mapping[str, Any] | None = None


INT = {"type": "int", "symmetric": True}
FLOAT = {"type": "float", "symmetric": True}
TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
W8A8 = StoredFormat("int-quantized", {"num_bits": 8, **INT, "strategy": "channel"}, TOKEN)
INT4 = StoredFormat("pack-quantized", {"num_bits": 4, **INT, "strategy": "group"})
MXFP4 = StoredFormat("mxfp4-pack-quantized", {"num_bits": 4, **FLOAT, "strategy": "group", "scale_dtype": torch.uint8})
NVFP4 = StoredFormat(
    "nvfp4-pack-quantized", {"num_bits": 4, **FLOAT, "strategy": "tensor_group", "scale_dtype": torch.float8_e4m3fn}
)
FORMATS = {
    "int8": StoredFormat("pack-quantized", {"num_bits": 8, **INT, "strategy": "channel"}),
    "w8a8": W8A8,
    "w8a8-smooth": W8A8,
    "fp8": StoredFormat("float-quantized", {"num_bits": 8, **FLOAT, "strategy": "channel"}),
    "int4-rtn": INT4,
    "int4-gptq": INT4,
    "int4-awq": INT4,
    "mxfp4": MXFP4,
    "mxfp4-gptq": MXFP4,
    "nvfp4": NVFP4,
    "nvfp4-gptq": NVFP4,
}
"""Formats by quantizer."""
FP4 = (MXFP4, NVFP4)
"""Formats whose loaders compute in bfloat16, so that the other tensors are stored in it."""
INPUTS_TOLERANCE = 0.05
"""Largest relative change of logits where inputs are rounded while the model runs."""


def write(folder: Path, workdir: Path, stored: StoredLinears | None, quantizer: str) -> tuple[str, dict[str, Any]]:
    """Write the weights of a quantized model folder. Return a sentence, and keys of config.json.

    Each weight is unpacked again and compared. Refuse a quantizer without such a format, and weights [in, out].
    """
    require("compressed_tensors", what="compressed-tensors", how=pip_install("compressed-tensors"))
    form, source = FORMATS.get(quantizer.split(":")[0]), Folder(folder)
    if stored is None or form is None:
        raise UserError(f"quantizer {quantizer} has no format of compressed-tensors: use one of {', '.join(FORMATS)}")
    require_linears(source, "compressed-tensors")
    family = family_of(source.config)
    groups: dict[int, list[str]] = {}
    for target, size in stored.groups.items():
        groups.setdefault(size if stored.form.most else 0, []).append(target)
    schemes = {target: (size, _scheme(form, size)) for size, names in groups.items() for target in names}
    writer, near, again = Writer(workdir), 0, 0
    computed = "bfloat16" if form in FP4 else source.dtype
    for name in source:
        target = name.removesuffix(".weight")
        if target not in schemes:
            tensor = source.tensor(name)
            writer.add(name, tensor.bfloat16() if form in FP4 and tensor.is_floating_point() else tensor)
            continue
        weight = source.tensor(name)
        parts, restored = _store(weight, form, *schemes[target])
        if not torch.equal(restored, weight):
            is_near = torch.allclose(restored, weight, rtol=torch.finfo(getattr(torch, computed)).eps, atol=0)
            near, again = near + is_near, again + (not is_near)
        for leaf, tensor in parts.items():
            writer.add(f"{target}.{leaf}", tensor)
    writer.close()
    config: dict[str, Any] = {
        "quantization_config": _config(form, {size: as_regexes(names, family) for size, names in groups.items()})
    }
    if form in FP4:
        config["dtype"] = "bfloat16"
    rounded = f"; {near} of them differ in the last bit of {computed}" if near else ""
    rounded += f"; {again} of them rounded again" if again else ""
    return f"{len(schemes)} linears stored as {form.name}{rounded}", config


def precision(source: Folder, quantizer: str) -> tuple[str, float]:
    """Return the number format in which loaders compute, and how far their logits may be from the model's."""
    form = FORMATS[quantizer.split(":")[0]]
    computed = "bfloat16" if form in FP4 else source.dtype
    # engines round an input by another scale than ours: max|x| / 127.5, say, and not / 127
    return computed, INPUTS_TOLERANCE if form.inputs else FUNCTION_TOLERANCE[computed]


def _scheme(form: StoredFormat, group: int) -> Any:
    args: Any = importlib.import_module("compressed_tensors.quantization")
    weights = dict(form.weights) | ({"group_size": group} if group else {})
    inputs = args.QuantizationArgs(**form.inputs) if form.inputs else None
    return args.QuantizationScheme(
        targets=["Linear"], weights=args.QuantizationArgs(**weights), input_activations=inputs, format=form.name
    )


def _config(form: StoredFormat, targets: Mapping[int, list[str]]) -> dict[str, Any]:
    args: Any = importlib.import_module("compressed_tensors.quantization")
    groups = {
        f"group_{i}": _scheme(form, size).model_copy(update={"targets": [f"re:{regex}" for regex in regexes]})
        for i, (size, regexes) in enumerate(sorted(targets.items()))
    }
    config = args.QuantizationConfig(config_groups=groups, format=form.name, quantization_status="compressed")
    out: dict[str, Any] = config.model_dump(mode="json")
    return out | {"quant_method": "compressed-tensors"}


def _store(weight: Tensor, form: StoredFormat, group: int, scheme: Any) -> tuple[dict[str, Tensor], Tensor]:
    """Return the tensors of a linear by their names in it, and the weight that they give."""
    compressors: Any = importlib.import_module("compressed_tensors.compressors")
    compressor = compressors.BaseCompressor.get_value_from_registry(form.name)
    known = {"weight": weight.float(), **_scales(weight, form, group or weight.shape[1])}
    stored = compressor.compress(known, scheme)
    return stored, compressor.decompress(dict(stored), scheme)["weight"].to(weight.dtype)


def _scales(weight: Tensor, form: StoredFormat, group: int) -> dict[str, Tensor]:
    """Return the scales [out, groups] for which the weights are on the grid."""
    groups, shape = weight.float().unflatten(1, (-1, group)), (len(weight), -1)
    if form is NVFP4:
        tensor_scale = grids.NvFloat4().of(groups).tensor_scale or 1.0
        codes = _nvfp4_codes(groups, tensor_scale)
        return {"weight_scale": codes.view(shape), "weight_global_scale": torch.tensor([1 / tensor_scale])}
    if form is MXFP4:
        return {"weight_scale": grids.Microscaling(4).scale(groups).view(shape)}
    if form.weights["type"] == "float":
        return {"weight_scale": _float8_scales(weight, group).view(shape)}
    return {"weight_scale": restore_scales(weight.reshape(-1, group), form.weights["num_bits"])[0].float().view(shape)}


def _nvfp4_codes(groups: Tensor, tensor_scale: float) -> Tensor:
    """Return the scales of NVFP4 groups as multiples of the tensor's. Their largest weight is 6 times the scale, or, where
    GPTQ moved it after the scale was fixed, the first point that restores the group.
    """
    largest = groups.abs().amax(-1, keepdim=True)
    codes = grids.e4m3(largest / 6 / tensor_scale)
    found = torch.zeros_like(codes, dtype=torch.bool)
    for point in (6, 4, 3, 2, 1.5, 1, 0.5):
        tried = grids.e4m3(largest / point / tensor_scale)
        snapped = grids.NvFloat4().snap(groups, tried * tensor_scale)
        # rounding moves a weight by less than 1%, and another scale its largest by more than 2%
        hit = ~found & torch.isclose(snapped, groups, rtol=0.01, atol=0).all(-1, keepdim=True)
        codes, found = torch.where(hit, tried, codes), found | hit
        if found.all():
            break
    return codes


def _float8_scales(weight: Tensor, group: int) -> Tensor:
    """Return the scales of e4m3 weights, moved by a unit in the last place where only that restores the weights."""
    grid, rows = grids.Float8(), weight.reshape(-1, group)
    scale = first = grid.scale(rows.float())
    exact = (grid.snap(rows.float(), first).to(weight.dtype) == rows).all(1, keepdim=True)
    for ulps in (1, -1):
        moved = (first.bfloat16().view(torch.int16) + ulps).view(torch.bfloat16).float()
        hit = ~exact & (grid.snap(rows.float(), moved).to(weight.dtype) == rows).all(1, keepdim=True)
        scale, exact = torch.where(hit, moved, scale), exact | hit
    return scale
