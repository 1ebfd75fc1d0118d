"""Low-rank terms beside the weights of linears, stored as a LoRA adapter that peft loads. Hu et al. 2021, arXiv 2106.09685.

A linear with a term computes W x + B A x. A model folder keeps its terms in the folder `adapter` beside its weights.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from methods.errors import UserError
from methods.files import find_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

FOLDER = "adapter"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Prefix of the names of tensors in an adapter's file."""


class Term(NamedTuple):
    """The factors of a low-rank term."""

    b: Tensor
    """[out, rank]"""
    a: Tensor
    """[rank, in]"""

    @property
    def parameters(self) -> int:
        return self.a.numel() + self.b.numel()

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Term:
        return Term(self.b.to(device, dtype), self.a.to(device, dtype))


def attach(module: nn.Module, term: Term) -> RemovableHandle:
    """Add a term to a linear until the handle is removed, in at least float32, as peft does. The weight does not change."""
    import torch
    from torch.nn.functional import linear

    wide = torch.promote_types(term.a.dtype, torch.float32)
    b, a = term.to(term.a.device, wide)

    def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return (output + linear(linear(args[0].to(wide), a), b)).to(output.dtype)

    return module.register_forward_hook(add)


def write(folder: Path, terms: Mapping[str, Term], transposed: bool) -> None:
    """Write the terms of a model beside its weights, each by the name of its linear.

    transposed: whether weights are stored [in, out], as in GPT-2's Conv1D.
    """
    from safetensors.torch import save_file

    ranks = {name: len(term.a) for name, term in terms.items()}
    most = max(ranks.values())
    own = {name: rank for name, rank in ranks.items() if rank != most}
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": most,
        "lora_alpha": most,
        "rank_pattern": own,
        "alpha_pattern": own,  # so that the factor alpha / r of each is 1
        "target_modules": list(terms),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
    }
    home = folder / FOLDER
    home.mkdir()
    (home / CONFIG).write_text(json.dumps(about, indent=2))
    factors = {f"{PREFIX}{n}.lora_{k}.weight": t for n, (b, a) in terms.items() for k, t in (("A", a), ("B", b))}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in factors.items()}
    save_file(tensors, home / WEIGHTS, metadata={"format": "pt"})


def is_beside(folder: Path) -> bool:
    """Return whether a model folder has terms beside its weights."""
    return (folder / FOLDER / WEIGHTS).exists()


def refuse(folder: Path) -> None:
    """Refuse a model folder whose terms the caller would drop. Raise UserError if it has terms."""
    if is_beside(folder):
        raise UserError(
            f"{folder} has a low-rank term beside its weights (the folder {FOLDER}): "
            f"merge it first with bench export {folder} --merge --out DIR"
        )


def read(folder: Path) -> dict[str, Term]:
    """Read the terms of a model folder; none if it has no adapter.

    Raises:
        UserError: a factor is missing, or two do not fit each other.
    """
    if not is_beside(folder):
        return {}
    from safetensors.torch import load_file

    home = folder / FOLDER
    find_file(home, WEIGHTS, None)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_file(home / WEIGHTS).items():
        match = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.lora_(A|B)\.weight", name)
        # the rounding of products depends on the alignment of their operands, and a reader aligns none
        parts.setdefault(match[1] if match else name, {})[match[2] if match else ""] = tensor.clone()
    for name, found in parts.items():
        if found.keys() != {"A", "B"} or found["A"].dim() != 2 or found["B"].shape[1:] != found["A"].shape[:1]:
            raise UserError(f"{home} lacks factors of {name} that fit each other: write it again")
    return {name: Term(found["B"], found["A"]) for name, found in parts.items()}


def copy(source: Path, target: Path) -> None:
    """Copy the terms of a model folder, if it has any, to another."""
    if is_beside(source):
        (target / FOLDER).mkdir()
        for name in (CONFIG, WEIGHTS):
            find_file(source / FOLDER, name, None)
            shutil.copyfile(source / FOLDER / name, target / FOLDER / name)
