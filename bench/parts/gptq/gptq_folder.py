"""Export integer weights in the layouts of GPTQ and AWQ."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.formats.contract import ModelSource
from bench.formats.loaded import SENTENCE, compare_folders, describe_size
from bench.formats.stored import StoredFolder
from bench.formats.stored_grids import describe_outer, grids_of, require_linears
from bench.inputs import loading
from bench.inputs.models import TOKENIZER_FILES
from bench.parts.gptq.codec import AwqCodec, GptqCodec
from bench.system.devices import memory_bytes
from bench.verify import FUNCTION_TOLERANCE, CheckFailed
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.model.folder import Folder, Writer
from methods.model.targets import as_regexes, family_of, find_targets
from methods.workshop.quantizing.grid_codec import GridCodec
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY

CODECS: dict[str, type[GptqCodec]] = {"gptq": GptqCodec, "awq": AwqCodec}
LOADERS = {"gptq": ("gptqmodel", "optimum"), "awq": ("gptqmodel",)}
"""Packages with which transformers loads each format."""
INSTEAD = "--format compressed-tensors"
"""Format for a model that float16 cannot hold."""


def write(folder: Path, workdir: Path, kind: str) -> tuple[str, dict[str, Any]]:
    """Write a quantized model folder. kind: gptq or awq. Return a sentence, and keys of
    config.json.

    Each linear is decoded again and compared, bit for bit. All linears get one group, the largest
    that divides every group of the row, because the formats have one: scales are repeated. Floats
    are stored in float16, in which the loaders compute.

    Raises:
        UserError: the folder has no integers of that format, or the architecture is stored in
            another way.
        CheckFailed: a decoded weight differs.
    """
    source, stored = Folder(folder), StoredFolder(folder)
    require_linears(source, kind)
    if source.config.get(ACTIVATIONS_KEY):
        raise UserError(
            f"{folder} rounds inputs of linears while it runs, which {kind} has not: use {INSTEAD}"
        )
    grids = grids_of(stored, kind)
    bits = _bits_of(grids, kind)
    is_by_row = all(stored.shape(target)[1] == grid.group for target, grid in grids.items())
    group = 0 if is_by_row else math.gcd(*(grid.group for grid in grids.values()))
    config = _config(source, kind, set(grids), bits, group)
    codec = CODECS[kind](config)
    writer = Writer(workdir)
    for name in source:
        tensor, target = source.tensor(name), name.removesuffix(".weight")
        if target not in grids:
            half = tensor.half() if tensor.is_floating_point() else tensor
            if half.is_floating_point() and not bool(half.isfinite().all()):
                raise UserError(
                    f"{name} has values beyond float16, which {kind} folders have: use {INSTEAD}"
                )
            writer.add(name, half)
            continue
        codes, scales = stored[target].parts["codes"], stored[target].parts["scales"]
        if group:
            scales = scales.repeat_interleave(grids[target].group // group, 1)
        parts = codec.encode(codes, scales, target)
        if not torch.equal(codec.decode(parts).to(tensor.dtype), tensor):
            raise CheckFailed(
                f"{name} reads back with other values, because a scale is too small for float16"
            )
        for leaf, part in parts.items():
            writer.add(f"{target}.{leaf}", part)
    writer.close()
    said = f"{len(grids)} linears stored as {kind}, read back bit for bit"
    said += describe_outer(stored, kind)
    return said, {"quantization_config": config, "dtype": "float16"}


def _bits_of(grids: Mapping[str, GridCodec], kind: str) -> int:
    """Return the bits of all linears. Raise UserError if they are not integers of one size that the
    format has."""
    widths = CODECS[kind].widths
    kinds = {(grid.grid, grid.width) for grid in grids.values()}
    if len(kinds) > 1 or not kinds <= {("integer", bits) for bits in widths}:
        found = ", ".join(f"{grid} of {bits} bits" for grid, bits in sorted(kinds))
        sizes = ", ".join(map(str, widths))
        raise UserError(
            f"{kind} has integers of {sizes} bits, and these weights are {found}: use --format "
            "stored"
        )
    return kinds.pop()[1]


def check(kind: str, model: ModelSource, workdir: Path) -> str:
    """Load a written folder with transformers where it can. Return sentences about its logits and
    its size, "" without a record."""
    if not model.record:
        return ""
    packages = LOADERS[kind]
    if all(importlib.util.find_spec(package) for package in packages):
        said = compare_folders(model.folder, workdir, "float32", FUNCTION_TOLERANCE["float16"])
    else:
        said = _check_float16(model.folder, kind)
        said += f"; not loaded by transformers, which needs pip install {' '.join(packages)}"
    return said + describe_size(model, workdir)


def _check_float16(folder: Path, kind: str) -> str:
    """Refuse a model that overflows in float16, as loaders of a format compute. Return a sentence
    if it is unknown here."""
    if sum(file.stat().st_size for file in Folder(folder).files()) > memory_bytes() / 2:
        return "; not computed in float16, because the model takes more than half of the memory"
    ids = list(range(32))
    if any((folder / name).exists() for name in TOKENIZER_FILES):
        ids = loading.load_tokenizer(folder)(SENTENCE)["input_ids"]
    model = loading.load(folder, Compute(dtype=torch.float16))
    if not bool(model(input_ids=torch.tensor(ids)[None]).logits.isfinite().all()):
        raise CheckFailed(
            f"this model overflows in float16, in which {kind} folders are computed: use {INSTEAD}"
        )
    return ""


def _config(source: Folder, kind: str, stored: set[str], bits: int, group: int) -> dict[str, Any]:
    left = sorted(set(find_targets(source.config, source.shapes())) - stored)
    if kind == "awq":
        about: dict[str, Any] = {"quant_method": "awq", "version": "gemm", "zero_point": True}
        return {**about, "bits": 4, "group_size": group, "modules_to_not_convert": left or None}
    about = {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "sym": True,
        "desc_act": False,
        "lm_head": False,
        "bits": bits,
        "group_size": group or -1,
    }
    if left:
        regexes = as_regexes(left, family_of(source.config))
        about["dynamic"] = {f"-:{regex}": {} for regex in regexes}
    return about
