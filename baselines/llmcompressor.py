"""llm-compressor's SparseGPT and Wanda as its users get them, in this process; the extra `llmcompressor`.

Frantar & Alistarh 2023, arXiv 2301.00774; Sun et al. 2024, arXiv 2306.11695. None of its code is here.

It prunes a tied lm_head, ignore list or not, when its targets are named by class; here each is named by pattern, and
the runner sees that nothing else changed. Where a Hessian cannot be inverted it goes on with the identity in its place:
`notes["identity_hessians"]` counts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

from torch import nn

from methods.contract import Job, Needs, Outcome
from methods.errors import Skipped, UserError
from methods.targets import as_patterns, dense_weight, family_of, holds_in_out

EXTRA = "llmcompressor"
PACKAGES = ("llmcompressor", "compressed-tensors", "torch", "transformers")


@dataclass(frozen=True)
class LlmCompressorSparseGPT:
    """SparseGPTModifier. damping: fraction of H's mean diagonal; block: columns between updates."""

    name: ClassVar[str] = "llmcompressor-sparsegpt"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    damping: float = 0.01
    block: int = 128

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if not 0 <= self.damping <= 1:
            raise UserError(f"{self.name}:damping={self.damping} will not do: it is a fraction, from 0 to 1")
        if self.block < 1 or not job.pattern.fits(self.block):
            raise UserError(f"{self.name}:block={self.block} cannot hold whole groups of {job.pattern}")
        return _oneshot(model, job, "SparseGPTModifier", {"dampening_frac": self.damping, "block_size": self.block})


@dataclass(frozen=True)
class LlmCompressorWanda:
    """WandaPruningModifier."""

    name: ClassVar[str] = "llmcompressor-wanda"
    needs: ClassVar[Needs] = Needs.CALIBRATION

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        return _oneshot(model, job, "WandaPruningModifier", {})


def _oneshot(model: nn.Module, job: Job, kind: str, settings: dict[str, Any]) -> Outcome:
    """
    Raises:
        Skipped: it is not installed, or has no way to prune this model.
    """
    modifiers = _library()
    if job.compute.stream:
        raise Skipped("llm-compressor here wants the whole model in memory")
    if any(holds_in_out(model.get_submodule(t)) for t in job.targets):
        raise Skipped("llm-compressor prunes no Conv1D")
    if job.pattern.dense:
        raise Skipped("the pattern is dense: there is nothing to prune")
    from datasets import Dataset
    from llmcompressor import oneshot
    from loguru import logger

    assert job.calibration is not None
    pattern = job.pattern
    family = family_of(model.config.to_dict())  # type: ignore[operator, union-attr]
    recipe = settings | {
        "sparsity": 1 - pattern.n / pattern.m if pattern.m else pattern.sparsity,
        "mask_structure": f"{pattern.m - pattern.n}:{pattern.m}" if pattern.m else "0:0",  # it counts the zeros
        "targets": ["re:" + regex for regex in as_patterns(job.targets, family)],
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
        "dense_logits": "of the same model object: it runs in this process",
        "identity_hessians": sum("Failed to invert hessian" in w for w in warnings),
    }
    return Outcome(model, notes=notes)


def _library() -> dict[str, Any]:
    """Its modifiers by name.

    Raises:
        Skipped: it is not installed, or it is and cannot be imported, which is said.
    """
    try:
        from llmcompressor.modifiers.pruning import WandaPruningModifier
        from llmcompressor.modifiers.pruning.sparsegpt import SparseGPTModifier
    except ModuleNotFoundError as fault:
        raise Skipped(f"pip install 'cast-bench[{EXTRA}]' (no module {fault.name})") from None
    except ImportError as fault:
        raise Skipped(f"llmcompressor cannot be imported: {str(fault).splitlines()[0]}") from None
    return {"SparseGPTModifier": SparseGPTModifier, "WandaPruningModifier": WandaPruningModifier}
