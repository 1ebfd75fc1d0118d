"""Low-rank terms beside the weights of linears, stored as a LoRA adapter that peft loads. Hu et al.
2021, arXiv 2106.09685.

A linear with a term computes W x + B A x. A model folder keeps its terms in the folder `adapter`
beside its weights. `methods.model.terms` has the terms of a model in memory.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from methods.contract.errors import UserError
from methods.model.safe_files import find_file
from methods.model.save_tensors import save_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FOLDER = "adapter"
CHILD = "low_rank_term"
"""Name of the module with the factors that a linear in memory has."""
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
GROUP, SCALE_BITS = 128, 16
"""Largest number of values of a rounded factor that share a scale, and the bits of a scale."""
PREFIX = "base_model.model."
"""Prefix of the names of tensors in an adapter's file."""
BITS = "cast_bench_bits"
"""Key in the metadata of an adapter's file with the bits of its values, if they are rounded to
integers."""


class Term(NamedTuple):
    """The factors of a low-rank term."""

    b: Tensor
    """[out, rank]"""
    a: Tensor
    """[rank, in]"""
    bits: int | None = None
    """Bits of the integers that both are rounded to. None: values of their number format."""

    @property
    def parameters(self) -> int:
        return self.a.numel() + self.b.numel()

    @property
    def packed_bytes(self) -> int:
        """Bytes of both, as integers with their scales if they are rounded."""
        if self.bits is None:
            return self.a.nbytes + self.b.nbytes
        return sum(
            -(-(self.bits * v.numel() + SCALE_BITS * v[..., 0].numel()) // 8) for v in self.groups()
        )

    def groups(self) -> list[Tensor]:
        """Return the values of each factor by the groups that share a scale: [rank, groups,
        values]."""
        return [v.unflatten(-1, (-1, group_of(v.shape[-1]))) for v in (self.a, self.b.T)]

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Term:
        return Term(self.b.to(device, dtype), self.a.to(device, dtype), self.bits)


def group_of(width: int) -> int:
    """Return the number of values of a rounded factor that share a scale: the largest power of two
    that divides the width."""
    return min(GROUP, width & -width)


def write(folder: Path, terms: Mapping[str, Term], transposed: bool) -> None:
    """Write the terms of a model beside its weights, each by the name of its linear.

    transposed: whether weights are stored [in, out], as in GPT-2's Conv1D.
    """
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
    factors = {
        f"{PREFIX}{n}.lora_{k}.weight": t
        for n, (b, a, _) in terms.items()
        for k, t in (("A", a), ("B", b))
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in factors.items()}
    (bits,) = {term.bits for term in terms.values()}
    save_tensors(tensors, home / WEIGHTS, {"format": "pt"} | ({BITS: str(bits)} if bits else {}))


def is_beside(folder: Path) -> bool:
    """Return whether a model folder has terms beside its weights."""
    return (folder / FOLDER / WEIGHTS).exists()


def refuse(folder: Path) -> None:
    """Refuse a model folder whose terms the caller would drop. Raise UserError if it has terms."""
    if is_beside(folder):
        raise UserError(
            f"{folder} has a low-rank term beside its weights (the folder {FOLDER}): merge it "
            f"first with bench export {folder} --merge --out DIR"
        )


def read(folder: Path) -> dict[str, Term]:
    """Read the terms of a model folder; none if it has no adapter. Raise UserError if factors do
    not fit each other."""
    if not is_beside(folder):
        return {}
    from safetensors import safe_open

    home = folder / FOLDER
    find_file(home, WEIGHTS, None)
    parts: dict[str, dict[str, Tensor]] = {}
    with safe_open(home / WEIGHTS, "pt") as file:
        bits = (file.metadata() or {}).get(BITS)
        for name in file.keys():  # noqa: SIM118  it is no dict
            match = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.lora_(A|B)\.weight", name)
            # the rounding of products depends on the alignment of their operands, and a reader
            # aligns none
            value = file.get_tensor(name).clone()
            parts.setdefault(match[1] if match else name, {})[match[2] if match else ""] = value
    if bits not in (None, "4", "8"):
        raise UserError(
            f"{home} has factors of {bits} bits, and 4 or 8 are possible: write it again"
        )
    for name, found in parts.items():
        if (
            found.keys() != {"A", "B"}
            or found["A"].dim() != 2
            or found["B"].shape[1:] != found["A"].shape[:1]
        ):
            raise UserError(f"{home} lacks factors of {name} that fit each other: write it again")
    return {name: Term(found["B"], found["A"], bits and int(bits)) for name, found in parts.items()}


def are_equal(some: Mapping[str, Term], others: Mapping[str, Term]) -> bool:
    """Return whether two models have the same terms."""
    import torch

    return some.keys() == others.keys() and all(
        torch.equal(mine.cpu(), other.cpu())
        for n in some
        for mine, other in zip(some[n][:2], others[n][:2], strict=True)
    )


def copy(source: Path, target: Path) -> None:
    """Copy the terms of a model folder, if it has any, to another."""
    if is_beside(source):
        (target / FOLDER).mkdir()
        for name in (CONFIG, WEIGHTS):
            find_file(source / FOLDER, name, None)
            shutil.copyfile(source / FOLDER / name, target / FOLDER / name)
