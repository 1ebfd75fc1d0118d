"""A smaller model of the same family: what is left of a dense one, its tensors, and config.json. Needs no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.errors import UserError
from methods.families import Family, frozen
from methods.folder import TIED, Folder
from methods.targets import family_of

if TYPE_CHECKING:
    from torch import Tensor

LISTS = ("layer_types", "no_rope_layers")
"""Keys of config.json that list a value for each block."""
BY_INDEX = ("scale_attn_by_inverse_layer_idx",)
"""Keys of config.json that make a block's function depend on its index."""
MULTIPLE = 128
"""Largest power of two of which the number of units stays a multiple, so that groups of weights still fit."""

HIDDEN = "hidden_size"
"""Key of config.json with the number of hidden channels."""

Indices = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Indices of what is left of a dense model, each in order. None: all."""

    blocks: Indices | None = None
    units: tuple[Indices, ...] | None = None
    """Inner units of the MLP, for each block."""
    groups: tuple[Indices, ...] | None = None
    """Heads of keys and values, for each block. The query heads that read one go with it."""
    channels: Indices | None = None
    """Hidden channels. Norms are scaled, so that their outputs stay the same if the others are 0."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Kept:
        """Return the inverse of `asdict`, from lists."""
        return cls(**{key: frozen(part) for key, part in values.items()})

    def counts(self, config: Mapping[str, Any]) -> list[tuple[int | None, int]]:
        """Return how many blocks, channels, units and groups are left, None for all, and how many the dense model has.

        Raise ValueError if an index is unknown, out of order or repeated, or blocks differ in their numbers.
        """
        family = family_of(config)
        width = (family.width.units, *family.width.heads[-1:]) if family.width else ()
        blocks, channels = (None if part is None else (part,) for part in (self.blocks, self.channels))
        parts: tuple[tuple[Indices, ...] | None, ...] = (blocks, channels, self.units, self.groups)
        out: list[tuple[int | None, int]] = []
        for key, part in zip_longest((family.layers, HIDDEN, *width), parts):
            size = family.size(key, config) if key and (part or key != HIDDEN) else 0
            for indices in part or ():
                if list(indices) != sorted(set(indices) & set(range(size))) or len(indices) != len((part or ())[0]):
                    raise ValueError(f"{list(indices)} must be indices below {size}, in order, as many for each block")
            out.append((len(part[0]) if part else None, size))
        return out


def removed(share: int | str, count: int) -> int:
    """Return how many of `count` go. share: their number, or a share such as "25%", which is rounded."""
    return share if isinstance(share, int) else math.floor(float(share.removesuffix("%")) / 100 * count + 0.5)


def count_blocks(drop: int | str, config: Mapping[str, Any]) -> int:
    """Return the number of blocks that are left. drop: the number to remove, or a share of them.

    Raise UserError if no block would be left, or a block's function depends on its index.
    """
    blocks: int = config[family_of(config).layers]
    count = removed(drop, blocks)
    if count >= blocks:
        raise UserError(f"invalid drop={drop}: the model has {blocks} blocks, and at least one must be left")
    for key in BY_INDEX:
        if config.get(key):
            raise UserError(
                f"no block of this model can be removed, because {key} in its config.json makes each depend on its index: "
                "use another model"
            )
    return blocks - count


def count_width(drop: str, heads: int | str | None, config: Mapping[str, Any]) -> tuple[int, int | None]:
    """Return the numbers of units and of groups that are left, or raise UserError. None: no group is removed.

    drop: share of the units; heads: number of groups to remove, or a share of them. None: the same share as of units.
    """
    family, kind = family_of(config), config["model_type"]
    if family.width is None or family.experts:
        way = "a model without experts"
        if not family.experts:
            way = "add its width to methods/families.toml (docs/models.md)"
        raise UserError(f"width does not know the units of {kind}: use depth, or {way}")
    left = _count_left(drop, family.size(family.width.units, config), 1, "units")
    share = drop if heads is None else heads
    if not family.width.heads:
        if removed(share, 100):
            raise UserError(f"width cannot remove attention heads of {kind}: use width:heads=0, for units alone")
        return left, None
    queries, groups = (family.size(key, config) for key in family.width.heads)
    hidden = family.size("hidden_size", config)
    allowed = [n for n in range(groups) if hidden % (queries - n * queries // groups) == 0]
    if (count := removed(share, groups)) not in allowed:
        raise UserError(
            f"width cannot remove {count} of the {groups} heads of keys and values, because the number of query heads must "
            f"divide hidden_size={hidden}: use width:heads=N with N of {', '.join(map(str, allowed))}"
        )
    return left, groups - count if count else None


def count_channels(drop: str, config: Mapping[str, Any]) -> int:
    """Return the number of hidden channels that are left: a multiple of the number of heads and of a power of two.

    Raise UserError if the family's norms or embedding do not allow it, or none would be left.
    """
    family, kind = family_of(config), config["model_type"]
    flow, heads = family.flow, family.width.heads if family.width else ()
    if family.experts or not heads or flow is None or flow.after or flow.mean or flow.offset:
        raise UserError(
            f"channels cannot remove hidden channels of {kind}: use depth or width, or a model with RMS norms before its "
            "linears, an embedding that is not scaled, and heads of any size, such as a LLaMA"
        )
    return _count_left(drop, family.size(HIDDEN, config), family.size(heads[0], config), "channels")


def _count_left(drop: str, size: int, divisor: int, noun: str) -> int:
    """Return how many of `size` are left: a multiple of a divisor and of a power of two. Raise UserError if none is."""
    power = math.gcd(size, MULTIPLE)
    while power > 1 and math.lcm(power, divisor) > size // 8:
        power //= 2
    step = math.lcm(power, divisor)
    left = size - step * removed(drop, size // step)
    if left < 1:
        raise UserError(f"invalid drop={drop}: the model has {size} {noun}, and at least {step} must be left")
    return left


def count_left(pattern: str, settings: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Return the numbers of blocks, channels, units and groups that a stage leaves. None: all.

    pattern: "depth 25%", "width 25%" or "channels 25%"; settings: those of the method. Raise UserError if the model has
    no such parts, or too few.
    """
    what, drop = pattern.split(" ")
    if what == "depth":
        return count_blocks(int(drop) if drop.isdecimal() else drop, config), None, None, None
    if what == "channels":
        return None, count_channels(drop, config), None, None
    return None, None, *count_width(drop, settings.get("heads"), config)


def rename(family: Family, kept: Kept | None, name: str) -> str | None:
    """Return the name of a tensor or module after its block is renumbered, or None if its block is removed."""
    index = family.block_of(name)
    if kept is None or kept.blocks is None or index is None:
        return name
    if index not in kept.blocks:
        return None
    return f"{family.blocks}.{kept.blocks.index(index)}" + name.removeprefix(f"{family.blocks}.{index}")


def changed_config(config: Mapping[str, Any], kept: Kept) -> dict[str, Any]:
    """Return the keys of config.json that change. config: all values, also those that the file leaves out."""
    family, (blocks, channels, units, groups) = family_of(config), (left for left, _ in kept.counts(config))
    changes: dict[str, Any] = {}
    if blocks is not None and kept.blocks is not None:
        lists = {key: config[key] for key in LISTS if config.get(key) is not None}
        changes |= {family.layers: blocks} | {k: [values[i] for i in kept.blocks] for k, values in lists.items()}
    if channels is not None:
        changes |= {HIDDEN: channels, "head_dim": family.size("head_dim", config)}
    if units is not None and family.width:
        changes[family.width.units] = units
    if groups is not None and family.width:
        queries, of = (family.size(key, config) for key in family.width.heads)
        changes |= dict(zip(family.width.heads, (queries // of * groups, groups), strict=True))
        changes["head_dim"] = family.size("head_dim", config)
    return changes


def reader(family: Family, key: str) -> str:
    """Return the linear of a block whose inputs are counted by a key of config.json."""
    return next(
        name.removesuffix(".weight")
        for name, shape in family.block.items()
        if len(shape) == 2 and _mentions(shape[1], key)
    )


def _mentions(size: object, key: str) -> bool:
    return isinstance(size, str) and re.search(rf"\b{key}\b", size) is not None


def _cuts(family: Family, config: Mapping[str, Any], kept: Kept, name: str) -> Iterator[tuple[int, list[int]]]:
    """Yield the dimensions of a tensor that get smaller, and the indices that are left of each."""
    renamed = rename(family, kept, name)
    block = family.block_of(renamed or "")
    shape = family.tensors.get(name.removeprefix(f"{family.blocks}.{family.block_of(name)}."))
    if kept.channels is not None:
        outer = next(iter(family.outer.values())) if name in TIED else family.outer.get(name)
        for dimension, size in enumerate(shape or outer or ()):
            if size == HIDDEN:
                yield dimension, list(kept.channels)
        return
    if block is None or shape is None or family.width is None:
        return
    counted = [(family.width.units, kept.units), *((key, kept.groups) for key in family.width.heads)]
    groups = family.size(family.width.heads[-1], config) if family.width.heads else 0
    for dimension, size in enumerate(shape):
        left: list[int] = []
        start, is_cut = 0, False
        for part in size if isinstance(size, tuple) else (size,):
            width = family.size(part, config)
            key, chosen = next(((k, c) for k, c in counted if c is not None and _mentions(part, k)), ("", None))
            each = 1 if key == family.width.units else width // max(1, groups)
            indices: Sequence[int] = range(width)
            if chosen is not None:
                indices = [each * i + j for i in chosen[block] for j in range(each)]
                is_cut = True
            left += [start + i for i in indices]
            start += width
        if is_cut:
            yield dimension, left


class SmallerFolder(Folder):
    """A model folder as if it had only some of its blocks, renumbered from 0, of their units and heads, or of its channels."""

    def __init__(self, path: Path, kept: Kept) -> None:
        super().__init__(path)
        family = family_of(self.config)
        self._norms: tuple[str, ...] = ()
        self._scale = 1.0
        if kept.channels is not None and family.flow:
            self._norms = (family.flow.final, *family.flow.norms)
            self._scale = math.sqrt(family.size(HIDDEN, self.config) / len(kept.channels))
        self._cut = {name: cuts for name in self if (cuts := list(_cuts(family, self.config, kept, name)))}
        for name, cuts in self._cut.items():
            shape = list(self._tensors[name].shape)
            for dimension, left in cuts:
                shape[dimension] = len(left)
            self._tensors[name] = self._tensors[name]._replace(shape=tuple(shape))
        tables: tuple[dict[str, Any], ...] = (self._where, self._tensors, self._pieces)
        for table in tables:
            named = {rename(family, kept, name): value for name, value in table.items()}
            table.clear()
            table.update({name: value for name, value in named.items() if name is not None})

    def tensor(self, name: str) -> Tensor:
        import torch

        tensor = super().tensor(name)
        for dimension, left in self._cut.get(name, ()):
            tensor = tensor.index_select(dimension, torch.tensor(left))
        norm = name.removesuffix(".weight")
        if norm != name and any(norm == each or norm.endswith(f".{each}") for each in self._norms):
            # A norm divides by the root of the mean over the channels, which are fewer now.
            tensor = (tensor.double() * self._scale).to(tensor.dtype)
        return tensor
