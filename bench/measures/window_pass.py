"""One forward pass over windows that several measures read, a few rows of logits at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from bench.measures import forward
from bench.measures.contract import MeasureContext, Readings
from bench.measures.dense_states import DenseStates

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class LogitPart(NamedTuple):
    """A few rows of a batch's logits. A row is a token to predict, from all before it in its window.

    A window's first token is not predicted, so a batch has windows * (seqlen - 1) rows, window after window. Parts come in
    order. Other measures read the same tensors: do not write to them.
    """

    windows: int
    """Of the batch."""
    batch_rows: int
    """Of the batch."""
    rows: slice
    """Which of the batch's rows these are."""
    targets: Tensor
    """int64 [rows], the tokens to predict."""
    logits: Tensor
    """float32 [rows, vocabulary]"""
    dense: Tensor | None
    """The dense model's, for a measure with `beside_dense`: `logits` itself where the dense model is measured."""


class WindowReader(Protocol):
    """What a measure does with one pass."""

    def take(self, part: LogitPart) -> None:
        """Read some rows."""
        ...

    def finish(self) -> Readings:
        """Called after the last part. `tokens` and `token_digest` are filled in afterwards."""
        ...


class OverwrittenLogits(Exception):
    """A measure wrote to tensors that others read."""


class Participant:
    """A measure in a pass, and what became of it: readings, or the fault that ended it.

    Args:
        new_reader: may be called more than once, since a pass can start again.
        beside_dense: whether the reader is given the dense model's logits.
    """

    def __init__(self, new_reader: Callable[[], WindowReader], beside_dense: bool = False) -> None:
        self.beside_dense = beside_dense
        self.readings: Readings | None = None
        self.fault: Exception | None = None
        self.seconds = 0.0
        """Spent in the measure's own code."""
        self.shares = False
        """Whether models ran for it."""
        self._new_reader = new_reader
        self._reader: WindowReader | None = None

    @property
    def ended(self) -> bool:
        return self.fault is not None or self.readings is not None

    def call(self, step: Callable[..., Any], *args: Any) -> Any:
        """Run a step of the measure. It may raise anything; that is its own fault and nobody else's."""
        started = time.perf_counter()
        try:
            return step(*args)
        except Exception as fault:  # noqa: BLE001
            self.fault = fault
            return None
        finally:
            self.seconds += time.perf_counter() - started

    def start(self) -> None:
        self.shares = True
        self._reader = self.call(self._new_reader)

    def take(self, part: LogitPart) -> None:
        """
        Raises:
            OverwrittenLogits: the measure wrote to the part. Its fault is set.
        """
        if self.fault or self._reader is None:
            return
        before = _versions(part)
        self.call(self._reader.take, part)
        if _versions(part) != before:
            self.fault = OverwrittenLogits(
                "the measure writes to the logits it is given, which others read: copy them first"
            )
            raise self.fault

    def finish(self) -> None:
        if self.fault or self._reader is None:
            return
        readings = self.call(self._reader.finish)
        if isinstance(readings, Readings):
            self.readings = readings
        else:
            self.fault = self.fault or TypeError(f"finish() returned {type(readings).__name__}, not Readings")


def _versions(part: LogitPart) -> list[int]:
    """Counters that torch raises when a tensor is written to."""
    return [t._version for t in (part.targets, part.logits, part.dense) if t is not None]


def run_pass(
    participants: Sequence[Participant],
    model: Callable[[], nn.Module],
    tokens: Tensor,
    batch: int,
    context: MeasureContext,
    dense_states: DenseStates | None = None,
) -> None:
    """Run the model, and where a measure asks for it the dense model, and let each measure read.

    Where the dense model's states are not kept, it runs first. One model is in memory at a time, and of the other the head.

    Args:
        model: loads the model, without its blocks where `context.compute.stream`.
        tokens: int64 [windows, seqlen]
        batch: windows per forward pass.
        dense_states: the cache's, of these tokens and this batch; None keeps none.

    Raises:
        Exception: whatever a model raises. A measure's own fault is left in its participant.
    """
    import torch  # slow to import

    while running := [p for p in participants if not p.ended]:
        for participant in running:
            participant.start()
        beside_dense = any(p.beside_dense and not p.fault for p in participants)
        try:
            with ExitStack() as stack, torch.no_grad():  # not inference mode, in which tensors have no versions
                dense = None
                if beside_dense and not context.is_dense:
                    dense = _dense_pass(running, tokens, batch, context, dense_states)
                if all(p.ended for p in running):
                    return
                measured = forward.forward_windows(model, context.folder, tokens, batch, context)
                if beside_dense and context.is_dense and dense_states and dense_states.accept(measured.head, tokens):
                    states = stack.enter_context(closing(dense_states.keep(measured.states)))
                    measured = measured._replace(states=states)
                for part in logit_parts(measured, tokens, context.compute.device, dense, is_dense=context.is_dense):
                    for participant in running:
                        participant.take(part)
                    if all(p.ended for p in running):
                        return
        except OverwrittenLogits:
            continue  # others may have read what was written
        for participant in running:
            participant.finish()
        return


def _dense_pass(
    running: Sequence[Participant],
    tokens: Tensor,
    batch: int,
    context: MeasureContext,
    dense_states: DenseStates | None,
) -> forward.ForwardPass | None:
    """The dense model's pass; None where it fails, which ends the measures that compare with it."""
    try:
        return _dense_forward(tokens, batch, context, dense_states)
    except Exception as fault:  # noqa: BLE001 (a model may raise anything)
        for participant in running:
            if participant.beside_dense:
                participant.fault = participant.fault or fault
        return None


def _dense_forward(
    tokens: Tensor, batch: int, context: MeasureContext, dense_states: DenseStates | None
) -> forward.ForwardPass:
    """The dense model's states: from the cache, else computed and kept there; on the CPU where they cannot be kept."""
    if dense_states and (kept := dense_states.open()) is not None:
        return forward.ForwardPass(kept, dense_states.model.load_head())
    dense = forward.forward_windows(context.load_dense, context.source, tokens, batch, context)
    if dense_states and dense_states.accept(dense.head, tokens):
        for _ in dense_states.keep(dense.states):
            pass
        if (kept := dense_states.open()) is None:
            raise OSError(f"{dense_states.folder} cannot be read back as it was written: check the disk")
        return forward.ForwardPass(kept, dense.head)
    return forward.ForwardPass([states.cpu() for states in dense.states], dense.head)


def logit_parts(
    measured: forward.ForwardPass,
    tokens: Tensor,
    device: torch.device,
    dense: forward.ForwardPass | None = None,
    *,
    is_dense: bool = False,
    logits_bytes: int = forward.LOGITS_BYTES,
    part_bytes: int = forward.PART_BYTES,
) -> Iterator[LogitPart]:
    """The logits of all windows, a few rows at a time: [tokens, vocabulary] never exists whole.

    Args:
        tokens: int64 [windows, seqlen]
        dense: of the same windows and batches.
        is_dense: the model measured is the dense one.
        logits_bytes, part_bytes: as in `forward.logit_parts`.
    """
    passes = [p for p in (dense, measured) if p]
    done = 0
    for batch in zip(*(p.states for p in passes), strict=True):
        windows = len(batch[0])
        ids = tokens[done : done + windows].to(device)
        targets = ids[:, 1:].flatten()
        states = [x[:, :-1].to(device).flatten(0, 1) for x in batch]
        for rows, logits in forward.logit_parts(
            [p.head for p in passes], states, logits_bytes=logits_bytes, part_bytes=part_bytes
        ):
            beside = logits[0] if dense or is_dense else None
            yield LogitPart(windows, len(targets), rows, targets[rows], logits[-1], beside)
        done += windows
