"""Export a model to a folder: dense, packed24, ONNX, or in a format of another engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.export.results import RESULT_FORMATS
from bench.formats.adapter import AdapterCheckpoint
from bench.inputs import models
from bench.kernels import folder24
from bench.kernels.integers24 import BITS, pack_rounded
from bench.kernels.packed24 import pack
from bench.kernels.windows24 import group_of, to_windows
from bench.results.artifacts import find_pruned
from bench.results.reproduce import integer_grid
from bench.system.cache import in_use
from bench.system.files import atomic_folder
from bench.system.suggest import describe_unknown, shorten
from bench.system.text import amount
from methods import adapter
from methods.errors import UserError
from methods.experts import fold
from methods.families import FAMILIES
from methods.files import check_files, find_file
from methods.folder import INDEX, Folder, Writer, read_config
from methods.pattern import Pattern
from methods.quantizing.stored import ACTIVATIONS_KEY
from methods.targets import family_of, find_targets

DEPLOYED_FORMATS = ("compressed-tensors", "gptq", "awq", "gguf")
"""Formats of other engines, whose files are loaded and compared."""
GGUF_TYPES = (
    "f16",
    "q8_0",
    "q4_0",
    "q2_k",
    "q3_k_s",
    "q3_k_m",
    "q3_k_l",
    "q4_k_s",
    "q4_k_m",
    "q5_k_s",
    "q5_k_m",
    "q6_k",
)
"""Types of GGUF. llama.cpp writes those that end in `_k`, `_s`, `_m` or `_l`."""
MODEL_FORMATS = ("hf", "packed24", "onnx", *DEPLOYED_FORMATS)
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
    _require_options(format_, values, dtype, exclude, windows)
    if imatrix is not None and format_ != "gguf":
        raise UserError(f"--imatrix {shorten(imatrix)} needs --format gguf: leave it out")
    with in_use(), atomic_folder(out) as workdir:
        folder, record = find_pruned(name, results)
        check_files(folder)
        if merge:
            folder, record = _merge(folder, workdir / "merged"), None
        elif format_ != "hf":
            adapter.refuse(folder)
        packed = (folder / folder24.MANIFEST).exists()
        if packed and format_ != "hf":
            raise UserError(f"{folder} is packed24: turn it into a dense folder with --format hf, and export that")
        own: dict[str, Any] | None = {}
        include, kept_dense = (record.identity.include, record.identity.exclude) if record else (("*",), ())
        if format_ == "onnx":
            # Here, because only this format needs transformers.
            from bench.export import onnx_model

            pattern = Pattern.parse(record.identity.pattern) if record else None
            summary = onnx_model.write(folder, workdir, dtype, pattern, include, kept_dense)
        elif format_ in DEPLOYED_FORMATS:
            # Here, because only some formats need transformers.
            from bench.export import deployed

            summary, own = deployed.write(format_, folder, workdir, record, values, results, imatrix)
            if own is None:
                return f"{out}: {summary}{_end_merge(folder) if merge else ''}"
        elif format_ == "packed24":
            quantizer = record.identity.quantizer if record else "none"
            grid = values or integer_grid(quantizer)
            group = group_of(windows) if windows else 0
            if group and grid == "int4":
                raise UserError(
                    f"--windows {windows} has no int4, whose scales are for groups of other weights: use --values int8"
                )
            summary = _write_packed(folder, workdir, grid, include, (*kept_dense, *exclude), group)
            if quantizer != "none" and not grid:
                summary += f"; packed24 has no integers for {quantizer}, so values are stored as floats"
        elif packed:
            summary = _write_dense(folder, workdir)
        else:
            summary = _copy_weights(folder, workdir)
            adapter.copy(folder, workdir)
            if adapter.is_beside(workdir):
                summary += f", and their low-rank terms in {adapter.FOLDER}, which peft loads"
        extra = (*models.COMPANIONS, MODEL_CARD) if format_ == "hf" else models.COMPANIONS
        for file in filter(None, (find_file(folder, companion) for companion in extra)):
            shutil.copyfile(file, workdir / file.name)
        config = {key: value for key, value in read_config(folder).items() if key not in SPARSITY_KEYS}
        if format_ in DEPLOYED_FORMATS:
            config = {k: v for k, v in config.items() if k != ACTIVATIONS_KEY} | (own or {})
        (workdir / "config.json").write_text(json.dumps(config, indent=2))
        if format_ in DEPLOYED_FORMATS and record:
            summary += deployed.check(format_, folder, workdir, record, results)
        summary += _end_merge(folder) if merge else ""
    return f"{out}: {summary}"


def _merge(folder: Path, target: Path) -> Path:
    """Write a model with its low-rank terms added to its weights. Return the folder. Raise UserError if it has none."""
    if not adapter.is_beside(folder):
        raise UserError(f"{folder} has no low-rank terms: leave --merge out")
    source = Folder(folder)
    merged, writer = AdapterCheckpoint(folder / adapter.FOLDER, source), Writer(target)
    for name, tensor in fold(source, merged.tensor, family_of(source.config)):
        writer.add(name, tensor)
    writer.close()
    for file in filter(None, (find_file(folder, name) for name in ("config.json", *models.COMPANIONS, MODEL_CARD))):
        shutil.copyfile(file, target / file.name)
    return target


def _end_merge(folder: Path) -> str:
    """Remove the folder of `_merge`. Return a sentence."""
    shutil.rmtree(folder)
    return "; low-rank terms are merged, so the pattern of the weights ends"


def _require_options(
    format_: str, values: str | None, dtype: str | None, exclude: Sequence[str], windows: str | None
) -> None:
    """Refuse an unknown format, and options of another format."""
    if format_ not in MODEL_FORMATS:
        raise UserError(describe_unknown("format", format_, (*MODEL_FORMATS, *RESULT_FORMATS)))
    if values is not None and format_ == "onnx":
        raise UserError(
            f"--values {values} and --format onnx exclude each other: TensorRT has no 2:4 kernel for products with Q/DQ "
            "nodes; leave --values out, or use --format packed24"
        )
    if windows is not None:
        if format_ != "packed24":
            raise UserError(f"--windows {shorten(windows)} needs --format packed24: leave it out")
        group_of(windows)
    if exclude and format_ != "packed24":
        raise UserError(f"--exclude {shorten(','.join(exclude))} needs --format packed24: leave it out")
    if dtype is not None and format_ != "onnx":
        raise UserError(f"invalid --dtype {shorten(dtype)!r}: it needs --format onnx; leave it out")
    able = {"packed24": tuple(BITS), "gguf": GGUF_TYPES}
    if values is not None and values not in able.get(format_, ()):
        choices = "; ".join(f"with --format {name}, {', '.join(types)}" for name, types in able.items())
        raise UserError(f"invalid --values {values!r}: it must be, {choices}")


def _write_packed(
    folder: Path, workdir: Path, values: str | None, include: tuple[str, ...], exclude: tuple[str, ...], group: int
) -> str:
    """Write packed24, and return a sentence. group: 2N of weights that are stored as windows, or 0."""
    source = Folder(folder)
    transposed = family_of(source.config).transposed
    targets = {t + ".weight": t for t in find_targets(source.config, source.shapes(), include, exclude)}
    writer = folder24.Writer24(workdir)
    weights = bytes_ = rounded = 0
    for name in source:
        if name not in targets:
            writer.add(name, source.tensor(name))
            continue
        weight = source.weight(targets[name])
        stored = to_windows(weight, group, name) if group else weight
        packed, exact = (pack(stored, name), True) if values is None else pack_rounded(stored, values, name)
        writer.add_packed(name, packed, transposed=transposed, exact=exact, windows=group, width=weight.shape[1])
        weights, bytes_, rounded = weights + weight.numel(), bytes_ + packed.nbytes, rounded + (not exact)
    writer.close()
    summary = f"{len(targets)} linears packed, {8 * bytes_ / weights:.4g} bits per weight"
    if group:
        n = group // 2
        summary += (
            f", as windows of 2:4: a kernel repeats inputs to {2 * (n - 1) / n:.4g} times their number, and has "
            f"{(n - 1) / n:.4g} of the dense arithmetic, at most {n / (n - 1):.3g} times as fast"
        )
    if values is None:
        return summary
    return f"{summary}; " + (
        f"{rounded} of them were rounded to {values}" if rounded else f"all were on {values} grids already"
    )


def _write_dense(folder: Path, workdir: Path) -> str:
    source, writer = folder24.Folder24(folder), Writer(workdir)
    for name, tensor in fold(source, source.tensor, FAMILIES.get(read_config(folder).get("model_type", ""))):
        writer.add(name, tensor)
    writer.close()
    return f"{sum(e.kind != 'dense' for e in source.entries.values())} linears unpacked to dense"


def _copy_weights(folder: Path, workdir: Path) -> str:
    files = Folder(folder).files()
    index = folder / INDEX
    for file in (*files, *([index] if index.exists() else [])):
        shutil.copyfile(file, workdir / file.name)
    return f"{amount(len(files), 'file')} of dense safetensors"
