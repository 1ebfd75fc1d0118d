"""Facts of a written folder: its format, its weights, and what they leave uncompressed."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

from bench.catalog.choice import as_typed, parse_quantizer
from bench.formats.checkpoint import Checkpoint
from bench.formats.opening import open_checkpoint
from bench.results.identity import Identity
from bench.system.text import amount
from methods.contract.errors import UserError
from methods.model.families import FAMILIES
from methods.model.folder import HEADS, INDEX, WEIGHTS, read_config
from methods.model.safe_files import find_file
from methods.model.targets import find_targets
from methods.workshop.quantizing.inputs import CACHE_KEY

FULL_BITS = 16
"""Bits from which on a weight counts as not compressed."""
CACHES = ("kv8", "kv4")
"""Quantizers that round the KV cache alone."""
OURS = ("README.md", "fidelity.json")
"""Files of a card, which the receipt does not list."""
PICTURES = ("fidelity.svg", "fidelity.png")
"""Figures of `bench fidelity --figure` that a card shows."""


@dataclass(frozen=True)
class Contents:
    """Facts about the files of a model."""

    form: str
    """Format in words, "" if no reader opens it."""
    library: str
    """Library on the hub that loads the files, "" if it has none."""
    quantized: bool
    kept: tuple[str, ...]
    """Sentences about the embeddings, the head, the linears and the KV cache."""
    picture: str
    """Name of a figure in the folder, "" without one."""


def inspect(folder: Path, identity: Identity | None) -> Contents:
    """Return facts about a model folder. identity: that of its row, which speaks for a format that
    no reader opens."""
    opened = _open(folder)
    if opened is None:
        kept = _kept_by_row(identity) if identity else ()
        form = "ONNX" if list(folder.glob("*.onnx")) else ""
    else:
        kept, form = _kept_in_files(opened), opened.form
    picture = next((name for name in PICTURES if (folder / name).is_file()), "")
    is_quantized = bool(opened and opened.is_quantized) or (
        identity is not None and identity.quantizer != "none"
    )
    return Contents(
        form, _library(folder), is_quantized, (*kept, _cache(folder, identity)), picture
    )


def weight_files(folder: Path) -> list[Path]:
    """Return the regular files of a model folder, without those of a card. Links are left out."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    return sorted(file for file in files if not _is_ours(file.relative_to(folder)))


def _is_ours(path: Path) -> bool:
    return path.parts[0] in (*OURS, *PICTURES) or path.parts[0].startswith((".", "every_eval_ever"))


def _open(folder: Path) -> Checkpoint | None:
    files = sorted(folder.glob("*.gguf"))
    try:
        return open_checkpoint(files[0] if files else folder)
    except UserError:
        return None


def _library(folder: Path) -> str:
    if list(folder.glob("*.gguf")):
        return "gguf"
    if list(folder.glob("*.onnx")):
        return "onnx"
    if not any(find_file(folder, name) for name in (WEIGHTS, INDEX)):
        return ""
    method = (read_config(folder).get("quantization_config") or {}).get("quant_method")
    known = method in (None, "gptq", "awq", "compressed-tensors")
    return "transformers" if known else ""


def _kept_in_files(opened: Checkpoint) -> tuple[str, ...]:
    """Return sentences about the embeddings, the head and the linears, by the bytes that they
    take."""
    shapes, stored = opened.shapes(), opened.stored()
    bits = {
        name: 8 * sum(stored[name]) / math.prod(shape)
        for name, shape in shapes.items()
        if name in stored and len(shape) > 1
    }
    family = FAMILIES.get(str(opened.config.get("model_type")))
    embedding = next(iter(family.outer), "") if family else ""
    out = []
    if embedding in bits:
        out.append(f"Embeddings: {_describe(bits[embedding])}.")
    heads = [name for name in bits if name.startswith(HEADS)]
    if heads:
        out.append(f"Head: {_describe(bits[heads[0]])}.")
    elif opened.is_tied:
        out.append("Head: it shares the embeddings.")
    targets = [f"{name}.weight" for name in find_targets(opened.config, shapes)]
    full = [name for name in targets if bits.get(name, 0) >= FULL_BITS]
    if full and not opened.is_packed:
        out.append(f"Linears: {len(full):,} of {len(targets):,} at {FULL_BITS} bits or more.")
    return tuple(out)


def _describe(bits: float) -> str:
    if bits >= FULL_BITS:
        return f"not compressed, {bits:.3g} bits per weight"
    return f"{bits:.3g} bits per weight"


def _kept_by_row(identity: Identity) -> tuple[str, ...]:
    """Return sentences about the embeddings, the head and the linears, by the names of a row."""
    outer: dict[str, str] = {}
    with contextlib.suppress(UserError):  # a quantizer of a package that is not installed
        found = parse_quantizer(as_typed(identity.quantizer))
        outer = found.outer if found else {}
    out = [
        f"{name}: {outer.get(key, 'not compressed')}."
        for name, key in (("Embeddings", "embed"), ("Head", "head"))
    ]
    if identity.exclude:
        out.append(f"Linears: {amount(len(identity.exclude), 'pattern')} of names left out.")
    return tuple(out)


def _cache(folder: Path, identity: Identity | None) -> str:
    """Return a sentence about the KV cache."""
    quantizer = identity.quantizer.partition(":")[0] if identity else ""
    if quantizer in CACHES:
        return f"KV cache: {quantizer} when the model runs."
    config = read_config(folder) if find_file(folder, "config.json") else {}
    about = config.get("quantization_config") or {}
    if CACHE_KEY in config or about.get("kv_cache_scheme"):
        return "KV cache: compressed when the model runs."
    return "KV cache: not compressed."
