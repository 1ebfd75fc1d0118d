"""SparseML 1.8, which is no longer maintained, in a separate environment: `bench env create
sparseml`.

Its SparseGPT (Frantar & Alistarh 2023, arXiv 2301.00774) and magnitude (Han et al. 2015, arXiv
1506.02626), as that library runs them. This file has none of its code:
`baselines.isolated.sparseml_prune` calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from baselines.isolated import sparseml_prune
from methods import Cost, Job, MethodInfo, Needs, Outcome, Skipped
from methods.contract.info import HESSIANS_PER_LINEAR
from methods.contract.ranges import Count, Fraction
from methods.contract.rules import SingleWeights, WholeGroups
from methods.model.families import Family
from methods.model.targets import as_regexes, family_of
from methods.workshop.isolated import Script, prune

SUPPORTED_FAMILIES = ("llama", "mistral", "qwen2", "opt")
"""Families whose linears both sides call by one name and whose config `older` translates."""


@dataclass(frozen=True)
class SparsemlSparseGPT:
    """SparseML's SparseGPT.

    SparseGPTModifier, block after block. damping: share of H's mean diagonal that is added; block:
    columns between updates.
    """

    name: ClassVar[str] = "sparseml-sparsegpt"
    needs: ClassVar[Needs] = Needs.CALIBRATION | Needs.ISOLATED
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2301.00774",
        cost=Cost(
            passes=32,
            hessians=HESSIANS_PER_LINEAR,
            also="runs the whole model again for each block",
        ),
        environment="sparseml",
        rules=(WholeGroups("block"), SingleWeights()),
    )
    damping: Fraction = 0.01
    block: Count = 128

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        job.pattern.require_whole_groups(self.block, f"{self.name}:block")
        family = _family(model, job)
        blocks = _block_indices(job.targets, family)
        settings = {
            "method": "sparsegpt",
            "damping": self.damping,
            "block": self.block,
            "blocks": [rf"^{family.blocks}\.({'|'.join(map(str, blocks))})$"],
            "count": len(blocks),
        }
        return prune(model, job, _script(model, settings))


@dataclass(frozen=True)
class SparsemlMagnitude:
    """SparseML's magnitude.

    MagnitudePruningModifier, in one step.
    """

    name: ClassVar[str] = "sparseml-magnitude"
    needs: ClassVar[Needs] = Needs.ISOLATED
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="1506.02626",
        cost=Cost(also="one pass over the weights"),
        environment="sparseml",
        rules=(SingleWeights(),),
    )

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        settings = {"method": "magnitude", "linears": as_regexes(job.targets, _family(model, job))}
        return prune(model, job, _script(model, settings))


def _family(model: nn.Module, job: Job) -> Family:
    """Raise Skipped if SparseML's transformers 4.40 lacks the architecture, or there is nothing to
    prune."""
    config = model.config.to_dict()  # type: ignore[operator, union-attr]
    if config["model_type"] not in SUPPORTED_FAMILIES:
        raise Skipped(
            f"SparseML's transformers is too old for {config['model_type']}: supported are "
            f"{', '.join(SUPPORTED_FAMILIES)}"
        )
    if job.pattern.dense:
        raise Skipped("nothing to prune: the pattern is dense")
    return family_of(config)


def _block_indices(targets: tuple[str, ...], family: Family) -> list[int]:
    """Raise Skipped if only a part of a block is to be pruned."""
    blocks = [b for b in dict.fromkeys(map(family.block_of, targets)) if b is not None]
    if len(targets) != len(blocks) * len(family.linears):
        raise Skipped(
            "SparseML's SparseGPT prunes whole decoder blocks: leave targets.include and "
            "targets.exclude out"
        )
    return blocks


def _script(model: nn.Module, settings: Mapping[str, Any]) -> Script:
    config = to_old_config(model.config.to_dict())  # type: ignore[operator, union-attr]
    return Script(path=Path(sparseml_prune.__file__), config=config, settings=settings)


def to_old_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config for transformers 4.40, which ignores `rope_parameters` and would use a
    rope_theta of 10000.

    Raise Skipped if it does not support this scaling of positions.
    """
    out = {
        k: v
        for k, v in config.items()
        if k not in ("rope_parameters", "dtype", "transformers_version")
    }
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        out["rope_theta"] = rope["rope_theta"]
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "dynamic"):
        out["rope_scaling"] = {"type": kind, "factor": rope["factor"]}
    elif kind != "default":
        raise Skipped(f"SparseML's transformers does not support positions scaled by {kind!r}")
    if config.get("dtype"):
        out["torch_dtype"] = str(config["dtype"]).removeprefix("torch.")
    return out
