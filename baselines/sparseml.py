"""SparseML 1.8, which reached its end of life, in an environment of its own: `bench env create sparseml`.

Its SparseGPT (Frantar & Alistarh 2023, arXiv 2301.00774) and magnitude (Han et al. 2015, arXiv 1506.02626), as that
library runs them. None of its code is here: `baselines.isolated.sparseml_prune` calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from baselines.isolated import sparseml_prune
from methods.contract import Job, Needs, Outcome
from methods.errors import Skipped, UserError
from methods.isolated import Child, prune
from methods.targets import Family, as_patterns, family_of

KNOWN = ("llama", "mistral", "qwen2", "opt")
"""Families whose linears both sides call by one name and whose config `older` translates."""


@dataclass(frozen=True)
class SparsemlSparseGPT:
    """SparseGPTModifier, block after block. damping: fraction of H's mean diagonal; block: columns between updates."""

    name: ClassVar[str] = "sparseml-sparsegpt"
    needs: ClassVar[Needs] = Needs.CALIBRATION | Needs.ISOLATED
    damping: float = 0.01
    block: int = 128

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if not 0 <= self.damping <= 1:
            raise UserError(f"{self.name}:damping={self.damping} will not do: it is a fraction, from 0 to 1")
        if self.block < 1 or not job.pattern.fits(self.block):
            raise UserError(f"{self.name}:block={self.block} cannot hold whole groups of {job.pattern}")
        family = _family(model, job)
        blocks = _whole_blocks(job.targets, family)
        settings = {
            "method": "sparsegpt",
            "damping": self.damping,
            "block": self.block,
            "blocks": [rf"^{family.blocks}\.({'|'.join(map(str, blocks))})$"],
            "count": len(blocks),
        }
        return prune(model, job, _child(model, settings))


@dataclass(frozen=True)
class SparsemlMagnitude:
    """MagnitudePruningModifier, in one step."""

    name: ClassVar[str] = "sparseml-magnitude"
    needs: ClassVar[Needs] = Needs.ISOLATED

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        settings = {"method": "magnitude", "linears": as_patterns(job.targets, _family(model, job))}
        return prune(model, job, _child(model, settings))


def _family(model: nn.Module, job: Job) -> Family:
    """
    Raises:
        Skipped: an architecture that SparseML's transformers 4.40 does not know, or nothing to prune.
    """
    config = model.config.to_dict()  # type: ignore[operator, union-attr]
    if config["model_type"] not in KNOWN:
        raise Skipped(f"SparseML's transformers is too old for {config['model_type']}: it gets {', '.join(KNOWN)} here")
    if job.pattern.dense:
        raise Skipped("the pattern is dense: there is nothing to prune")
    return family_of(config)


def _whole_blocks(targets: tuple[str, ...], family: Family) -> list[int]:
    """
    Raises:
        Skipped: a block is to be pruned in part.
    """
    blocks = [b for b in dict.fromkeys(map(family.block_of, targets)) if b is not None]
    if len(targets) != len(blocks) * len(family.linears):
        raise Skipped("SparseML's SparseGPT prunes whole decoder blocks: leave targets.include and targets.exclude out")
    return blocks


def _child(model: nn.Module, settings: Mapping[str, Any]) -> Child:
    config = older(model.config.to_dict())  # type: ignore[operator, union-attr]
    return Child(script=Path(sparseml_prune.__file__), config=config, settings=settings)


def older(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as transformers 4.40 reads it: it would take no notice of `rope_parameters`, and rope_theta for 10000.

    Raises:
        Skipped: positions are scaled in a way it does not know.
    """
    out = {k: v for k, v in config.items() if k not in ("rope_parameters", "dtype", "transformers_version")}
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        out["rope_theta"] = rope["rope_theta"]
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "dynamic"):
        out["rope_scaling"] = {"type": kind, "factor": rope["factor"]}
    elif kind != "default":
        raise Skipped(f"SparseML's transformers does not know positions scaled by {kind!r}")
    if config.get("dtype"):
        out["torch_dtype"] = str(config["dtype"]).removeprefix("torch.")
    return out
