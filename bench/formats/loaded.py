"""Load what `bench export` wrote, and compare its logits and its size with those of the row."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from bench.formats.checkpoint import stored_plain
from bench.formats.contract import ModelSource
from bench.inputs import loading
from bench.results.metrics import SIZE
from bench.results.store import RESULTS, ReadOnlyStore
from bench.verify import check_function
from methods.contract.method import Compute
from methods.model.folder import Folder
from methods.model.targets import find_targets

SENTENCE = (
    "A folder that another program loads must give the logits of the model that was measured."
)
RANDOM_TOKENS = 32
"""Limit of random token ids. Every vocabulary is larger."""


def compare_folders(before: Path, after: Path, computed: str, tolerance: float) -> str:
    """Check the logits of two folders with transformers. Return a sentence about them.

    computed: number format. Raise CheckFailed if they differ by more than the tolerance.
    """
    tokens = torch.tensor(loading.load_tokenizer(before)(SENTENCE)["input_ids"])[None]
    old, new = (
        loading.load(folder, Compute(dtype=getattr(torch, computed))) for folder in (before, after)
    )
    return describe_error("transformers", check_function(old, new, tokens, tolerance))


def describe_error(engine: str, error: float) -> str:
    """Return a sentence about the logits of a written model in another engine."""
    return f"; loaded by {engine}, its logits differ by {error:.2g} of their size"


def describe_size(model: ModelSource, workdir: Path) -> str:
    """Return a sentence about the bytes of a written safetensors folder beside those of the row."""
    source, written, (include, exclude) = Folder(model.folder), Folder(workdir), model.targets
    targets = set(find_targets(source.config, source.shapes(), include, exclude))
    parts = stored_plain(written.shapes(), written.dtypes()).items()
    count = sum(math.prod(source.shapes()[f"{target}.weight"]) for target in targets)
    size = sum(size.values for name, size in parts if name.rpartition(".")[0] in targets)
    total = sum(file.stat().st_size for file in workdir.glob("*.safetensors"))
    return describe_bytes(model, total, 8 * size / count)


def describe_bytes(model: ModelSource, total: int, bits: float) -> str:
    """Return a sentence about bytes and bits per weight of written files beside those of the
    row."""
    said, record = f"; {total / 1e6:.4g} MB, {bits:.4g} bits per weight", model.record
    if record is None:
        return said
    for same in ReadOnlyStore(model.results or RESULTS):
        if same.artifact != record.artifact:
            continue
        counted = {reading.metric: reading.value for reading in same.readings}
        size, own = counted.get(SIZE), counted.get("bits_per_weight")
        if size and own:
            return f"{said}, where the row counts {size / 1e6:.4g} MB and {own:.4g}"
    return said
