"""Write what a stage kept of its source, and check that it changed no weight of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.planning.artifact import Stage
from bench.verify import CheckFailed
from methods.contract.axes import AXES, Kept
from methods.contract.method import Outcome
from methods.model.experts import Stacked, stacked_as
from methods.model.families import Family
from methods.model.folder import Folder, Writer, dtype_name, state
from methods.model.header import TORCH_DTYPES
from methods.model.smaller_folder import (
    SmallerFolder,
    changed_config,
    count_kept,
    count_left,
    rename,
)
from methods.model.targets import family_of
from methods.workshop.pruning.holders import SHARD_BYTES


def opened(folder: Path, kept: Kept | None) -> Folder:
    """Return a folder as if it had only this. None: all."""
    return Folder(folder) if kept is None else SmallerFolder(folder, kept)


def kept_of(outcome: Outcome, stage: Stage, source: Path) -> Kept | None:
    """Return what a stage keeps of its source, or None for all. Raise CheckFailed if it keeps
    another amount than it says."""
    link = stage.link
    if outcome.kept is None and not link.shares:
        return None
    config, kept = Folder(source).config, outcome.kept or {}
    family = family_of(config)
    try:
        counts = count_kept(kept, config)
    except (TypeError, ValueError) as fault:
        raise CheckFailed(f"{stage.label} kept parts that do not fit: {fault}") from None
    expected = count_left(link.shares, config, link.options)
    sizes = {name: AXES[name].size(family, config) for name in (*expected, *counts)}
    left = sizes | counts
    if left != sizes | expected:
        raise CheckFailed(
            f"{stage.label} kept {left} parts, and {stage.pattern} leaves {sizes | expected}"
        )
    return kept if left != sizes else None


def write_smaller(
    model: nn.Module,
    source: Path,
    kept: Kept,
    target: Path,
    dtype: torch.dtype,
    changed: Collection[str] = (),
    merged: Path | None = None,
) -> dict[str, Any]:
    """Write what is left of a folder, and return the keys of config.json that change. Refuse
    changed weights.

    changed: names of tensors that are those of the model, such as those of merged experts; merged:
    folder that has them in place of a streamed model, and nothing else.
    """
    others = Folder(merged) if merged else None
    if not is_unchanged(model, Folder(source), dtype, changed) or (
        others and set(others) != set(changed)
    ):
        raise CheckFailed(
            "a method that makes a model smaller also changed weights: return the model unchanged, "
            "or name them in Outcome.changed"
        )
    folder, writer = SmallerFolder(source, kept), Writer(target, dtype=dtype)
    family, tensors, names = family_of(folder.config), state(model), list(folder)
    old = {rename(family, kept, name): name for name in changed}

    def read(name: str) -> Tensor:
        if name not in old:
            return folder.tensor(name)
        return others.tensor(old[name]) if others else tensors[old[name]].cpu()

    if any(parameter.is_meta for parameter in model.parameters()):
        # A shard is in memory until it is complete, so no shard is large.
        writer = Writer(target, SHARD_BYTES, dtype)
        names = _write_experts(writer, names, family, dtype, read)
    writer.add_folded(names, read, family)
    writer.close()
    return changed_config(model.config.to_dict(), kept)  # type: ignore[operator, union-attr]


def _write_experts(
    writer: Writer,
    names: Iterable[str],
    family: Family,
    dtype: torch.dtype,
    read: Callable[[str], Tensor],
) -> list[str]:
    """Write the experts among some tensors one by one, and return the names of the others."""
    others: list[str] = []
    stacks: dict[str, list[tuple[Stacked, str]]] = {}
    for name in names:
        place = stacked_as(name, family)
        if place:
            stacks.setdefault(place.name, []).append((place, name))
        else:
            others.append(name)
    for stored, members in stacks.items():
        place, name = members[0]
        shape = place.entry(read(name)).shape
        with writer.add_stacks({stored: (len(members), *shape)}, dtype) as file:
            for place, name in members:
                file.write(stored, place.number, place.entry(read(name)).to(dtype))
    return others


def is_unchanged(
    model: nn.Module, folder: Folder, dtype: torch.dtype, changed: Collection[str] = ()
) -> bool:
    """Return whether a model has the tensors of a folder, both rounded to `dtype`, but for those in
    `changed`. A tensor on meta was never loaded."""
    tensors = state(model)
    if set(tensors) != set(folder):
        return False
    for name, tensor in tensors.items():
        if name in changed:
            continue
        kind = _written_as(tensor, dtype)
        if not (tensor.is_meta or torch.equal(tensor.cpu().to(kind), folder.tensor(name).to(kind))):
            return False
    return True


def is_same(model: nn.Module, folder: Folder, dtype: torch.dtype) -> bool:
    """Return whether a model that is written in `dtype` is the folder."""
    dtypes = folder.dtypes()
    kinds = {name: dtype_name(_written_as(t, dtype)) for name, t in state(model).items()}
    has_formats = all(TORCH_DTYPES.get(dtypes.get(n, "")) == kind for n, kind in kinds.items())
    return has_formats and is_unchanged(model, folder, dtype)


def _written_as(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if tensor.is_floating_point() else tensor.dtype
