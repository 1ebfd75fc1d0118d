"""llm-compressor's SparseGPT, Wanda, AWQ and SmoothQuant, called in this process as its users do.
Needs the extra `llmcompressor`.

Frantar & Alistarh 2023, arXiv 2301.00774; Sun et al. 2024, arXiv 2306.11695. This file has none of
its code.

With targets given by class it also prunes a tied lm_head, even if that is on the ignore list. So
targets are given by regular expressions here, and the runner checks that nothing else changed.
Where a Hessian cannot be inverted it uses the identity instead; `notes["identity_hessians"]` counts
these.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import torch
from torch import nn

from methods import Cost, Does, Job, MethodInfo, Needs, Outcome, Skipped
from methods.contract.info import HESSIANS_PER_LINEAR
from methods.contract.ranges import Count, Fraction
from methods.contract.rules import SingleWeights, WholeGroups
from methods.model.targets import as_regexes, dense_weight, family_of
from methods.workshop.library_calls import import_modifier, oneshot, require_oneshot

AWQ = "transform.awq.AWQModifier"
SMOOTH = "transform.smoothquant.SmoothQuantModifier"
PACKAGES = ("llmcompressor", "compressed-tensors", "torch", "transformers")


@dataclass(frozen=True)
class LlmCompressorSparseGPT:
    """llm-compressor's SparseGPT.

    SparseGPTModifier. damping: share of H's mean diagonal that is added; block: columns between
    updates.
    """

    name: ClassVar[str] = "llmcompressor-sparsegpt"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2301.00774",
        cost=Cost(passes=2, hessians=HESSIANS_PER_LINEAR),
        extra="llmcompressor",
        rules=(WholeGroups("block"), SingleWeights()),
    )
    damping: Fraction = 0.01
    block: Count = 128

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        job.pattern.require_whole_groups(self.block, f"{self.name}:block")
        settings = {"dampening_frac": self.damping, "block_size": self.block}
        return _prune(model, job, "pruning.sparsegpt.SparseGPTModifier", settings)


@dataclass(frozen=True)
class LlmCompressorWanda:
    """llm-compressor's Wanda.

    WandaPruningModifier.
    """

    name: ClassVar[str] = "llmcompressor-wanda"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2306.11695",
        cost=Cost(passes=2),
        extra="llmcompressor",
        rules=(SingleWeights(),),
    )

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        return _prune(model, job, "pruning.WandaPruningModifier", {})


@dataclass(frozen=True)
class LlmCompressorAwq:
    """llm-compressor's AWQ: the scales alone, before any quantizer.

    AWQModifier with W4 symmetric in groups, without duo_scaling. group: group size of the integers
    to round to; grid: number of ratios.
    """

    name: ClassVar[str] = "llmcompressor-awq"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2306.00978", does=Does.KEEPS_FUNCTION, cost=Cost(passes=20), extra="llmcompressor"
    )
    group: Count = 32
    grid: Count = 20

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        weights = {
            "num_bits": 4,
            "type": "int",
            "symmetric": True,
            "strategy": "group",
            "group_size": self.group,
        }
        rounding = {
            "config_groups": {"group": {"targets": _targets(model, job), "weights": weights}}
        }
        awq = {"duo_scaling": False, "n_grid": self.grid}
        return _transform(model, job, {AWQ: awq, "quantization.QuantizationModifier": rounding})


@dataclass(frozen=True)
class LlmCompressorSmoothQuant:
    """llm-compressor's SmoothQuant: the scales alone, before any quantizer.

    SmoothQuantModifier. strength: part of the outliers that moves into weights.
    """

    name: ClassVar[str] = "llmcompressor-smoothquant"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2211.10438", does=Does.KEEPS_FUNCTION, cost=Cost(passes=2), extra="llmcompressor"
    )
    strength: Fraction = 0.5

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        return _transform(model, job, {SMOOTH: {"smoothing_strength": self.strength}})


def _transform(model: nn.Module, job: Job, settings: dict[str, dict[str, Any]]) -> Outcome:
    """Run modifiers on a copy, and take over the weights that they changed."""
    require_oneshot(job)
    changed_model = copy.deepcopy(model)
    warnings = oneshot(
        changed_model, job, [import_modifier(path)(**given) for path, given in settings.items()]
    )
    changed, new = set(), dict(changed_model.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not torch.equal(parameter, new[name]):
                parameter.copy_(new[name])
                changed.add(name)
    declared = frozenset(changed - {f"{target}.weight" for target in job.targets})
    return Outcome(model, changed=declared, notes=_notes(settings, warnings))


def _prune(model: nn.Module, job: Job, path: str, settings: dict[str, Any]) -> Outcome:
    """Prune as its users do. Raise Skipped if llm-compressor is not installed, or cannot prune this
    model."""
    require_oneshot(job)
    if job.pattern.dense:
        raise Skipped("nothing to prune: the pattern is dense")
    pattern = job.pattern
    # n:m counts the zeros there.
    structure = f"{pattern.m - pattern.n}:{pattern.m}" if pattern.m else "0:0"
    recipe = settings | {
        "sparsity": pattern.share,
        "mask_structure": structure,
        "targets": _targets(model, job),
    }
    warnings = oneshot(model, job, import_modifier(path)(**recipe))
    for target in job.targets:
        weight = dense_weight(model.get_submodule(target))
        weight.masked_fill_(weight == 0, 0)  # a product with a mask leaves -0.0
    notes = _notes({path: recipe}, warnings)
    notes["identity_hessians"] = sum("Failed to invert hessian" in w for w in warnings)
    return Outcome(model, notes=notes)


def _targets(model: nn.Module, job: Job) -> list[str]:
    family = family_of(model.config.to_dict())  # type: ignore[operator, union-attr]
    return ["re:" + regex for regex in as_regexes(job.targets, family)]


def _notes(recipe: dict[str, dict[str, Any]], warnings: list[str]) -> dict[str, Any]:
    """Return the notes of a run. recipe: settings by the path of a modifier."""
    return {
        "versions": {name: version(name) for name in PACKAGES},
        "recipe": {path.rpartition(".")[2]: settings for path, settings in recipe.items()},
        "log": {"warnings": sorted(set(warnings))},
        "dense_logits": "not compared: it runs in this process, on the same model",
    }
