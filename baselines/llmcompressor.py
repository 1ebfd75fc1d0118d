"""llm-compressor's SparseGPT and Wanda, called in this process as its users do. Needs the extra `llmcompressor`.

Frantar & Alistarh 2023, arXiv 2301.00774; Sun et al. 2024, arXiv 2306.11695. This file has none of its code.

With targets given by class it also prunes a tied lm_head, even if that is on the ignore list. So targets are given by
regular expressions here, and the runner checks that nothing else changed. Where a Hessian cannot be inverted it uses
the identity instead; `notes["identity_hessians"]` counts these.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

from torch import nn

from methods import Cost, Job, MethodInfo, Needs, Outcome, Skipped
from methods.info import HESSIANS_PER_LINEAR
from methods.ranges import Count, Fraction
from methods.targets import as_regexes, dense_weight, family_of, stores_in_out

EXTRA = "llmcompressor"
PACKAGES = ("llmcompressor", "compressed-tensors", "torch", "transformers")


@dataclass(frozen=True)
class LlmCompressorSparseGPT:
    """llm-compressor's SparseGPT.

    SparseGPTModifier. damping: share of H's mean diagonal that is added; block: columns between updates.
    """

    name: ClassVar[str] = "llmcompressor-sparsegpt"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2301.00774", cost=Cost(passes=2, hessians=HESSIANS_PER_LINEAR), extra="llmcompressor", columns="block"
    )
    damping: Fraction = 0.01
    block: Count = 128

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        job.pattern.require_whole_groups(self.block, f"{self.name}:block")
        return _oneshot(model, job, "SparseGPTModifier", {"dampening_frac": self.damping, "block_size": self.block})


@dataclass(frozen=True)
class LlmCompressorWanda:
    """llm-compressor's Wanda.

    WandaPruningModifier.
    """

    name: ClassVar[str] = "llmcompressor-wanda"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(paper="2306.11695", cost=Cost(passes=2), extra="llmcompressor")

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        return _oneshot(model, job, "WandaPruningModifier", {})


def _oneshot(model: nn.Module, job: Job, kind: str, settings: dict[str, Any]) -> Outcome:
    """Prune as its users do. Raise Skipped if llm-compressor is not installed, or cannot prune this model."""
    modifiers = _import_modifiers()
    if job.compute.stream:
        raise Skipped("llm-compressor needs the whole model in memory, and this one is streamed")
    if any(stores_in_out(model.get_submodule(t)) for t in job.targets):
        raise Skipped("llm-compressor cannot prune Conv1D")
    if job.pattern.dense:
        raise Skipped("nothing to prune: the pattern is dense")
    from datasets import Dataset
    from llmcompressor import oneshot
    from loguru import logger

    assert job.calibration is not None
    pattern = job.pattern
    family = family_of(model.config.to_dict())  # type: ignore[operator, union-attr]
    recipe = settings | {
        "sparsity": pattern.share,
        "mask_structure": f"{pattern.m - pattern.n}:{pattern.m}" if pattern.m else "0:0",  # n:m counts the zeros there
        "targets": ["re:" + regex for regex in as_regexes(job.targets, family)],
    }
    warnings: list[str] = []
    sink = logger.add(
        lambda message: warnings.append(str(message).strip()),
        format="{message}",
        filter=lambda record: record["level"].name in ("WARNING", "ERROR"),
    )
    try:
        oneshot(
            model=model,
            dataset=Dataset.from_dict({"input_ids": job.calibration.tolist()}),
            recipe=modifiers[kind](**recipe),
            max_seq_length=job.calibration.shape[1],
            num_calibration_samples=len(job.calibration),
            shuffle_calibration_samples=False,
        )
    finally:
        logger.remove(sink)
    for target in job.targets:
        weight = dense_weight(model.get_submodule(target))
        weight.masked_fill_(weight == 0, 0)  # a product with a mask leaves -0.0
    notes = {
        "versions": {name: version(name) for name in PACKAGES},
        "recipe": {kind: recipe},
        "log": {"warnings": sorted(set(warnings))},
        "dense_logits": "not compared: it runs in this process, on the same model",
        "identity_hessians": sum("Failed to invert hessian" in w for w in warnings),
    }
    return Outcome(model, notes=notes)


def _import_modifiers() -> dict[str, Any]:
    """Return the modifiers by name. Raise Skipped if llm-compressor is not installed or cannot be imported."""
    try:
        from llmcompressor.modifiers.pruning import WandaPruningModifier
        from llmcompressor.modifiers.pruning.sparsegpt import SparseGPTModifier
    except ModuleNotFoundError as fault:
        raise Skipped(f"pip install 'cast-bench[{EXTRA}]' (no module {fault.name})") from None
    except ImportError as fault:
        raise Skipped(f"llmcompressor cannot be imported: {str(fault).splitlines()[0]}") from None
    return {"SparseGPTModifier": SparseGPTModifier, "WandaPruningModifier": WandaPruningModifier}
