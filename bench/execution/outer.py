"""The embedding and the head of a quantized model: rounded in the folder that a stage wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bench.catalog import registry
from bench.planning.artifact import EmbeddingFormat
from bench.verify import CheckFailed
from methods.contract.codec import StoredWeight
from methods.contract.pattern import Pattern
from methods.model.folder import TIED, Folder
from methods.model.header import read_header
from methods.model.safe_files import find_file
from methods.model.targets import family_of


def modules_of(folder: Folder) -> dict[str, str]:
    """Return the module names of the embedding and of the head, by "embed" and "head". A tied head
    is the embedding."""
    embedding = next(iter(family_of(folder.config).outer))
    found = {"embed": embedding.removesuffix(".weight")}
    head = next((name for name in TIED if name in folder), None)
    if head:
        found["head"] = head.removesuffix(".weight")
    return found


def round_(path: Path, formats: Mapping[str, EmbeddingFormat]) -> dict[str, StoredWeight]:
    """Round the embedding and the head of a model folder in place. Return their stored weights by
    module.

    formats: by "embed" and "head". A part without a format keeps its numbers. Raise CheckFailed if
    a format gives another shape.
    """
    folder = Folder(path)
    stored = {}
    for part, module in modules_of(folder).items():
        if part not in formats:
            continue
        entry = registry.lookup("embeddings", formats[part].name)
        name = f"{module}.weight"
        weight = folder.tensor(name)
        with registry.guarded(entry):
            one = registry.load(entry)(weight)
        # The float32 of an embedding is the largest tensor of a run.
        rounded = one.decode().to(weight.dtype)
        if rounded.shape != weight.shape:
            raise CheckFailed(
                f"the format {formats[part].name} decodes {name} to {[*rounded.shape]}: its weight "
                f"is {[*weight.shape]}"
            )
        _overwrite(path, name, rounded)
        stored[module] = one._replace(pattern=Pattern())
    return stored


def _overwrite(path: Path, name: str, tensor: Tensor) -> None:
    """Write the values of a tensor over those in its file."""
    for file in Folder(path).files():
        info = read_header(path, file.name).get(name)
        opened = find_file(path, file.name, None)
        if info is None or opened is None:
            continue
        with opened.open("r+b") as stream:
            stream.seek(info.begin)
            stream.write(tensor.contiguous().view(torch.uint8).numpy().data)
