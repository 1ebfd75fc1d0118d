"""Passes of two models over the same windows, and conditions under which a model differs from
itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.measures.contract import Readings
from bench.measures.forward import BATCH_TOKENS, ForwardPass
from bench.measures.window_pass import logit_parts
from bench.measures.windowed import Windows
from bench.parts.fidelity.measure import TokenDistances
from bench.system.products import use_float32
from bench.system.text import amount
from methods.contract.method import Compute, Progress
from methods.model.folder import dtype_name
from methods.model.logits import head_of

Load = Callable[[Compute], Any]
"""Function that loads a model for a job."""


@dataclass(frozen=True)
class Condition:
    """A way to run a model that changes only rounding."""

    name: str
    compute: Compute
    one_window: bool = False
    """True for one window in a forward pass."""
    other_attention: bool = False
    """True for eager attention in place of sdpa, or the reverse."""


def conditions(compute: Compute) -> list[Condition]:
    """Return the conditions of the floor: one other dtype, number of threads, batch and attention
    kernel."""
    other = torch.bfloat16 if compute.dtype is torch.float32 else torch.float32
    out = [Condition(dtype_name(other), replace(compute, dtype=other))]
    if compute.device.type == "cpu":
        threads = 1 if compute.threads > 1 else 2
        out.append(Condition(amount(threads, "thread"), replace(compute, threads=threads)))
    return [
        *out,
        Condition("one window at a time", compute, one_window=True),
        Condition("the other attention kernel", compute, other_attention=True),
    ]


class Passes:
    """The original's states on all windows, and distances of other models to it.

    One model is in memory at a time, beside the states and the head of the original.
    """

    def __init__(
        self, windows: Windows, tokenizer: Any, compute: Compute, progress: Progress, count: int
    ) -> None:
        """count: number of passes, for the progress."""
        self._windows, self._tokenizer, self._compute = windows, tokenizer, compute
        self._progress, self._total = progress, count * len(windows.tokens)
        self._batch = max(1, BATCH_TOKENS // windows.tokens.shape[1])
        self._done = 0

    def run_original(self, load: Load) -> None:
        """Run the original. load: loads it."""
        self._original = self._run(load, Condition("", self._compute))

    def distance(self, load: Load, condition: Condition) -> Readings:
        """Return the distances of a model under a condition to the original, as the measure
        `fidelity` does."""
        return self._compare(self._run(load, condition), self._original)

    def distance_in_engine(self, logits_of: Callable[[Tensor], Tensor]) -> Readings:
        """Return the distances of a model that another program runs, window by window.

        logits_of: returns float32 [seqlen, vocabulary] for the tokens of a window.
        """
        windows = [window for batch in self._original.states for window in batch.split(1)]
        logits = (self._counted(logits_of(ids)[None]) for ids in self._windows.tokens)
        original = ForwardPass(windows, self._original.head)
        weight: Any = self._original.head.weight
        return self._compare(ForwardPass(logits, _NoHead(len(weight))), original)

    def _compare(self, measured: ForwardPass, original: ForwardPass) -> Readings:
        reader = TokenDistances(self._windows, self._tokenizer)
        tokens, device = self._windows.tokens, self._compute.device
        with torch.no_grad():
            for part in logit_parts(measured, tokens, device, original):
                reader.take(part)
        return reader.finish()

    def _run(self, load: Load, condition: Condition) -> ForwardPass:
        compute, states = condition.compute, []
        size = 1 if condition.one_window else self._batch
        _choose_numbers(compute)
        model = load(compute)
        if condition.other_attention:
            is_eager = model.config._attn_implementation == "eager"
            model.set_attn_implementation("sdpa" if is_eager else "eager")
        with torch.no_grad():
            for ids in self._windows.tokens.split(size):
                done = model.base_model(input_ids=ids.to(compute.device), use_cache=False)[0]
                states.append(self._counted(done.cpu()))
        return ForwardPass(torch.cat(states).split(self._batch), head_of(model))

    def _counted(self, states: Tensor) -> Tensor:
        """Show that the windows of these states [windows, ...] are done, and return them."""
        self._done += len(states)
        self._progress.advance(self._done, self._total)
        return states


class _NoHead(nn.Module):
    """Head of a pass whose states are logits."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.weight = torch.empty(vocabulary, 0)

    def forward(self, logits: Tensor) -> Tensor:
        return logits


def _choose_numbers(compute: Compute) -> None:
    """Use the threads and the products of a job from now on."""
    torch.set_num_threads(compute.threads)
    use_float32(wanted=(compute.device.type, compute.dtype) == ("cpu", torch.bfloat16))
