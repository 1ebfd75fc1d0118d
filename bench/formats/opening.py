"""Open a model from another tool in the format of the first reader that owns it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from bench.catalog import registry
from bench.formats import checkpoint
from bench.formats.adapter import AdapterCheckpoint
from bench.formats.checkpoint import ADAPTER, QUANT_METHOD, QUANTIZATION_KEYS, STORED, Checkpoint
from bench.formats.contract import Reader
from bench.formats.quantized import QuantizedCheckpoint, cannot_read, find_codec
from bench.system import digests
from bench.system.source_digest import digest_source
from methods.contract.errors import UserError
from methods.model import constant_experts, low_rank_adapter
from methods.model.folder import Folder, read_config
from methods.model.safe_files import check_files, find_file


class Adapter(Reader):
    """A LoRA adapter of peft."""

    def owns(self, path: Path) -> bool:
        return find_file(path, ADAPTER) is not None

    def open(self, path: Path, original: Folder | None) -> Checkpoint:
        if original is None:
            raise UserError(
                f"{path} is an adapter: merge it with bench prune --model MODEL --method "
                f"folder:path={path} --out PLAIN, and name PLAIN"
            )
        return AdapterCheckpoint(path, original)


class Stored(Reader):
    """A folder of `bench export --format stored`."""

    def owns(self, path: Path) -> bool:
        # Asked first, because a plan reads config.json once.
        if not (path / STORED).is_dir() or find_file(path, "config.json") is None:
            return False
        quantization = read_config(path).get("quantization_config")
        return isinstance(quantization, dict) and quantization.get("quant_method") == QUANT_METHOD

    def open(self, path: Path, original: Folder | None) -> Checkpoint:
        from bench.formats.stored_checkpoint import StoredCheckpoint  # imports torch

        return StoredCheckpoint(Folder(path))


def open_checkpoint(path: Path, original: Folder | None = None) -> Checkpoint:
    """Open a model in the format of a reader, or else as safetensors. original: that of an adapter,
    refused without.

    Raise UserError if the config is not valid, or the tensors do not fit it.
    """
    with guarded(path):
        opened = _open(path, original)
        opened.check()
    return opened


def _open(path: Path, original: Folder | None) -> Checkpoint:
    if path.is_dir():
        check_files(path)
        if original is not None:
            low_rank_adapter.refuse(path)
            constant_experts.refuse(path)
    name = find_reader(path)
    if name:
        return registry.build("readers", name, Reader).open(path, original)
    if path.is_file():
        raise UserError(
            f"no installed reader opens {path}: name a model folder, or a file of the formats "
            f"{', '.join(registry.names('readers'))}"
        )
    if not path.is_dir():
        raise UserError(f"model folder {str(path)!r} does not exist: check the path")
    if not list(path.glob("*.safetensors")) and (found := sorted(path.glob("*.gguf"))):
        raise UserError(f"{path} has GGUF files: name one of them, for example {found[0]}")
    folder = Folder(path)
    for key in QUANTIZATION_KEYS:
        about = folder.config.get(key)
        if about is not None and not isinstance(about, dict):
            raise cannot_read(path, f"its {key} is {about!r}, not an object")
    if any(folder.config.get(key) for key in QUANTIZATION_KEYS):
        return QuantizedCheckpoint(folder, find_codec(folder))
    return Checkpoint(folder)


def guarded(path: Path) -> AbstractContextManager[None]:
    """Guard code that reads a path, if the reader is a plug-in."""
    name = find_reader(path)
    return registry.guarded(registry.lookup("readers", name)) if name else nullcontext()


def content_digest(path: Path) -> str:
    """Return the digest of the files that decide a number, and of the code of a plug-in that reads
    them."""
    name = find_reader(path)
    if not name or not registry.lookup("readers", name).is_plugin:
        return checkpoint.content_digest(path)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    contents = {file.relative_to(path).as_posix(): digests.of_file(file) for file in files}
    return digests.of([contents, digest_source(registry.lookup("readers", name).module)])


def find_reader(path: Path) -> str:
    """Return the name of the reader that owns a path, or "". This imports plug-ins until it is
    found."""
    for name in registry.names("readers"):
        reader = registry.build("readers", name, Reader)
        with registry.guarded(registry.lookup("readers", name)):
            if reader.owns(path):
                return name
    return ""
