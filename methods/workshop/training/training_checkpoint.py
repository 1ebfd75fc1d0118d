"""Training checkpoints: tensors as safetensors, sharded by rank, and JSON. No pickle."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from methods.workshop.training.process_group import is_single_process

MAX_CHECKPOINTS = 2
"""Two, so that one is complete while the next is being written."""
FILE_BYTES = 2**28
"""A file is closed once it has this many. Torch builds a whole file in memory, twice, before it
writes it."""


def write(
    root: Path, step: int, tensors: Mapping[str, Tensor], info: Mapping[str, Any], group: Any = None
) -> Path:
    """Write root/step-N atomically. Every rank must call it and writes its shards.

    group: process group that the ranks agree by; None for the default one.
    """
    # imported here: it takes a second, and a typed hyperparameter is checked without it
    from torch.distributed.checkpoint import state_dict_saver
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    final, partial = root / f"step-{step}", root / f".step-{step}"
    first = is_single_process() or dist.get_rank() == 0
    if first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    if not is_single_process():
        dist.barrier(group)
    starts = itertools.accumulate((t.nbytes for t in tensors.values()), initial=0)
    files = {name: 1 + start // FILE_BYTES for name, start in zip(tensors, starts, strict=False)}
    writer = HuggingFaceStorageWriter(
        str(partial), fqn_to_index_mapping=files, save_distributed=True
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        state_dict_saver.save(
            dict(tensors), storage_writer=writer, process_group=group, no_dist=is_single_process()
        )
    if first:
        (partial / "about.json").write_text(json.dumps(dict(info), allow_nan=False))
        for file in partial.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in _steps(root)[:-MAX_CHECKPOINTS]:
            shutil.rmtree(root / f"step-{old}")
    if not is_single_process():
        dist.barrier(group)
    return final


def _steps(root: Path) -> list[int]:
    names = (
        p.name.removeprefix("step-") for p in root.glob("step-*") if (p / "about.json").exists()
    )
    return sorted(int(name) for name in names if name.isdigit())


def latest(root: Path) -> Path | None:
    """Return the newest complete checkpoint under `root`."""
    steps = _steps(root)
    return root / f"step-{steps[-1]}" if steps else None


def read_info(folder: Path) -> dict[str, Any]:
    """Return the JSON values of a checkpoint."""
    info: dict[str, Any] = json.loads((folder / "about.json").read_text())
    return info


def read_into(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read a checkpoint into `tensors`, in place. The number of ranks may have changed."""
    from torch.distributed.checkpoint import state_dict_loader
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    reader = HuggingFaceStorageReader(str(folder))
    values = dict(tensors)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        state_dict_loader.load(values, storage_reader=reader, no_dist=is_single_process())
    for name, tensor in tensors.items():
        if values[name] is not tensor:
            tensor.copy_(values[name])
