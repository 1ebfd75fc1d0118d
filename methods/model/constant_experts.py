"""Constants in place of experts of a mixture. A removed expert keeps its row of the router, and its
output is one vector for all tokens. Zhang et al. 2025, MoNE, arXiv 2507.00390.

The weights of the folder are those of an ordinary mixture without the removed experts. The
constants and the other rows of the router are in the folder `constant_experts` beside them.
`methods.model.experts` has them in memory.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from methods.contract.errors import UserError
from methods.contract.method import Constants
from methods.model.safe_files import find_file
from methods.model.save_tensors import save_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FOLDER = "constant_experts"
FILE = "constants.safetensors"
OUTPUTS = "outputs"


def write(folder: Path, constants: Constants, dtype: torch.dtype) -> None:
    """Write constants beside the weights of a model."""
    tensors = {}
    for block, named in constants.items():
        for name, tensor in named.items():
            tensors[f"{block}.{name}"] = tensor.to("cpu", dtype).contiguous()
    (folder / FOLDER).mkdir()
    save_tensors(tensors, folder / FOLDER / FILE, {"format": "pt"})


def read(folder: Path, device: str = "cpu") -> Constants:
    """Read the constants of a model folder to a device. Returns an empty mapping if it has none."""
    from safetensors.torch import load_file

    path = find_file(folder / FOLDER, FILE, None)
    blocks: dict[int, dict[str, Tensor]] = {}
    for name, tensor in (load_file(path, device) if path else {}).items():
        block, _, name = name.partition(".")
        blocks.setdefault(int(block), {})[name] = tensor
    return blocks


def refuse(folder: Path) -> None:
    """Raise UserError if a model folder has constants, which the caller would drop."""
    if find_file(folder / FOLDER, FILE, None):
        raise UserError(
            f"{folder} has constants in place of experts (the folder {FOLDER}), which only bench "
            "run measures: use experts:drop=, whose folder other libraries load"
        )


def copy(source: Path, target: Path) -> None:
    """Copy the constants of a model folder, if it has any, to another."""
    path = find_file(source / FOLDER, FILE, None)
    if path:
        (target / FOLDER).mkdir()
        shutil.copyfile(path, target / FOLDER / FILE)
