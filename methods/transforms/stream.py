"""The residual stream of a model on calibration text, as its norms read it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.contract import Job
from methods.pruning.activations import batch_of
from methods.transforms.wiring import Wiring


@torch.no_grad()
def stream_moment(wiring: Wiring, job: Job) -> Tensor:
    """Return the second moment of the residual stream, float64 [hidden, hidden] on the CPU.

    It is the mean over the tokens that each norm reads, each scaled to norm 1, so that every norm and token has the same weight.
    """
    tokens = job.calibration
    assert tokens is not None
    model, norms = wiring.model, wiring.norms()
    base: Any = model.base_model  # without the head, whose logits are not needed
    width: int = wiring.config.hidden_size
    total = torch.zeros(width, width, dtype=torch.float64)

    def add(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        unit = nn.functional.normalize(args[0].detach().float().flatten(0, -2), dim=-1)
        total.add_((unit.T @ unit).double().cpu())

    hooks = [model.get_submodule(norm).register_forward_pre_hook(add) for norm in norms]
    try:
        batches = tokens.split(batch_of(tokens, job.compute.device))
        for done, part in enumerate(batches, 1):
            base(input_ids=part.to(job.compute.device), use_cache=False)
            job.progress.advance(done, len(batches))
    finally:
        for hook in hooks:
            hook.remove()
    return total / (tokens.numel() * len(norms))
