"""Counts of the linears of a packed24 folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench.kernels.folder24 import MANIFEST, Folder24
from bench.verify import WeightCounts, count_layer
from methods.folder import read_config
from methods.pattern import Pattern
from methods.targets import family_of, find_targets, require_fit


def is_packed(path: Path) -> bool:
    """Return whether a path is a packed24 folder."""
    return (path / MANIFEST).is_file()


def count_packed(path: Path, pattern: Pattern, include: Iterable[str], exclude: Iterable[str]) -> WeightCounts:
    """Count over the target linears, as `verify_folder` does in the unpacked folder.

    Raises:
        UserError: no packed24 folder, a wrong checksum, an unsupported architecture, no linear that matches, or input
            widths that are not multiples of the group.
    """
    folder, config = Folder24(path), read_config(path)
    shapes = {name: entry.shape for name, entry in folder.entries.items()}
    targets = find_targets(config, shapes, include, exclude)
    require_fit(pattern, config, shapes, targets, "--exclude ")
    counts = WeightCounts(pattern)
    for target in targets:
        weight = folder.tensor(f"{target}.weight")
        count_layer(counts, target, weight.T if family_of(config).transposed else weight)
    return counts
