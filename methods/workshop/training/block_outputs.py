"""Outputs of decoder blocks in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from methods.workshop.training.compiled import blocks_of


class BlockOutputs:
    """The outputs of every `every`-th decoder block, counted back from the last, in the order of
    the blocks.

    A forward hook would be compiled with its block, and again with each change of what it has seen.
    So this wraps the call of a block from outside. `compiled.restore_blocks` removes it.
    """

    def __init__(self, model: nn.Module, every: int) -> None:
        self._receive: Callable[[Tensor], None] | None = None
        for block in blocks_of(model)[::-1][::every]:
            block._compiled_call_impl = self._passing_on(
                block._compiled_call_impl or block._call_impl
            )

    def _passing_on(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            if self._receive:
                hidden = output[0] if isinstance(output, tuple) else output
                self._receive(hidden)
            return output

        return run

    @contextmanager
    def sent_to(self, receive: Callable[[Tensor], None]) -> Iterator[None]:
        """Call `receive` with each output [batch, seqlen, width], but not when a backward pass
        computes it again."""
        self._receive = receive
        try:
            yield
        finally:
            self._receive = None
