"""Export a model to a folder: dense, packed24, ONNX, or in a format of another engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.export import stored_folder
from bench.export.integers import common_bits
from bench.export.results import RESULT_FORMATS
from bench.formats.adapter import AdapterCheckpoint
from bench.formats.stored import StoredFolder
from bench.inputs import architecture, models
from bench.kernels import folder24
from bench.kernels.integers24 import BITS, integers_of, pack_codes, pack_rounded
from bench.kernels.packed24 import pack, unpack
from bench.kernels.windows24 import group_of, to_windows
from bench.results.artifacts import find_pruned
from bench.results.record import Record
from bench.system.cache import in_use
from bench.system.files import atomic_folder
from bench.system.suggest import describe_unknown, shorten
from bench.system.text import amount
from methods import adapter
from methods.errors import UserError
from methods.families import FAMILIES
from methods.files import check_files, find_file
from methods.folder import INDEX, Folder, Writer, read_config
from methods.pattern import Pattern
from methods.quantizing.inputs import ACTIVATIONS_KEY
from methods.targets import family_of, find_targets

DEPLOYED_FORMATS = ("compressed-tensors", "gptq", "awq", "gguf")
"""Formats of other engines, whose files are loaded and compared."""
GGUF_TYPES = (
    "f16", "q8_0", "q4_0", "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k",
)  # fmt: skip
"""Types of GGUF. llama.cpp writes those that end in `_k`, `_s`, `_m` or `_l`."""
MODEL_FORMATS = ("hf", "stored", "packed24", "onnx", *DEPLOYED_FORMATS)
MODEL_CARD = "README.md"
SPARSITY_KEYS = ("sparsity_config", "compression_config")
"""Keys of config.json that loaders refuse, or take for formats that are no longer in use."""


def export_model(
    name: str,
    format_: str,
    out: Path,
    *,
    values: str | None = None,
    dtype: str | None = None,
    exclude: tuple[str, ...] = (),
    results: Path | None = None,
    merge: bool = False,
    imatrix: str | None = None,
    windows: str | None = None,
) -> str:
    """Write the model of a record, or a model folder, to `out`. Returns a sentence for the user.

    Args:
        values: integers that packed24 rounds to, int8 or int4, or the type of GGUF. None takes those of the record's
            quantizer, if any.
        dtype: for onnx: float32, float16 or bfloat16. None keeps the dtype of the weights.
        imatrix: corpus or file of text for the importance matrix of K-quants. None for none.
        windows: pattern of weights that packed24 stores as windows of 2:4, such as 6:8. None: they are 2:4.
        merge: add the low-rank terms of a model to its weights, which ends its pattern.
        exclude: globs of linears that packed24 leaves dense, besides those that the record left dense.

    Raises:
        UserError: no such model or format, `out` exists, a linear is not 2:4 or `windows`, or an option of another format.
        CheckFailed: a written file does not match the model.
    """
    _require_options(format_, values, dtype, exclude, windows, imatrix)
    with in_use(), atomic_folder(out) as workdir:
        folder, record = find_pruned(name, results)
        check_files(folder)
        if merge:
            folder, record = _merge(folder, workdir / "merged"), None
        elif format_ != "hf":
            adapter.refuse(folder)
        if format_ != "hf" and (folder / folder24.MANIFEST).exists():
            raise UserError(f"{folder} is packed24: turn it into a dense folder with --format hf, and export that")
        own: dict[str, Any] = {}
        if format_ == "onnx":
            # Here, because only this format needs transformers.
            from bench.export import onnx_model

            pattern = Pattern.parse(record.identity.pattern) if record else None
            summary = onnx_model.write(folder, workdir, dtype, pattern, *_targets_of(record))
        elif format_ in DEPLOYED_FORMATS:
            # Here, because only some formats need transformers.
            from bench.export import deployed

            summary, own = deployed.write(format_, folder, workdir, record, values, results, imatrix)
        elif format_ == "stored":
            summary, own = stored_folder.write(folder, workdir)
        elif format_ == "packed24":
            summary = _write_packed(folder, workdir, record, values, exclude, windows)
        else:
            summary = _write_dense(folder, workdir)
        if format_ != "gguf":
            _write_companions(folder, workdir, format_, own)
            if format_ in DEPLOYED_FORMATS and record:
                summary += deployed.check(format_, folder, workdir, record, results)
        if merge:
            shutil.rmtree(folder)
            summary += "; low-rank terms are merged, so the pattern of the weights ends"
    return f"{out}: {summary}"


def _targets_of(record: Record | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the globs of the linears that were pruned, and of those that were left dense."""
    return (record.identity.include, record.identity.exclude) if record else (("*",), ())


def _write_companions(folder: Path, workdir: Path, format_: str, own: dict[str, Any]) -> None:
    """Write the files beside the weights. own: keys of config.json that the format adds."""
    extra = (*models.COMPANIONS, MODEL_CARD) if format_ == "hf" else models.COMPANIONS
    _copy_files(folder, workdir, extra)
    left_out = (*SPARSITY_KEYS, *([ACTIVATIONS_KEY] if format_ in DEPLOYED_FORMATS else []))
    config = {key: value for key, value in read_config(folder).items() if key not in left_out}
    (workdir / "config.json").write_text(json.dumps(config | own, indent=2))


def _copy_files(folder: Path, target: Path, names: Iterable[str]) -> None:
    for file in filter(None, (find_file(folder, name) for name in names)):
        shutil.copyfile(file, target / file.name)


def _merge(folder: Path, target: Path) -> Path:
    """Write a model with its low-rank terms added to its weights. Return the folder. Raise UserError if it has none."""
    if not adapter.is_beside(folder):
        raise UserError(f"{folder} has no low-rank terms: leave --merge out")
    source = Folder(folder)
    merged, writer = AdapterCheckpoint(folder / adapter.FOLDER, source), Writer(target)
    writer.add_folded(source, merged.tensor, family_of(source.config))
    writer.close()
    _copy_files(folder, target, ("config.json", *models.COMPANIONS, MODEL_CARD))
    return target


def _require_options(
    format_: str,
    values: str | None,
    dtype: str | None,
    exclude: Sequence[str],
    windows: str | None,
    imatrix: str | None,
) -> None:
    """Refuse an unknown format, and options of another format."""
    if format_ not in MODEL_FORMATS:
        raise UserError(describe_unknown("format", format_, (*MODEL_FORMATS, *RESULT_FORMATS)))
    if values is not None and format_ == "onnx":
        raise UserError(
            f"--values {values} and --format onnx exclude each other: TensorRT has no 2:4 kernel for products with Q/DQ "
            "nodes; leave --values out, or use --format packed24"
        )
    for flag, value, needed in (
        ("--windows", windows, "packed24"),
        ("--exclude", ",".join(exclude) or None, "packed24"),
        ("--dtype", dtype, "onnx"),
        ("--imatrix", imatrix, "gguf"),
    ):
        if value is not None and format_ != needed:
            raise UserError(f"{flag} {shorten(value)} needs --format {needed}: leave it out")
    if windows is not None:
        group_of(windows)
    able = {"packed24": tuple(BITS), "gguf": GGUF_TYPES}
    if values is not None and values not in able.get(format_, ()):
        choices = "; ".join(f"with --format {name}, {', '.join(types)}" for name, types in able.items())
        raise UserError(f"invalid --values {values!r}: it must be, {choices}")


def _write_packed(
    folder: Path,
    workdir: Path,
    record: Record | None,
    values: str | None,
    exclude: tuple[str, ...],
    windows: str | None,
) -> str:
    """Write packed24, and return a sentence. The arguments are those of `export_model`."""
    codes = StoredFolder(folder)
    bits = common_bits(codes)
    own = next((kind for kind, width in BITS.items() if width == bits), None)
    grid, group = values or own, group_of(windows) if windows else 0
    if group and grid == "int4":
        raise UserError(
            f"--windows {windows} has no int4, whose scales are for groups of other weights: use --values int8"
        )
    source, (include, kept_dense) = Folder(folder), _targets_of(record)
    architecture.check(source)
    found = find_targets(source.config, source.shapes(), include, (*kept_dense, *exclude))
    targets = {f"{target}.weight" for target in found}
    writer = folder24.Writer24(workdir)
    weights = bytes_ = rounded = 0
    for name in source:
        weight = source.tensor(name)
        if name not in targets:
            writer.add(name, weight)
            continue
        stored = to_windows(weight, group, name) if group else weight
        target, exact = name.removesuffix(".weight"), True
        if grid is None:
            packed = pack(stored, name)
        elif grid == own and target in codes and not group:
            packed = pack_codes(stored, integers_of(codes[target]), name)
        else:
            packed = pack_rounded(stored, grid, name)
            exact = bool(torch.equal(unpack(packed), stored))
        writer.add_packed(name, packed, exact=exact, windows=group, width=weight.shape[1])
        weights, bytes_, rounded = weights + weight.numel(), bytes_ + packed.nbytes, rounded + (not exact)
    writer.close()
    summary = f"{len(targets)} linears packed, {8 * bytes_ / weights:.4g} bits per weight"
    if group:
        n = group // 2
        summary += (
            f", as windows of 2:4: a kernel repeats inputs to {2 * (n - 1) / n:.4g} times their number, and has "
            f"{(n - 1) / n:.4g} of the dense arithmetic, at most {n / (n - 1):.3g} times as fast"
        )
    if grid is not None:
        summary += f"; {rounded} of them were rounded to {grid}" if rounded else f"; all were on {grid} grids already"
    elif codes:
        summary += "; packed24 has integers of 8 and 4 bits alone, so values are stored as floats"
    return summary


def _write_dense(folder: Path, workdir: Path) -> str:
    """Write safetensors, unpacked or copied, with low-rank terms beside them. Return a sentence."""
    if (folder / folder24.MANIFEST).exists():
        source, writer = folder24.Folder24(folder), Writer(workdir)
        writer.add_folded(source, source.tensor, FAMILIES.get(source.config.get("model_type", "")))
        writer.close()
        return f"{sum(e.kind != 'dense' for e in source.entries.values())} linears unpacked to dense"
    family_of(read_config(folder))  # it refuses the integers of another format
    files, index = Folder(folder).files(), folder / INDEX
    for file in (*files, *([index] if index.exists() else [])):
        shutil.copyfile(file, workdir / file.name)
    adapter.copy(folder, workdir)
    terms = f", and their low-rank terms in {adapter.FOLDER}, which peft loads" if adapter.is_beside(workdir) else ""
    return f"{amount(len(files), 'file')} of dense safetensors{terms}"
