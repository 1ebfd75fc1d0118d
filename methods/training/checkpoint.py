"""Checkpoints a killed training goes on from: tensors as safetensors, sharded by rank, and JSON beside them. No pickle."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from methods.training.ranks import is_single_process

KEEP = 2
"""So that one is whole while the next is being written."""


def write(root: Path, step: int, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
    """Write root/step-N, whole or not at all. With several ranks each writes its shards, and all must call."""
    final, making = root / f"step-{step}", root / f".step-{step}"
    first = is_single_process() or dist.get_rank() == 0
    if first:
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
    if not is_single_process():
        dist.barrier()
    writer = HuggingFaceStorageWriter(str(making), save_distributed=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        state_dict_saver.save(dict(tensors), storage_writer=writer, no_dist=is_single_process())
    if first:
        (making / "about.json").write_text(json.dumps(dict(about), allow_nan=False))
        for file in making.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        shutil.rmtree(final, ignore_errors=True)
        making.rename(final)
        for old in _steps(root)[:-KEEP]:
            shutil.rmtree(root / f"step-{old}")
    if not is_single_process():
        dist.barrier()
    return final


def _steps(root: Path) -> list[int]:
    found = (p.name.removeprefix("step-") for p in root.glob("step-*") if (p / "about.json").exists())
    return sorted(int(name) for name in found if name.isdigit())


def newest(root: Path) -> Path | None:
    """The last whole checkpoint under `root`."""
    steps = _steps(root)
    return root / f"step-{steps[-1]}" if steps else None


def about(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "about.json").read_text())
    return found


def read_into(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors`, each of the shape it was written with, in place; shards may be cut for another number of ranks."""
    reader = HuggingFaceStorageReader(str(folder))
    held = dict(tensors)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        state_dict_loader.load(held, storage_reader=reader, no_dist=is_single_process())
    for name, tensor in tensors.items():
        if held[name] is not tensor:
            tensor.copy_(held[name])
