"""A smaller model of the same family: what is left of a dense one, its tensors, and config.json.
Needs no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.contract.axes import AXES, Axis, Config, Kept, Share, mentions, removed
from methods.contract.errors import UserError
from methods.model.families import Family, Shape
from methods.model.folder import TIED, Folder
from methods.model.targets import family_of

if TYPE_CHECKING:
    from torch import Tensor


def count_left(
    shares: Mapping[str, Share], config: Config, options: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Return how many parts of each axis are left.

    shares: number or share of the parts to remove, by axis; options: settings to name in errors, by
    axis.

    Raises:
        UserError: the model has no such parts, or none would be left.
    """
    family, left = family_of(config), {}
    for name, share in shares.items():
        axis, option = AXES[name], (options or {}).get(name, name)
        if axis.keys(family):
            left[name] = axis.left(share, family, config, option)
        elif removed(share, 100):
            raise UserError(
                f"invalid {option}={share}: {config['model_type']} has no {axis.noun} that can be "
                f"removed: {axis.advice(family)}"
            )
    return left


def count_kept(kept: Kept, config: Config) -> dict[str, int]:
    """Return how many parts of each axis are kept.

    Raises:
        ValueError: an axis is unknown; an index is unknown, out of order or repeated; or blocks
            differ in their numbers.
    """
    family, counts = family_of(config), {}
    blocks = len(kept["blocks"]) if "blocks" in kept else AXES["blocks"].size(family, config)
    for name, parts in kept.items():
        if name not in AXES or not AXES[name].keys(family):
            raise ValueError(f"the model has no axis {name!r}")
        size = AXES[name].size(family, config)
        lists = list(parts) if AXES[name].in_block else [parts]
        if AXES[name].in_block and len(lists) != blocks:
            raise ValueError(
                f"{len(lists)} lists of {name} must be {blocks}, one for each block that is left"
            )
        for indices in lists:
            if list(indices) != sorted(set(indices) & set(range(size))) or len(indices) != len(
                lists[0]
            ):
                raise ValueError(
                    f"{list(indices)} must be indices below {size}, in order, as many for each "
                    "block"
                )
        counts[name] = len(lists[0])
    return counts


def rename(family: Family, kept: Kept | None, name: str) -> str | None:
    """Return the name of a tensor or module after parts are renumbered, or None if its part is
    removed."""
    # AXES has blocks first, so the others are looked up by the new number of a block.
    for axis in AXES.values():
        if kept is None or axis.name not in kept or not axis.path(family):
            continue
        path, indices, block = axis.path(family), kept[axis.name], family.block_of(name)
        if axis.in_block:
            if block is None:
                continue
            path, indices = f"{family.blocks}.{block}.{path}", indices[block]
        match = re.match(rf"{re.escape(path)}\.([0-9]+)(?=\.|$)", name)
        if match:
            if int(match[1]) not in indices:
                return None
            name = f"{path}.{indices.index(int(match[1]))}{name[match.end() :]}"
    return name


def changed_config(config: Config, kept: Kept) -> dict[str, Any]:
    """Return the keys of config.json that change. config: all values, also those that the file
    leaves out."""
    family, changes = family_of(config), dict[str, Any]()
    for name, left in count_kept(kept, config).items():
        changes |= AXES[name].changes(family, config, left)
        for key in AXES[name].lists:
            values = config.get(key)
            if values is not None:
                changes[key] = [values[i] for i in kept[name]]
    return changes


def reader(family: Family, key: str) -> str:
    """Return the linear of a block whose inputs are counted by a key of config.json."""
    return next(
        name.removesuffix(".weight")
        for name, shape in family.block.items()
        if len(shape) == 2 and mentions(shape[1], key)
    )


def _cuts(family: Family, config: Config, kept: Kept, name: str) -> Iterator[tuple[int, list[int]]]:
    """Yield the dimensions of a tensor that get smaller, and the indices that are left of each."""
    block = family.block_of(rename(family, kept, name) or "")
    axes = [
        axis
        for axis in AXES.values()
        if axis.name in kept and (block is not None or not axis.in_block)
    ]
    for dimension, size in enumerate(_shape_of(family, name)):
        left: list[int] = []
        start, is_cut = 0, False
        for part in size if isinstance(size, tuple) else (size,):  # linears that are fused
            width = family.size(part, config)
            axis = next((axis for axis in axes if axis.counts(part, family)), None)
            inside: Sequence[int] = range(width)
            if axis is not None:
                inside = _indices(axis, family, config, kept, block, width)
            left += [start + i for i in inside]
            start += width
            is_cut = is_cut or axis is not None
        if is_cut:
            yield dimension, left


def _shape_of(family: Family, name: str) -> Shape:
    """Return the shape of a tensor in the family's table, or () for one that it does not have."""
    if name in TIED:
        return next(iter(family.outer.values()))
    inside = name.removeprefix(f"{family.blocks}.{family.block_of(name)}.")
    return family.outer.get(name) or family.tensors.get(inside, ())


def _indices(
    axis: Axis, family: Family, config: Config, kept: Kept, block: int | None, width: int
) -> list[int]:
    """Return the indices that are left of a dimension of `width`, which has as many for each part
    of an axis."""
    each = width // axis.size(family, config)
    parts: tuple[int, ...] = kept[axis.name]
    if axis.in_block and block is not None:
        parts = kept[axis.name][block]
    return [each * part + i for part in parts for i in range(each)]


class SmallerFolder(Folder):
    """A model folder as if it had only some of its parts, such as some blocks, renumbered from
    0."""

    def __init__(self, path: Path, kept: Kept) -> None:
        super().__init__(path)
        family = family_of(self.config)
        self._norms: tuple[str, ...] = ()
        self._scale = 1.0
        for name, left in count_kept(kept, self.config).items():
            if AXES[name].scales_norms and family.flow:
                self._norms = (family.flow.final, *family.flow.norms)
                self._scale = math.sqrt(AXES[name].size(family, self.config) / left)
        self._cut = {
            name: cuts for name in self if (cuts := list(_cuts(family, self.config, kept, name)))
        }
        for name, cuts in self._cut.items():
            shape = list(self._tensors[name].shape)
            for dimension, left_of in cuts:
                shape[dimension] = len(left_of)
            self._tensors[name] = self._tensors[name]._replace(shape=tuple(shape))
        tables: tuple[dict[str, Any], ...] = (self._where, self._tensors, self._pieces, self._cut)
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
