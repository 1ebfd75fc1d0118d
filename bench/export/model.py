"""Export a pruned model to a folder: dense, for transformers and vLLM; packed24; or ONNX."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from bench.export.results import RESULT_FORMATS
from bench.inputs import models
from bench.kernels import folder24
from bench.kernels.integers24 import BITS, pack_rounded
from bench.kernels.packed24 import pack
from bench.results.artifacts import find_pruned
from bench.system.cache import in_use
from bench.system.files import atomic_folder
from bench.system.suggest import describe_unknown, shorten
from methods.errors import UserError
from methods.experts import fold
from methods.families import FAMILIES
from methods.files import check_files, find_file
from methods.folder import INDEX, Folder, Writer, read_config
from methods.pattern import Pattern
from methods.targets import family_of, find_targets

MODEL_FORMATS = ("hf", "packed24", "onnx")
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
) -> str:
    """Write the model of a record, or a model folder, to `out`. Returns a sentence for the user.

    Args:
        values: for packed24: "int8" and "int4" round them to integer grids, None does not.
        dtype: for onnx: float32, float16 or bfloat16; None keeps that of the weights.
        exclude: globs of linears that packed24 leaves dense, besides those that the record left dense.

    Raises:
        UserError: no such model or format; `out` exists; a linear is not 2:4; what the format has no option for.
        CheckFailed: a file that was written is not the model.
    """
    if format_ not in MODEL_FORMATS:
        raise UserError(describe_unknown("format", format_, (*MODEL_FORMATS, *RESULT_FORMATS)))
    if values is not None and format_ == "onnx":
        raise UserError(
            f"--values {values} and --format onnx exclude each other: integers are Q/DQ nodes there, and TensorRT takes no "
            "2:4 kernel for a product that has them; leave --values out, or use --format packed24"
        )
    if exclude and format_ != "packed24":
        raise UserError(f"--exclude {shorten(','.join(exclude))} needs --format packed24: leave it out")
    if dtype is not None and format_ != "onnx":
        raise UserError(f"invalid --dtype {shorten(dtype)!r}: it needs --format onnx; leave it out")
    if values is not None and (values not in BITS or format_ != "packed24"):
        raise UserError(f"invalid --values {values!r}: it must be int8 or int4, and needs --format packed24")
    with in_use(), atomic_folder(out) as workdir:
        folder, include, not_pruned, pattern = _source(name, results)
        check_files(folder)
        packed = (folder / folder24.MANIFEST).exists()
        if packed and format_ == "packed24":
            raise UserError(f"{folder} is packed24 already: use --format hf, or copy it")
        if packed and format_ == "onnx":
            raise UserError(f"{folder} is packed24: turn it into a dense folder with --format hf, and export that")
        if format_ == "onnx":
            from bench.export import onnx_model  # here, so that the other formats need no transformers

            summary = onnx_model.write(folder, workdir, dtype, pattern, include, not_pruned)
        elif packed:
            summary = _write_dense(folder, workdir)
        elif format_ == "hf":
            summary = _copy_weights(folder, workdir)
        else:
            summary = _write_packed(folder, workdir, values, include, (*not_pruned, *exclude))
        _copy_extra_files(folder, workdir)
    return f"{out}: {summary}"


def _source(name: str, results: Path | None) -> tuple[Path, tuple[str, ...], tuple[str, ...], Pattern | None]:
    """The model's folder; the globs of its targets, included and excluded; and its pattern, where a record says it."""
    folder, record = find_pruned(name, results)
    if record is None:
        return folder, ("*",), (), None
    identity = record.identity
    return folder, identity.include, identity.exclude, Pattern.parse(identity.pattern)


def _write_packed(
    folder: Path, workdir: Path, values: str | None, include: tuple[str, ...], exclude: tuple[str, ...]
) -> str:
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
        packed, exact = (pack(weight, name), True) if values is None else pack_rounded(weight, values, name)
        writer.add_packed(name, packed, transposed=transposed, exact=exact)
        weights, bytes_, rounded = weights + weight.numel(), bytes_ + packed.nbytes, rounded + (not exact)
    writer.close()
    summary = f"{len(targets)} linears packed, {8 * bytes_ / weights:.4g} bits per weight"
    if values is None:
        return summary
    return summary + (
        f"; {rounded} of them were rounded to {values}" if rounded else f"; all were on {values} grids already"
    )


def _write_dense(folder: Path, workdir: Path) -> str:
    source, writer = folder24.Folder24(folder), Writer(workdir)
    for name, tensor in fold(source, source.tensor, FAMILIES.get(read_config(folder).get("model_type", ""))):
        writer.add(name, tensor)
    writer.close()
    return f"{sum(e.kind != 'dense' for e in source.entries.values())} linears unpacked to dense"


def _copy_weights(folder: Path, workdir: Path) -> str:
    source = Folder(folder)
    for file in source.files():
        shutil.copyfile(file, workdir / file.name)
    if (folder / INDEX).exists():
        shutil.copyfile(folder / INDEX, workdir / INDEX)
    return f"{len(source.files())} files of dense safetensors"


def _copy_extra_files(folder: Path, workdir: Path) -> None:
    for name in models.COMPANIONS:
        if file := find_file(folder, name):
            shutil.copyfile(file, workdir / name)
    config = read_config(folder)
    (workdir / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if k not in SPARSITY_KEYS}, indent=2)
    )
