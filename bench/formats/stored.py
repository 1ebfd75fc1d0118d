"""Folder with the stored tensors of quantized weights: written beside a model, read again, compared
and counted.

stored/stored.json                 for each target: its codec, the pattern of its values, and its
parts stored/model.safetensors           the parts, TARGET.PART, or shards of them with an index
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from bench.catalog import registry
from bench.formats.checkpoint import STORED as FOLDER
from methods.contract.codec import Codec, Storage, StoredWeight
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern
from methods.model.folder import INDEX, WEIGHTS, Writer, dtype_name
from methods.model.safe_files import find_file, read_object

MANIFEST = "stored.json"
MASK = "mask"
"""Part with one bit for each weight or pair, if the values of pruned weights are left out."""
PIECE = 2**22
"""Number of codes that are packed at a time, a multiple of 8."""


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Pack codes of any shape into a stream of bits, uint8 [bytes], the lowest bits first. codes:
    uint8 below 2^bits."""
    flat = codes.contiguous().view(-1)
    if 8 % bits == 0:
        lanes = torch.nn.functional.pad(flat, (0, -len(flat) % (8 // bits))).view(-1, 8 // bits)
        packed = lanes[:, 0].clone()
        for i in range(1, 8 // bits):
            packed |= lanes[:, i] << bits * i
        return packed
    places = torch.arange(bits, dtype=torch.uint8)
    pieces = []
    for piece in flat.split(PIECE):
        single = (piece.unsqueeze(-1) >> places) & 1
        pieces.append(np.packbits(single.view(-1).numpy(), bitorder="little"))
    return torch.from_numpy(np.concatenate([*pieces, np.empty(0, np.uint8)]))


def unpack_bits(stream: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """Unpack a stream of `pack_bits` into codes, uint8 [*shape]."""
    count = int(np.prod(shape))
    if 8 % bits == 0:
        lanes = stream.unsqueeze(-1) >> torch.arange(0, 8, bits, dtype=torch.uint8)
        return lanes.bitwise_and_(2**bits - 1).view(-1)[:count].view(shape)
    codes = torch.empty(count, dtype=torch.uint8)
    places = torch.arange(bits, dtype=torch.uint8)
    for start in range(0, count, PIECE):
        end = min(start + PIECE, count)
        some = stream[start * bits // 8 : -(-end * bits // 8)].numpy()
        single = torch.from_numpy(
            np.unpackbits(some, count=(end - start) * bits, bitorder="little")
        )
        codes[start:end] = (single.view(-1, bits) << places).sum(-1, dtype=torch.uint8)
    return codes.view(shape)


def pack_rows(codes: Tensor, bits: int) -> Tensor:
    """Pack codes [rows, n], uint8 below 2^bits, into int32 [rows, words]. Each row must fill whole
    words."""
    return pack_bits(codes, bits).view(torch.int32).view(len(codes), -1)


def unpack_rows(packed: Tensor, bits: int) -> Tensor:
    """Unpack the codes that whole words or bytes [rows, n] hold, the lowest bits first, into int32
    [rows, codes]."""
    rows = packed.contiguous().view(torch.uint8)
    count, rest = divmod(8 * rows.shape[1], bits)
    if rest:
        raise ValueError(f"{8 * rows.shape[1]} bits of a row are no whole number of {bits}")
    return unpack_bits(rows.view(-1), bits, (len(rows), count)).int()


def keep_mask(weight: Tensor, pattern: Pattern) -> Tensor:
    """Return which values are stored, bool [out, in]: the non-zeros, and the first zeros up to n of
    every m. For pairs: the pairs with a non-zero, and the first others up to n/2."""
    most, units = pattern.units
    groups = pattern.per_unit((weight != 0).int()).unflatten(-1, (-1, units)) != 0
    room = most - groups.sum(-1, keepdim=True)
    zeros = ~groups
    filling = zeros & (zeros.cumsum(-1) <= room)
    return pattern.per_weight((groups | filling).flatten(-2))


def write(
    folder: Path,
    stored: Mapping[str, StoredWeight],
    shapes: Mapping[str, tuple[int, ...]],
    pattern: Pattern,
    outer: Collection[str] = (),
) -> None:
    """Write the stored weights of targets to FOLDER in a model's folder.

    shapes: of the weights, [out, in] by target; pattern: of the model, if it holds in every target.
    Values that it prunes are left out, with a mask in their place. outer: modules that are no
    targets: the embedding and the head.

    Raises:
        UserError: a codec whose name is not that of its class in the catalog, a field that is no
            JSON value, or a part that is not of the kind that its codec states.
    """
    fields = {target: _fields(one.codec) for target, one in stored.items()}
    writer = Writer(folder / FOLDER)
    layouts: dict[str, int] = {}
    layout_of: dict[str, int] = {}
    for target, one in stored.items():
        shape, own = shapes[target], one.pattern or pattern
        kept = keep_mask(one.decode(), own) if own.m and not own.dense else None
        parts: dict[str, Any] = {}
        if MASK in one.parts:
            raise UserError(f"{target} has a part named {MASK!r}: give it another name")
        for part, tensor in one.parts.items():
            name, bits = f"{target}.{part}", one.codec.bits.get(part, 0)
            _require_bits(name, tensor, bits)
            mask = kept if tensor.shape == shape else None
            parts[part], packed = _pack(tensor, bits, mask)
            writer.add(name, packed)
        if kept is not None and any(entry["kept"] for entry in parts.values()):
            mask_units = kept[:, :: own.unit].to(torch.uint8)
            writer.add(f"{target}.{MASK}", pack_bits(mask_units, 1))
        layout: dict[str, Any] = {
            "codec": one.codec.name,
            "fields": fields[target],
            "shape": [*shape],
            "parts": parts,
        }
        if own.unit > 1:
            layout["unit"] = own.unit
        layout_of[target] = layouts.setdefault(json.dumps(layout, allow_nan=False), len(layouts))
    writer.close()
    about: dict[str, Any] = {"version": 1}
    if outer:
        about["outer"] = sorted(outer)
    about |= {"layouts": [json.loads(text) for text in layouts], "weights": layout_of}
    (folder / FOLDER / MANIFEST).write_text(json.dumps(about))


def _require_bits(name: str, tensor: Tensor, bits: int) -> None:
    """Raise UserError if a part has numbers that do not fit in the bits that its codec states for
    them."""
    if not bits:
        return
    if tensor.dtype != torch.uint8 or not 1 <= bits <= 8:
        raise UserError(
            f"{name} is {dtype_name(tensor.dtype)} of {bits} bits: a part with bits must be "
            "uint8, of 1 to 8 bits"
        )
    if tensor.numel() and (largest := int(tensor.max())) >= 2**bits:
        raise UserError(
            f"{name} has the number {largest}, which its codec stores in {bits} bits: use numbers "
            f"below {2**bits}"
        )


def _pack(tensor: Tensor, bits: int, kept: Tensor | None) -> tuple[dict[str, Any], Tensor]:
    """Return the entry of a part, and the tensor that is written. kept: which values are stored,
    None for all."""
    entry = {
        "shape": [*tensor.shape],
        "dtype": dtype_name(tensor.dtype),
        "bits": bits,
        "kept": kept is not None,
    }
    values = tensor.contiguous()
    if kept is not None:
        raw = values.view(torch.uint8) if values.itemsize == 1 else values
        left_out = raw[~kept]
        # A code of zero is not always 0.
        entry["fill"] = int(left_out[0]) if raw.dtype == torch.uint8 and left_out.numel() else 0
        values = raw[kept]
    if bits:
        return entry, pack_bits(values, bits)
    # Parts may share memory, for example one codebook of all weights.
    return entry, values.clone()


def _fields(codec: Codec) -> dict[str, Any]:
    """Return the fields of a codec. Raise UserError if another codec would be made of them."""
    name, kind = codec.name, type(codec)
    if find_codec(name) is not kind:
        raise UserError(
            f"codec {name!r} is not {kind.__name__}: register that class in the group "
            "cast_bench.codecs, or give it another name"
        )
    fields: dict[str, Any] = asdict(codec)  # type: ignore[call-overload]  # a codec is a dataclass
    try:
        is_same = kind(**json.loads(json.dumps(fields))) == codec
    except (TypeError, ValueError):
        is_same = False
    if not is_same:
        raise UserError(
            f"codec {name!r} has a field that JSON does not give back: use numbers, text, lists "
            "and dicts"
        )
    return fields


def find_codec(name: str) -> type[Codec]:
    """Return the class of a codec by its name. Raise UserError if it is unknown."""
    if name not in registry.names("codecs"):
        raise UserError(
            f"no installed package has codec {name!r}: install the package of its quantizer. If "
            f"its class is in FILE.py, make a package of that file, with the entry point {name} = "
            "FILE:CLASS in group cast_bench.codecs (docs/adding.md)"
        )
    kind: type[Codec] = registry.load(registry.lookup("codecs", name))
    return kind


def copy(source: Path, target: Path) -> None:
    """Copy the stored weights of a model folder, if it has any, to another."""
    if (source / FOLDER / MANIFEST).exists():
        (target / FOLDER).mkdir()
        for file in (source / FOLDER).iterdir():
            find_file(source / FOLDER, file.name, None)
            shutil.copyfile(file, target / FOLDER / file.name)


class StoredFolder(Mapping[str, StoredWeight]):
    """The stored weights of a model folder by target, each read when it is asked for."""

    def __init__(self, model: Path) -> None:
        """model: folder of the model. One without stored weights is empty."""
        self.path = model / FOLDER
        about = read_object(self.path, MANIFEST) or {"weights": {}, "layouts": []}
        index = read_object(self.path, INDEX) or {"weight_map": {}}
        self._layouts: dict[str, Any] = {
            name: about["layouts"][i] for name, i in about["weights"].items()
        }
        self._shards: dict[str, str] = index["weight_map"]
        self.outer = frozenset(about.get("outer", ()))
        """Modules that are no targets: the embedding and the head."""
        self._open: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._layouts)

    def __len__(self) -> int:
        return len(self._layouts)

    def __getitem__(self, target: str) -> StoredWeight:
        shape, entries = self.shape(target), self._layouts[target]["parts"]
        kept = None
        if self._is_masked(target):
            unit = self._layouts[target].get("unit", 1)
            mask_units = (shape[0], shape[1] // unit)
            kept = unpack_bits(self._tensor(f"{target}.{MASK}"), 1, mask_units).bool()
            kept = kept.repeat_interleave(unit, -1)
        parts = {
            part: self._part(f"{target}.{part}", entry, kept) for part, entry in entries.items()
        }
        return StoredWeight(self.codec(target), parts)

    def weight(self, target: str) -> Tensor:
        """Decode a weight, float32. Raise UserError if its parts do not fit together."""
        try:
            weight = self[target].decode()
        except (
            KeyError,
            ValueError,
            TypeError,
            IndexError,
            RuntimeError,
            ArithmeticError,
        ) as fault:
            raise UserError(
                f"{self.path.parent} cannot be read: the parts of {target} do not fit together "
                f"({fault})"
            ) from None
        if tuple(weight.shape) != self.shape(target):
            raise UserError(
                f"{self.path.parent} cannot be read: {target} gives a weight {list(weight.shape)}"
            )
        return weight

    def write_outer(self, model: Path) -> None:
        """Write the embedding and the head to another model's folder, if they are stored."""
        if self.outer:
            shapes = {name: self.shape(name) for name in self.outer}
            kept = {name: self[name] for name in sorted(self.outer)}
            write(model, kept, shapes, Pattern(), self.outer)

    def codec(self, target: str) -> Codec:
        """Return the codec of a target."""
        layout = self._layouts[target]
        return find_codec(layout["codec"])(**layout["fields"])

    def shape(self, target: str) -> tuple[int, int]:
        """Return the shape [out, in] of a target's weight."""
        out, width = self._layouts[target]["shape"]
        return out, width

    def _part(self, name: str, entry: Mapping[str, Any], kept: Tensor | None) -> Tensor:
        stored, shape, bits = self._tensor(name), tuple(entry["shape"]), entry["bits"]
        if not entry["kept"] or kept is None:
            return unpack_bits(stored, bits, shape) if bits else stored
        values = unpack_bits(stored, bits, (int(kept.sum()),)) if bits else stored
        whole = torch.full(shape, entry["fill"], dtype=values.dtype)
        whole[kept] = values
        return whole.view(getattr(torch, entry["dtype"]))

    def _tensor(self, name: str) -> Tensor:
        shard = self._shards.get(name, WEIGHTS)
        if shard not in self._open:
            file = find_file(self.path, shard, None) if Path(shard).name == shard else None
            if file is None:
                raise UserError(f"{self.path} has no file {shard!r} for {name}: write it again")
            self._open[shard] = safe_open(file, framework="pt")
        tensor: Tensor = self._open[shard].get_tensor(name)
        return tensor

    def sizes(self, target: str) -> tuple[int, int]:
        """Return the bytes of a target's values, the parts with a number for each weight, and those
        of all else."""
        layout, values, others = self._layouts[target], 0, 0
        for part, entry in layout["parts"].items():
            size = self._tensor(f"{target}.{part}").nbytes
            if entry["shape"] == layout["shape"]:
                values += size
            else:
                others += size
        if self._is_masked(target):
            others += self._tensor(f"{target}.{MASK}").nbytes
        return values, others

    def _is_masked(self, target: str) -> bool:
        """Return whether the values of pruned weights are left out."""
        return any(entry["kept"] for entry in self._layouts[target]["parts"].values())

    @property
    def targets(self) -> list[str]:
        """Modules of linears: all but the embedding and the head."""
        return [name for name in self if name not in self.outer]

    def count_outer(self) -> tuple[int, int]:
        """Count the numbers of the embedding and the head, and the bytes that they take."""
        weights = sum(math.prod(self.shape(name)) for name in self.outer)
        return weights, sum(sum(self.sizes(name)) for name in self.outer)

    def count(self) -> Storage:
        """Count the bytes of all parts of the targets."""
        weights = values = others = 0
        is_packed = False
        for target in self.targets:
            out, width = self.shape(target)
            own, rest = self.sizes(target)
            weights, values, others = weights + out * width, values + own, others + rest
            is_packed |= self._is_masked(target) or not own
        form = "; ".join(sorted({describe(self.codec(target)) for target in self.targets}))
        return Storage(
            weights=weights, values=values, others=others, is_packed=is_packed, form=form
        )


def describe(codec: Codec) -> str:
    """Return a codec in its own words, or by its name."""
    return codec.name if type(codec).__str__ is object.__str__ else str(codec)
