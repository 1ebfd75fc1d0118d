"""Open a model made elsewhere in whatever format it has."""

from __future__ import annotations

from pathlib import Path

from bench.formats.adapter import AdapterCheckpoint
from bench.formats.checkpoint import ADAPTER, PACKED24, QUANT_METHOD, QUANTIZATION_KEYS, Checkpoint
from bench.formats.gguf import GgufCheckpoint
from bench.formats.quantized import QuantizedCheckpoint
from methods import adapter
from methods.errors import UserError
from methods.files import check_files, find_file
from methods.folder import Folder


def open_checkpoint(path: Path, original: Folder | None = None) -> Checkpoint:
    """Open a model folder or GGUF file in any supported format. original: that of an adapter, which is refused without."""
    if path.suffix == ".gguf" and path.is_file():
        return GgufCheckpoint(path)
    if not path.is_dir():
        raise UserError(f"model folder {str(path)!r} does not exist: check the path")
    check_files(path)
    if original is not None:
        adapter.refuse(path)
    if find_file(path, PACKED24):
        from bench.formats.packed24 import Packed24Checkpoint  # imports torch

        return Packed24Checkpoint(path)
    if find_file(path, ADAPTER):
        if original is None:
            raise UserError(
                f"{path} is an adapter: merge it with bench prune --model MODEL --method folder:path={path} --out PLAIN, and "
                "name PLAIN"
            )
        return AdapterCheckpoint(path, original)
    if not list(path.glob("*.safetensors")) and (found := sorted(path.glob("*.gguf"))):
        raise UserError(f"{path} has GGUF files: name one of them, for example {found[0]}")
    folder = Folder(path)
    quantization = folder.config.get("quantization_config")
    if isinstance(quantization, dict) and quantization.get("quant_method") == QUANT_METHOD:
        from bench.formats.stored_checkpoint import StoredCheckpoint  # imports torch

        return StoredCheckpoint(folder)
    if any(folder.config.get(key) for key in QUANTIZATION_KEYS):
        return QuantizedCheckpoint(folder)
    return Checkpoint(folder)
