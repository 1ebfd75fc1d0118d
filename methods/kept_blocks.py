"""A model without some of its decoder blocks: how many go, the names of the others, and config.json. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from methods.errors import UserError
from methods.families import Family
from methods.folder import Folder
from methods.targets import family_of

LISTS = ("layer_types", "no_rope_layers")
"""Keys of config.json that list a value for each block."""
BY_INDEX = ("scale_attn_by_inverse_layer_idx",)
"""Keys of config.json that make a block's function depend on its index."""


def count_dropped(drop: int | str, config: Mapping[str, Any]) -> int:
    """Return the number of blocks to remove. drop: that number, or a share such as "25%", which is rounded.

    Raises:
        UserError: no block would be left, or a block's function depends on its index.
    """
    blocks: int = config[family_of(config).layers]
    count = drop if isinstance(drop, int) else math.floor(float(drop.removesuffix("%")) / 100 * blocks + 0.5)
    if count >= blocks:
        raise UserError(f"invalid drop={drop}: the model has {blocks} blocks, and at least one must be left")
    for key in BY_INDEX:
        if config.get(key):
            raise UserError(
                f"no block of this model can be removed, because {key} in its config.json makes each depend on its index: "
                "use another model"
            )
    return count


def rename(family: Family, kept: Sequence[int], name: str) -> str | None:
    """Return the name of a tensor or module after its block is renumbered, or None if its block is removed.

    kept: indices of the blocks that are left, in order.
    """
    index = family.block_of(name)
    if index is None:
        return name
    if index not in kept:
        return None
    return f"{family.blocks}.{kept.index(index)}" + name.removeprefix(f"{family.blocks}.{index}")


def changed_config(config: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Return the keys of config.json that change. config: all values, also those that the file leaves out."""
    layers = family_of(config).layers
    lists = {key: config[key] for key in LISTS if config.get(key) is not None}
    return {layers: len(kept)} | {key: [values[i] for i in kept] for key, values in lists.items()}


class FolderOfBlocks(Folder):
    """A model folder as if it had only some of its blocks, renumbered from 0."""

    def __init__(self, path: Path, kept: Sequence[int]) -> None:
        """kept: indices of the blocks that are left, in order."""
        super().__init__(path)
        family = family_of(self.config)
        tables: tuple[dict[str, Any], ...] = (self._where, self._tensors, self._pieces)
        for table in tables:
            named = {rename(family, kept, name): value for name, value in table.items()}
            table.clear()
            table.update({name: value for name, value in named.items() if name is not None})
