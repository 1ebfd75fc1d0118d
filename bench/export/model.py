"""`bench export`: a pruned model as a folder for others, dense for transformers and vLLM, or packed24."""

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
from bench.system.suggest import describe_unknown
from methods.errors import UserError
from methods.folder import INDEX, Folder, Writer
from methods.targets import family_of, find_targets

MODEL_FORMATS = ("hf", "packed24")
CARRIED = ("generation_config.json", "chat_template.jinja", *models.TOKENIZER_FILES)
SPARSE = ("sparsity_config", "compression_config")
"""Keys of a config.json that loaders refuse, or read as formats nobody reads any more."""


def export_model(
    name: str,
    format_: str,
    out: Path,
    *,
    values: str | None = None,
    exclude: tuple[str, ...] = (),
    results: Path | None = None,
) -> str:
    """Write the model of a record, or a model folder, to `out`; returns a sentence for the user.

    Args:
        values: of packed24: None keeps them as they are, "int8" and "int4" put them on integer grids.
        exclude: globs of linears that packed24 leaves dense; those a record left dense are left out anyway.

    Raises:
        UserError: no such model or format; `out` is taken; a linear that is not 2:4.
    """
    if format_ not in MODEL_FORMATS:
        raise UserError(describe_unknown("format", format_, (*MODEL_FORMATS, *RESULT_FORMATS)))
    if values is not None and (values not in BITS or format_ != "packed24"):
        raise UserError(f"--values {values!r} will not do: it is int8 or int4, of --format packed24 alone")
    with in_use(), atomic_folder(out) as room:
        folder, include, left = _source(name, results)
        packed = (folder / folder24.MANIFEST).exists()
        if packed and format_ == "packed24":
            raise UserError(f"{folder} is packed24 already: take --format hf, or copy it")
        if packed:
            told = _unpacked(folder, room)
        elif format_ == "hf":
            told = _copied(folder, room)
        else:
            told = _packed(folder, room, values, include, (*left, *exclude))
        _carry(folder, room)
    return f"{out}: {told}"


def _source(name: str, results: Path | None) -> tuple[Path, tuple[str, ...], tuple[str, ...]]:
    """The folder, and which of its linears were targets."""
    folder, record = find_pruned(name, results)
    if record is None:
        return folder, ("*",), ()
    return folder, record.identity.include, record.identity.exclude


def _packed(folder: Path, room: Path, values: str | None, include: tuple[str, ...], exclude: tuple[str, ...]) -> str:
    source = Folder(folder)
    transposed = family_of(source.config).transposed
    targets = {t + ".weight": t for t in find_targets(source.config, source.shapes(), include, exclude)}
    writer = folder24.Writer24(room)
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
    told = f"{len(targets)} linears packed, {8 * bytes_ / weights:.4g} bits a weight"
    if values is None:
        return told
    return told + (
        f"; {rounded} of them were rounded to {values}" if rounded else f"; every one was on a grid of {values}"
    )


def _unpacked(folder: Path, room: Path) -> str:
    source, writer = folder24.Folder24(folder), Writer(room)
    for name in source:
        writer.add(name, source.tensor(name))
    writer.close()
    return f"{sum(e.kind != 'dense' for e in source.entries.values())} linears unpacked, stored dense"


def _copied(folder: Path, room: Path) -> str:
    source = Folder(folder)
    for file in source.files():
        shutil.copyfile(file, room / file.name)
    if (folder / INDEX).exists():
        shutil.copyfile(folder / INDEX, room / INDEX)
    return f"{len(source.files())} files of dense safetensors"


def _carry(folder: Path, room: Path) -> None:
    for name in CARRIED:
        if (folder / name).exists():
            shutil.copyfile(folder / name, room / name)
    config = json.loads((folder / "config.json").read_text())
    (room / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in SPARSE}, indent=2))
