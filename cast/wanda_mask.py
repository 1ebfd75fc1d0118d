"""CAST with a mask that sees its inputs: n of every m are kept by |w| * ||x||, as Wanda does (arXiv
2306.11695).

Not in the paper. The norms are those of the training text, as the model in training sees it, so
they follow the model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cast.adams import AdamS
from methods.workshop.training.process_group import all_reduce_mean

DECAY = 0.99
"""Decay per step of the running mean of squared inputs, which covers about a hundred steps."""


class WandaAdamS(AdamS):
    """AdamS that chooses the mask by |w_ij| * ||x_j||.

    State of a weight in Theta, besides that of AdamS: `square`, the running mean of x_j^2, float32
    [in]. S is then the share of |w| * ||x|| that is kept.
    """

    def __init__(self, params: Iterable[Any], **options: Any) -> None:
        super().__init__(params, **options)
        self._seen: defaultdict[Tensor, list[Tensor]] = defaultdict(list)
        for group in self.param_groups:
            if not group["sparse"]:
                continue
            for p in group["params"]:
                self.state[p]["square"] = torch.zeros(
                    p.shape[1], dtype=torch.float32, device=p.device
                )

    @contextmanager
    def watch(self, linears: Iterable[tuple[nn.Module, nn.Parameter]]) -> Iterator[None]:
        """Record the inputs of the linears in forward passes with gradients. linears: each with its
        weight."""
        with ExitStack() as stack:
            for module, p in linears:
                stack.enter_context(module.register_forward_pre_hook(self._recorder(p)))
            yield

    def _recorder(self, weight: nn.Parameter) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if torch.is_grad_enabled():  # not when the model is only looked at
                rows = args[0].detach().flatten(0, -2).float()
                self._seen[weight].append(
                    torch.cat([rows.square().sum(0), rows.new_full((1,), len(rows))])
                )

        return record

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the current gradients and the inputs since the last step."""
        for p, passes in self._seen.items():
            # passes and ranks may differ in their tokens, of which an expert may have none
            sums = all_reduce_mean(torch.stack(passes).sum(0))
            self.state[p]["square"].lerp_(
                sums[:-1] / sums[-1].clamp(min=torch.finfo(sums.dtype).tiny), 1 - DECAY
            )
        self._seen.clear()
        super().step()

    def score(self, p: Tensor, w: Tensor) -> Tensor:
        """Return w * ||x|| over the largest norm. That is w itself if all norms are equal or no
        input was seen."""
        norm: Tensor = self.state[p]["square"].sqrt()
        largest = norm.max()
        return w * torch.where(largest == 0, 1.0, norm / largest)
