"""Export a model as packed24: kept values and bitmasks."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.formats.contract import ModelSource, Options
from bench.formats.stored import StoredFolder
from bench.formats.stored_grids import common_bits, describe_outer
from bench.inputs import architecture
from bench.parts.packed24 import folder24
from bench.parts.packed24.codec import store
from bench.parts.packed24.integers24 import BITS, pack_codes, pack_rounded
from bench.parts.packed24.packing import pack
from bench.parts.packed24.windows24 import group_of, to_windows
from methods.contract.errors import UserError
from methods.model.folder import Folder
from methods.model.targets import find_targets, require_matches
from methods.workshop.quantizing.integers import integers_of


def write(model: ModelSource, workdir: Path, options: Options) -> str:
    """Write a model whose linears are 2:4, or options.windows. Return a sentence. Raise UserError
    if they are not."""
    folder, values, windows = model.folder, options.values, options.windows
    codes = StoredFolder(folder)
    bits = common_bits(codes)
    own = next((kind for kind, width in BITS.items() if width == bits), None)
    grid = values or own
    group = group_of(windows) if windows else 0
    if group and grid == "int4":
        raise UserError(
            f"--windows {windows} has no int4, whose scales are for groups of other weights: use "
            "--values int8"
        )
    source, (include, kept_dense) = Folder(folder), model.targets
    architecture.check(source)
    require_matches(options.exclude, find_targets(source.config, source.shapes()), model.name)
    found = find_targets(source.config, source.shapes(), include, (*kept_dense, *options.exclude))
    targets = {f"{target}.weight" for target in found}
    writer = folder24.Writer24(workdir)
    weights = bytes_ = rounded = 0
    for name in source:
        weight = source.tensor(name)
        if name.removesuffix(".weight") in codes.outer:
            writer.add_stored(name, weight)
            continue
        if name not in targets:
            writer.add(name, weight)
            continue
        stored = to_windows(weight, group, name) if group else weight
        target = name.removesuffix(".weight")
        if grid is None:
            packed = pack(stored, name)
        elif grid == own and target in codes and not group:
            packed = pack_codes(stored, integers_of(codes[target]), name)
        else:
            packed = pack_rounded(stored, grid, name)
        exact = grid is None or torch.equal(store(packed).decode(), stored.float())
        writer.add_packed(name, packed, exact=exact, windows=group, width=weight.shape[1])
        weights += weight.numel()
        bytes_ += packed.nbytes
        rounded += not exact
    writer.close()
    codes.write_outer(workdir)
    summary = f"{len(targets)} linears packed, {8 * bytes_ / weights:.4g} bits per weight"
    summary += describe_outer(codes)
    if group:
        n = group // 2
        summary += (
            f", as windows of 2:4: a kernel repeats inputs to {2 * (n - 1) / n:.4g} times their "
            f"number, and has {(n - 1) / n:.4g} of the dense arithmetic, at most "
            f"{n / (n - 1):.3g} times as fast"
        )
    if rounded:
        summary += f"; {rounded} of them were rounded to {grid}"
    elif grid is not None:
        summary += f"; all were on {grid} grids already"
    elif codes:
        summary += "; packed24 has integers of 8 and 4 bits alone, so values are stored as floats"
    return summary
