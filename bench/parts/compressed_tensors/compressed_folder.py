"""Export quantized weights in the format of compressed-tensors, which vLLM and transformers
load."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.formats.contract import ModelSource
from bench.formats.loaded import compare_folders, describe_size
from bench.formats.stored import StoredFolder
from bench.formats.stored_grids import describe_outer, grids_of, require_linears
from bench.parts.compressed_tensors.codec import CompressedTensorsCodec
from bench.system.grouping import group_by
from bench.system.packages import pip_install, require
from bench.verify import FUNCTION_TOLERANCE
from methods.contract.errors import UserError
from methods.model.folder import Folder, Writer
from methods.model.targets import as_regexes, family_of
from methods.workshop.quantizing.grid_codec import GridCodec
from methods.workshop.quantizing.grids import e4m3_points
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY


@dataclass(frozen=True)
class StoredFormat:
    """Storage format of a quantizer's weights. `weights` and `inputs` are QuantizationArgs of
    compressed-tensors."""

    name: str
    """Name of the format in compressed-tensors."""
    weights: Mapping[str, Any]
    inputs: Mapping[str, Any] | None = None
    block: int = 0
    """Largest number of weights for which engines read a scale. 0: any."""


INT = {"type": "int", "symmetric": True}
FLOAT = {"type": "float", "symmetric": True}
TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
MXFP4 = StoredFormat(
    "mxfp4-pack-quantized",
    {"num_bits": 4, **FLOAT, "strategy": "group", "scale_dtype": torch.uint8},
    block=32,
)
NVFP4 = StoredFormat(
    "nvfp4-pack-quantized",
    {"num_bits": 4, **FLOAT, "strategy": "tensor_group", "scale_dtype": torch.float8_e4m3fn},
    block=16,
)
STORED_FORMATS = {
    ("integer", 8, ""): StoredFormat(
        "pack-quantized", {"num_bits": 8, **INT, "strategy": "channel"}
    ),
    ("integer", 8, "int8"): StoredFormat(
        "int-quantized", {"num_bits": 8, **INT, "strategy": "channel"}, TOKEN
    ),
    ("float8", 8, ""): StoredFormat(
        "float-quantized", {"num_bits": 8, **FLOAT, "strategy": "channel"}
    ),
    ("integer", 4, ""): StoredFormat("pack-quantized", {"num_bits": 4, **INT, "strategy": "group"}),
    ("microscaling", 4, ""): MXFP4,
    ("nvfp4", 4, ""): NVFP4,
}
"""Formats by kind of the grid, its bits, and the rounding of inputs."""
FP4 = (MXFP4, NVFP4)
"""Formats whose loaders compute in bfloat16, so that the other tensors are stored in it."""
INPUTS_TOLERANCE = 0.05
"""Largest relative change of logits where inputs are rounded while the model runs."""


def write(folder: Path, workdir: Path) -> tuple[str, dict[str, Any]]:
    """Write the weights of a quantized model folder. Return a sentence, and keys of config.json.

    Each weight is decoded again and compared. Refuse stored weights without such a format, and
    weights [in, out].
    """
    require("compressed_tensors", what="compressed-tensors", how=pip_install("compressed-tensors"))
    source, stored = Folder(folder), StoredFolder(folder)
    require_linears(source, "compressed-tensors")
    grids, form = grids_of(stored, "compressed-tensors"), form_of(source)
    family = family_of(source.config)
    if form.weights["strategy"] == "channel":
        sizes = dict.fromkeys(grids, 0)
    else:
        sizes = {target: grid.group for target, grid in grids.items()}
    if form.block and (largest := max(sizes.values())) > form.block:
        raise UserError(
            f"engines read {form.name} with a scale for {form.block} weights, and here one covers "
            f"{largest}, as under pairs:4:8: use --format stored"
        )
    groups = group_by(grids, sizes.__getitem__)
    schemes = {size: _scheme(form, size) for size in groups}
    writer, near, again = Writer(workdir), 0, 0
    computed = "bfloat16" if form in FP4 else source.dtype
    for name in source:
        target, weight = name.removesuffix(".weight"), source.tensor(name)
        if target not in grids:
            if form in FP4 and weight.is_floating_point():
                weight = weight.bfloat16()
            writer.add(name, weight)
            continue
        scheme, own = schemes[sizes[target]], stored[target].parts
        parts = _compress(weight, form, grids[target], own, scheme)
        # Loaders multiply in the dtype of the scale, so scales of a float32 model stay float32.
        if own["scales"].dtype == weight.dtype == torch.bfloat16:
            parts["weight_scale"] = parts["weight_scale"].bfloat16()
        restored = _codec(form, scheme).decode(parts).to(weight.dtype)
        if not torch.equal(restored, weight):
            epsilon = torch.finfo(getattr(torch, computed)).eps
            is_near = torch.allclose(restored, weight, rtol=epsilon, atol=0)
            near, again = near + is_near, again + (not is_near)
        for leaf, tensor in parts.items():
            writer.add(f"{target}.{leaf}", tensor)
    writer.close()
    regexes = {size: as_regexes(names, family) for size, names in groups.items()}
    config: dict[str, Any] = {"quantization_config": _config(form, regexes)}
    if form in FP4:
        config["dtype"] = "bfloat16"
    said = f"{len(grids)} linears stored as {form.name}"
    if near:
        said += f"; {near} of them differ in the last bit of {computed}"
    if again:
        said += f"; {again} of them rounded again"
    said += describe_outer(stored, "compressed-tensors")
    return said, config


def form_of(source: Folder) -> StoredFormat:
    """Return the format of a quantized model folder. Raise UserError if compressed-tensors has none
    for it."""
    codecs = grids_of(StoredFolder(source.path), "compressed-tensors")
    inputs = source.config.get(ACTIVATIONS_KEY, {}).get("format", "")
    kinds = {(codec.grid, codec.width, inputs) for codec in codecs.values()}
    if len(kinds) > 1 or not kinds <= STORED_FORMATS.keys():
        and_inputs = " and inputs" if inputs else ""
        found = ", ".join(f"{grid} of {bits} bits{and_inputs}" for grid, bits, _ in sorted(kinds))
        able = ", ".join(
            f"{grid} of {bits} bits" for grid, bits, rounding in STORED_FORMATS if not rounding
        )
        raise UserError(
            f"compressed-tensors has no format for {found}: it has {able}; use --format stored"
        )
    return STORED_FORMATS[kinds.pop()]


def check(model: ModelSource, workdir: Path) -> str:
    """Load a written folder with transformers. Return sentences about its logits and its size, ""
    without a record."""
    if not model.record:
        return ""
    source = Folder(model.folder)
    form = form_of(source)
    computed = "bfloat16" if form in FP4 else source.dtype
    # Engines round an input by another scale than ours: max|x| / 127.5, say, and not / 127.
    tolerance = INPUTS_TOLERANCE if form.inputs else FUNCTION_TOLERANCE[computed]
    said = compare_folders(model.folder, workdir, computed, tolerance)
    return said + describe_size(model, workdir)


def _scheme(form: StoredFormat, group: int) -> Any:
    args: Any = importlib.import_module("compressed_tensors.quantization")
    weights = dict(form.weights)
    if group:
        weights["group_size"] = group
    inputs = args.QuantizationArgs(**form.inputs) if form.inputs else None
    return args.QuantizationScheme(
        targets=["Linear"],
        weights=args.QuantizationArgs(**weights),
        input_activations=inputs,
        format=form.name,
    )


def _config(form: StoredFormat, targets: Mapping[int, list[str]]) -> dict[str, Any]:
    args: Any = importlib.import_module("compressed_tensors.quantization")
    groups = {}
    for i, (size, regexes) in enumerate(sorted(targets.items())):
        patterns = [f"re:{regex}" for regex in regexes]
        groups[f"group_{i}"] = _scheme(form, size).model_copy(update={"targets": patterns})
    config = args.QuantizationConfig(
        config_groups=groups, format=form.name, quantization_status="compressed"
    )
    out: dict[str, Any] = config.model_dump(mode="json")
    return out | {"quant_method": "compressed-tensors"}


def _codec(form: StoredFormat, scheme: Any) -> CompressedTensorsCodec:
    """Return the codec of linears with one scheme."""
    group = scheme.model_dump(mode="json")
    return CompressedTensorsCodec({"format": form.name, "config_groups": {"group_0": group}})


def _compress(
    weight: Tensor, form: StoredFormat, grid: GridCodec, stored: Mapping[str, Tensor], scheme: Any
) -> dict[str, Tensor]:
    """Return the parts of a linear by their names in it. stored: its parts on the grid."""
    compressors: Any = importlib.import_module("compressed_tensors.compressors")
    compressor = compressors.BaseCompressor.get_value_from_registry(form.name)
    known = {"weight": weight.float(), "weight_scale": grid.scales(stored)}
    shared = stored.get("tensor_scale")
    if shared is not None:
        # It has the scales of groups as multiples of the tensor's, which it divides by.
        known["weight_scale"] = e4m3_points(stored["scales"])
        known["weight_global_scale"] = 1 / shared.where(shared != 0, 1)
    parts: dict[str, Tensor] = compressor.compress(known, scheme)
    return parts
