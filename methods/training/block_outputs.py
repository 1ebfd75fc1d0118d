"""Outputs of decoder blocks in a forward pass, and their distance from the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from methods.training.compiled import blocks_of

MASSIVE = 10.0
"""Ratio of a norm to the median norm above which a token of a sequence, or a channel of its other tokens, is massive."""


class BlockOutputs:
    """The outputs of every `every`-th decoder block, counted back from the last, in the order of the blocks.

    A forward hook would be compiled with its block, and again with each change of what it has seen. So this wraps the call
    of a block from outside. `compiled.restore_blocks` removes it.
    """

    def __init__(self, model: nn.Module, every: int) -> None:
        self._receive: Callable[[Tensor], None] | None = None
        for block in blocks_of(model)[::-1][::every]:
            block._compiled_call_impl = self._passing_on(block._compiled_call_impl or block._call_impl)

    def _passing_on(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            if self._receive:
                self._receive(output[0] if isinstance(output, tuple) else output)
            return output

        return run

    @contextmanager
    def sent_to(self, receive: Callable[[Tensor], None]) -> Iterator[None]:
        """Call `receive` with each output [batch, seqlen, width], but not when a backward pass computes it again."""
        self._receive = receive
        try:
            yield
        finally:
            self._receive = None


def _ordinary(squares: Tensor, dim: int) -> Tensor:
    median = squares.median(dim, keepdim=True).values
    return (squares <= MASSIVE**2 * median) | (median == 0)


class _Distance(torch.autograd.Function):
    """The distance, with its gradient as the only tensor that is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        teacher = teacher.float()
        squares = teacher.square()
        tokens = _ordinary(squares.sum(-1, keepdim=True), 1)  # [batch, tokens, 1]
        channels = _ordinary((squares * tokens).sum(1, keepdim=True), -1)  # [batch, 1, width]
        norms = (squares * channels).sum(-1, keepdim=True)
        weights = torch.where(tokens & (norms > 0), 1 / norms, 0.0)
        difference = (student.float() - teacher) * channels
        gradient = weights * difference
        ctx.gradient = gradient.to(student.dtype)
        return 0.5 * difference.mul_(gradient).sum()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        return ctx.gradient.mul_(outer[0]), None


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the sum over tokens of ||h - h_T||^2 / (2 ||h_T||^2), float32.

    Massive activations (Sun et al. 2024, arXiv 2402.17762) carry a bias, and would outweigh the rest. They are left out
    of difference and norm, by the teacher's states of each sequence: tokens whose norm is more than ten times the median
    of the tokens, then channels whose norm over the other tokens is more than ten times the median of the channels.

    Args:
        student, teacher: outputs of the same block [batch, tokens, width]. A gradient reaches the student only.
    """
    return _Distance.apply(student, teacher)  # type: ignore[no-any-return, no-untyped-call]
