"""Other libraries, called in this process as their users call them. None is a dependency: each
needs an extra."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from methods.contract.errors import Skipped, first_line
from methods.contract.method import Job


def import_library(module: str, extra: str) -> Any:
    """Import a library. Raise Skipped if it is not installed, or cannot be imported."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as fault:
        raise Skipped(f"pip install 'cast-bench[{extra}]' (no module {fault.name})") from None
    except ImportError as fault:
        raise Skipped(f"{module} cannot be imported: {first_line(fault)}") from None


def import_modifier(path: str) -> Any:
    """Import a modifier of llm-compressor, as "gptq.GPTQModifier". Raise Skipped as
    `import_library` does."""
    module, _, kind = path.rpartition(".")
    return getattr(import_library(f"llmcompressor.modifiers.{module}", "llmcompressor"), kind)


def require_oneshot(job: Job) -> None:
    """Raise Skipped if llm-compressor is not installed, or the model is streamed."""
    import_library("llmcompressor", "llmcompressor")
    if job.compute.stream:
        raise Skipped("llm-compressor needs the whole model in memory, and this one is streamed")


def oneshot(model: nn.Module, job: Job, recipe: Any) -> list[str]:
    """Apply modifiers of llm-compressor in place, with the calibration of the job in its order.
    Return the warnings."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from loguru import logger

    assert job.calibration is not None
    warnings: list[str] = []
    sink = logger.add(
        lambda message: warnings.append(str(message).strip()),
        format="{message}",
        filter=lambda record: record["level"].name in ("WARNING", "ERROR"),
    )
    # Version 0.14 pins the activations of AWQ, which torch refuses on a machine without an
    # accelerator.
    pinned: AbstractContextManager[Any] = nullcontext()
    if not torch.accelerator.is_available():
        pinned = patch.object(Tensor, "pin_memory", lambda x: x)
    try:
        with pinned:
            oneshot(
                model=model,
                dataset=Dataset.from_dict({"input_ids": job.calibration.tolist()}),
                recipe=recipe,
                max_seq_length=job.calibration.shape[1],
                num_calibration_samples=len(job.calibration),
                shuffle_calibration_samples=False,
            )
    finally:
        logger.remove(sink)
    return warnings
