"""packed24 on disk: a model folder with its 2:4 weights stored as kept values and bitmasks in
safetensors files.

    packed24.json                 the format's version, and each tensor's shape, parts and sha256
    packed24-00001.safetensors    NAME of a dense tensor; NAME.values, NAME.mask, NAME.scales of a
                                  packed one
    stored/                       the embedding and the head, if they are quantized
    config.json, tokenizer        as in any model folder

packing.PackedWeight describes the parts. A weight that is stored as windows has those of its
windows (windows24.py). The files are not called `model.safetensors`, so that no other loader opens
them by mistake.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bench.formats.checkpoint import STORED, Checkpoint, StoredBytes
from bench.formats.stored import StoredFolder
from bench.inputs import architecture
from bench.parts.packed24 import MANIFEST
from bench.parts.packed24.integers24 import BITS
from bench.parts.packed24.packing import FLOAT_DTYPES, PackedWeight, check_mask, unpack
from bench.parts.packed24.windows24 import from_windows, is_group, window_width
from bench.system import digests
from bench.system.provenance import VERSION
from methods.contract.errors import UserError, first_line
from methods.model.families import FAMILIES
from methods.model.folder import SHARD_BYTES, dtype_name, read_config
from methods.model.header import DTYPE_BITS, read_header
from methods.model.safe_files import find_file, read_object
from methods.model.save_tensors import save_tensors

PACKED = {"float", "int8", "int4"}
"""Kinds of tensors that are 2:4."""
FORMAT_VERSION = 3
"""Version of the folders that this code writes and reads."""
DTYPES = {
    dtype_name(d): d
    for d in (*FLOAT_DTYPES, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool)
}


class StoredTensor(BaseModel, extra="forbid", frozen=True):
    """One stored tensor."""

    file: str
    sha256: str


class PackedTensor(BaseModel, extra="forbid", frozen=True):
    """One tensor of the model."""

    kind: Literal["dense", "float", "int8", "int4", "stored"]
    """stored: the embedding or the head, in the subfolder of stored weights. Its only part is their
    file, with the digest of the weight."""
    shape: tuple[int, ...]
    """Shape in the model, [out, in] for a linear's weight."""
    dtype: str
    exact: bool = True
    """True if it unpacks to the original, bit for bit."""
    windows: int = 0
    """2N if the parts are windows of 2:4 of a weight that is (2N-2):2N. 0: the weight is 2:4."""
    parts: dict[str, StoredTensor]


class Manifest(BaseModel, extra="forbid"):
    """The content of packed24.json."""

    format: Literal["packed24"] = "packed24"
    version: int = FORMAT_VERSION
    made_by: str
    tensors: dict[str, PackedTensor]
    sha256: str = ""
    """Digest of all other fields."""

    def digest(self) -> str:
        return digests.of(self.model_dump(mode="json", exclude={"sha256"}))


class Writer24:
    """A writer of a packed24 folder, tensor by tensor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: dict[str, Tensor] = {}
        self._entries: dict[str, PackedTensor] = {}
        self._bytes = 0
        self._shard = 1

    def add(self, name: str, tensor: Tensor) -> None:
        """Write a dense tensor. Raise UserError if the format does not support its dtype."""
        dtype = dtype_name(tensor.dtype)
        if dtype not in DTYPES:
            raise UserError(
                f"{name} has dtype {dtype}, which packed24 does not support: it supports "
                f"{', '.join(DTYPES)}"
            )
        parts = self._store(name, {"dense": tensor})
        self._entries[name] = PackedTensor(
            kind="dense", shape=tuple(tensor.shape), dtype=dtype, parts=parts
        )

    def add_packed(
        self, name: str, packed: PackedWeight, *, exact: bool, windows: int = 0, width: int = 0
    ) -> None:
        """Write a packed weight. exact, windows: as in PackedTensor. width: input size of a weight
        with windows."""
        shape = (packed.shape[0], width) if windows else packed.shape
        self._entries[name] = PackedTensor(
            kind=packed.kind,  # type: ignore[arg-type]
            shape=shape,
            dtype=dtype_name(packed.dtype),
            exact=exact,
            windows=windows,
            parts=self._store(name, packed.parts()),
        )

    def add_stored(self, name: str, tensor: Tensor) -> None:
        """Add the embedding or the head, which the caller writes as stored weights."""
        part = StoredTensor(file=STORED, sha256=_sha256(tensor))
        self._entries[name] = PackedTensor(
            kind="stored",
            shape=tuple(tensor.shape),
            dtype=dtype_name(tensor.dtype),
            parts={STORED: part},
        )

    def _store(self, name: str, parts: dict[str, Tensor]) -> dict[str, StoredTensor]:
        file = f"packed24-{self._shard:05d}.safetensors"
        stored = {}
        for part, tensor in parts.items():
            tensor = tensor.detach().cpu().contiguous()
            self._pending[_tensor_name(name, part)] = tensor
            self._bytes += tensor.nbytes
            stored[part] = StoredTensor(file=file, sha256=_sha256(tensor))
        if self._bytes >= SHARD_BYTES:
            self._flush()
        return stored

    def _flush(self) -> None:
        about = {"format": "packed24", "version": str(FORMAT_VERSION)}
        save_tensors(self._pending, self.path / f"packed24-{self._shard:05d}.safetensors", about)
        self._pending, self._bytes, self._shard = {}, 0, self._shard + 1

    def close(self) -> Manifest:
        """Write the last shard and the manifest."""
        if self._pending:
            self._flush()
        about = Manifest(made_by=f"cast-bench {VERSION}", tensors=self._entries)
        about.sha256 = about.digest()
        (self.path / MANIFEST).write_text(about.model_dump_json(indent=1) + "\n")
        return about


class Folder24(Checkpoint):
    """A whole packed24 folder, read tensor by tensor. It iterates over the names of the model's
    tensors. Its packed weights are stored without their zeros. A damaged one raises UserError."""

    is_packed = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = _read_manifest(path).tensors
        for name, entry in self.entries.items():
            _check_entry(path, name, entry)
        kinds = sorted({entry.kind for entry in self.entries.values()} & PACKED)
        self.form = f"packed24 ({', '.join(kinds) or 'nothing packed'})"
        self.is_quantized = not BITS.keys().isdisjoint(kinds)

    def check(self) -> None:
        architecture.check(self)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    @property
    def config(self) -> dict[str, Any]:
        return read_config(self.path)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.entries.items()}

    def dtypes(self) -> dict[str, str]:
        short = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
        return {name: short.get(entry.dtype, entry.dtype) for name, entry in self.entries.items()}

    @property
    def is_tied(self) -> bool:
        family = FAMILIES.get(self.config.get("model_type", ""))
        return bool(self.config.get("tie_word_embeddings", family is not None and family.tied))

    def stored(self) -> dict[str, StoredBytes]:
        sizes: dict[tuple[str, str], int] = {}
        files = set()
        for entry in self.entries.values():
            if entry.kind != STORED:
                files |= {part.file for part in entry.parts.values()}
        for file in files:
            for name, info in read_header(self.path, file).items():
                sizes[file, name] = math.prod(info.shape) * DTYPE_BITS[info.dtype] // 8
        out = {}
        for name, entry in self.entries.items():
            if entry.kind == STORED:
                own = StoredFolder(self.path).sizes(name.removesuffix(".weight"))
                out[name] = StoredBytes(*own)
                continue
            parts = {
                part: sizes[where.file, _tensor_name(name, part)]
                for part, where in entry.parts.items()
            }
            scales = parts.pop("scales", 0)
            out[name] = StoredBytes(sum(parts.values()), scales)
        return out

    def tensor(self, name: str) -> Tensor:
        entry = self.entries[name]
        if entry.kind == STORED:
            weight = StoredFolder(self.path).weight(name.removesuffix(".weight"))
            weight = weight.to(DTYPES[entry.dtype])
            if tuple(weight.shape) != entry.shape or _sha256(weight) != entry.parts[STORED].sha256:
                raise UserError(
                    f"checksum mismatch: {name} in {self.path / STORED} does not match {MANIFEST}; "
                    "fetch or export it again"
                )
            return weight
        if entry.kind in PACKED:
            dense = unpack(self.packed(name))
            return from_windows(dense, entry.shape[1], entry.windows) if entry.windows else dense
        tensor = self._part(name, "dense")
        if tuple(tensor.shape) != entry.shape or dtype_name(tensor.dtype) != entry.dtype:
            raise self._mismatch(name)
        return tensor

    def packed(self, name: str) -> PackedWeight:
        """Return a packed tensor [out, in], or its windows."""
        entry = self.entries[name]
        rows, width = entry.shape
        if entry.windows:
            width = window_width(width, entry.windows)
        dtype = DTYPES[entry.dtype]
        columns = width // 4 if entry.kind == "int4" else width // 2
        wanted = {"values": (rows, columns), "mask": (rows, -(-width // 8))}
        kinds = {
            "values": {"float": dtype, "int8": torch.int8, "int4": torch.uint8}[entry.kind],
            "mask": torch.uint8,
        }
        kinds["scales"] = torch.bfloat16
        parts = {part: self._part(name, part) for part in entry.parts}
        for part, tensor in parts.items():
            groups = tensor.shape[-1] if tensor.ndim == 2 else 0
            if part == "scales" and (groups < 1 or width % groups):
                raise self._mismatch(name)
            if (
                tuple(tensor.shape) != wanted.get(part, (rows, groups))
                or tensor.dtype != kinds[part]
            ):
                raise self._mismatch(name)
        check_mask(parts["mask"], width, f"{name} in {self.path}")
        return PackedWeight(entry.kind, width, dtype, **parts)

    def _part(self, name: str, part: str) -> Tensor:
        entry = self.entries[name].parts[part]
        try:
            # An open file keeps everything that was read mapped into memory.
            file = find_file(self.path, entry.file, None) or self.path / entry.file
            with safe_open(file, framework="pt") as opened:
                tensor: Tensor = opened.get_tensor(_tensor_name(name, part))
        except (OSError, SafetensorError) as fault:
            raise UserError(
                f"{self.path / entry.file} cannot be read for {name} ({fault}): fetch or export "
                "it again"
            ) from None
        if _sha256(tensor) != entry.sha256:
            raise UserError(
                f"checksum mismatch: {_tensor_name(name, part)} in {self.path / entry.file} does "
                f"not match {MANIFEST}; fetch or export it again"
            )
        return tensor

    def _mismatch(self, name: str) -> UserError:
        return UserError(
            f"{name} in {self.path} does not have the shape and dtype that {MANIFEST} gives: "
            "export it again"
        )


def _tensor_name(name: str, part: str) -> str:
    return name if part == "dense" else f"{name}.{part}"


def _sha256(tensor: Tensor) -> str:
    """Return the digest of dtype, shape and bytes."""
    digest = hashlib.sha256(f"{dtype_name(tensor.dtype)} {list(tensor.shape)}\n".encode())
    if tensor.numel():
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    try:
        raw = read_object(path, MANIFEST)
        if raw is None:
            raise ValueError("no such file")
        version = raw.get("version")
        if isinstance(version, int) and version != FORMAT_VERSION:
            way_out = "upgrade cast-bench" if version > FORMAT_VERSION else "export it again"
            raise UserError(
                f"{file} has version {version}, and this code reads version {FORMAT_VERSION}: "
                f"{way_out}"
            )
        about = Manifest.model_validate(raw)
        if about.digest() != about.sha256:
            raise ValueError("checksum mismatch")
    except (OSError, ValidationError, ValueError) as fault:
        raise UserError(
            f"{file} cannot be read as packed24 ({first_line(fault)}): fetch or export it again"
        ) from None
    return about


def _check_entry(path: Path, name: str, entry: PackedTensor) -> None:
    """Refuse an invalid entry before any tensor is read."""
    packed = entry.kind in PACKED
    parts: set[str] = {"values", "mask"} if packed else {entry.kind}
    if entry.kind in BITS:
        parts.add("scales")
    for part in entry.parts.values():
        if Path(part.file).name != part.file or part.file in ("", ".."):
            raise UserError(
                f"{path / MANIFEST} points to {part.file!r}, outside its folder: refused"
            )
    known = entry.dtype in DTYPES and (not packed or DTYPES[entry.dtype] in FLOAT_DTYPES)
    is_matrix = len(entry.shape) == 2 and min(entry.shape) > 0
    fits = not entry.windows
    if packed:
        fits = is_matrix and (not entry.windows or is_group(entry.windows))
        fits = fits and entry.shape[1] % (entry.windows or 4) == 0
    if set(entry.parts) != parts or not known or not fits:
        raise UserError(
            f"{name} in {path / MANIFEST} is not valid packed24: fetch or export it again"
        )
