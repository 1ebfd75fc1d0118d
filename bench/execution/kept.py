"""Blocks of a stage's source that it kept, and whether it changed their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.planning.artifact import Stage
from bench.verify import CheckFailed
from methods.contract import Outcome
from methods.experts import fold
from methods.folder import Folder, Writer, dtype_name, state
from methods.header import TORCH_DTYPES
from methods.kept_blocks import FolderOfBlocks, changed_config, count_dropped
from methods.pattern import Pattern
from methods.targets import family_of


def opened(folder: Path, blocks: Sequence[int] | None) -> Folder:
    """Return a folder as if it had only these blocks. None: all."""
    return Folder(folder) if blocks is None else FolderOfBlocks(folder, blocks)


def kept_blocks(outcome: Outcome, stage: Stage, source: Path) -> tuple[int, ...] | None:
    """Return the blocks to keep, or None for all.

    Raises:
        CheckFailed: they are not as many as the stage's pattern says.
    """
    if outcome.blocks is None:
        return None
    config = Folder(source).config
    removed = Pattern.parse(stage.pattern).removed or "0"
    blocks: int = config[family_of(config).layers]
    count = count_dropped(int(removed) if removed.isdecimal() else removed, config)
    kept = outcome.blocks
    if sorted(set(kept) & set(range(blocks))) != list(kept) or len(kept) != blocks - count:
        raise CheckFailed(f"blocks {list(kept)} of {blocks} are kept, and {stage.pattern} removes {count} of them")
    return kept if count else None


def write_blocks(
    model: nn.Module | Path, source: Path, kept: Sequence[int], target: Path, dtype: torch.dtype
) -> dict[str, Any]:
    """Write some blocks of a folder, and return the keys of config.json that change.

    Raises:
        CheckFailed: the method also changed weights.
    """
    if not isinstance(model, nn.Module) or not is_unchanged(model, Folder(source), dtype):
        raise CheckFailed("a method that removes blocks also changed weights: return it unchanged")
    folder, writer = FolderOfBlocks(source, kept), Writer(target, dtype=dtype)
    for name, tensor in fold(folder, folder.tensor, family_of(folder.config)):
        writer.add(name, tensor)
    writer.close()
    return changed_config(model.config.to_dict(), kept)  # type: ignore[operator, union-attr]


def is_unchanged(model: nn.Module, folder: Folder, dtype: torch.dtype) -> bool:
    """Return whether a model has the tensors of a folder, both rounded to `dtype`. A tensor on meta was never loaded."""
    tensors = state(model)
    return set(tensors) == set(folder) and all(
        t.is_meta or torch.equal(t.cpu().to(kind), folder.tensor(n).to(kind))
        for n, t in tensors.items()
        for kind in (dtype if t.is_floating_point() else t.dtype,)
    )


def is_same(model: nn.Module, folder: Folder, dtype: torch.dtype) -> bool:
    """Return whether a model that is written in `dtype` is the folder."""
    dtypes = folder.dtypes()
    kinds = {n: dtype_name(dtype if t.is_floating_point() else t.dtype) for n, t in state(model).items()}
    return all(TORCH_DTYPES.get(dtypes.get(n, "")) == kind for n, kind in kinds.items()) and is_unchanged(
        model, folder, dtype
    )
