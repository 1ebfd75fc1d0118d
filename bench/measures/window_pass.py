"""Forward pass over windows that several measures share, a few rows of logits at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from bench.measures import forward
from bench.measures.contract import MeasureContext, Readings
from bench.measures.dense_states import DenseStates

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class LogitPart(NamedTuple):
    """A few rows of a batch's logits. A row is a token to predict from all tokens before it in its
    window.

    The first token of a window is not predicted, so a batch has windows * (seqlen - 1) rows, window
    after window. Parts come in order.
    """

    windows: int
    """Number of windows in the batch."""
    batch_rows: int
    """Number of rows in the batch."""
    rows: slice
    """Position of these rows in the batch."""
    targets: Tensor
    """Tokens to predict, int64 [rows]."""
    logits: Tensor
    """float32 [rows, vocabulary]"""
    dense: Tensor | None
    """Logits of the dense model, for a measure with `beside_dense`. For the dense model it is
    `logits` itself."""


class WindowReader(Protocol):
    """Reader of one pass, made by a measure."""

    def take(self, part: LogitPart) -> None:
        """Read some rows."""
        ...

    def finish(self) -> Readings:
        """Return the result after the last part. The caller fills in `tokens` and
        `token_digest`."""
        ...


@dataclass(eq=False)
class Participant:
    """Measure in a pass, with its readings or the fault that ended it."""

    make_reader: Callable[[], WindowReader] | None = None
    """Makes the reader of the pass. None: the measure reads no windows."""
    beside_dense: bool = False
    """True if the reader needs the dense model's logits."""
    copies: bool = False
    """True if the reader gets copies of the logits, so that it cannot change what others read."""
    readings: Readings | None = None
    fault: Exception | None = None
    seconds: float = 0.0
    """Seconds spent in the measure's code."""
    shares: bool = False
    """True if models ran for this measure."""

    @property
    def ended(self) -> bool:
        return self.fault is not None or self.readings is not None

    @contextmanager
    def own_code(self) -> Iterator[None]:
        """Run code of the measure. An exception ends this measure and no other."""
        started = time.perf_counter()
        try:
            yield
        except Exception as fault:  # noqa: BLE001
            self.fault = fault
        finally:
            self.seconds += time.perf_counter() - started

    def start(self) -> None:
        assert self.make_reader
        self.shares = True
        with self.own_code():
            self._reader = self.make_reader()

    def take(self, part: LogitPart) -> None:
        if self.fault:
            return
        if self.copies:
            dense = None if part.dense is None else part.dense.clone()
            part = part._replace(
                targets=part.targets.clone(), logits=part.logits.clone(), dense=dense
            )
        with self.own_code():
            self._reader.take(part)

    def finish(self) -> None:
        if self.fault:
            return
        with self.own_code():
            readings: Any = self._reader.finish()
            if not isinstance(readings, Readings):
                raise TypeError(f"finish() returned {type(readings).__name__}, not Readings")
            self.readings = readings


def run_pass(
    participants: Sequence[Participant],
    model: Callable[[], nn.Module],
    tokens: Tensor,
    batch: int,
    context: MeasureContext,
    dense_states: DenseStates | None = None,
) -> None:
    """Run the model and let each measure read. Run the dense model first if a measure needs it and
    its states are not cached.

    One model is in memory at a time, beside the head of the other.

    Args:
        model: loads the model, without its blocks if `context.compute.stream`.
        tokens: int64 [windows, seqlen]
        batch: windows in a forward pass.
        dense_states: cache for these tokens and this batch. None: states are not kept.

    Raises:
        Exception: the model failed. The fault of a measure stays in its participant.
    """
    import torch  # slow to import

    running = [p for p in participants if not p.ended]
    for participant in running:
        participant.start()
    beside_dense = any(p.beside_dense and not p.fault for p in participants)
    with ExitStack() as stack, torch.no_grad():
        dense = None
        if beside_dense and not context.is_dense:
            try:
                dense = _dense_pass(tokens, batch, context, dense_states)
            except Exception as fault:  # noqa: BLE001 (a model may raise anything)
                for participant in running:
                    if participant.beside_dense:
                        participant.fault = participant.fault or fault
        if all(p.ended for p in running):
            return
        measured = forward.forward_windows(model, context.folder, tokens, batch, context)
        if (
            beside_dense
            and context.is_dense
            and dense_states
            and dense_states.accept(measured.head, tokens)
        ):
            states = stack.enter_context(closing(dense_states.keep(measured.states)))
            measured = measured._replace(states=states)
        for part in logit_parts(
            measured, tokens, context.compute.device, dense, is_dense=context.is_dense
        ):
            for participant in running:
                participant.take(part)
            if all(p.ended for p in running):
                return
    for participant in running:
        participant.finish()


def _dense_pass(
    tokens: Tensor, batch: int, context: MeasureContext, dense_states: DenseStates | None
) -> forward.ForwardPass:
    """Return the dense model's states from the cache, or compute them and keep them there, or on
    the CPU if they do not fit."""
    if dense_states and (kept := dense_states.open()) is not None:
        return forward.ForwardPass(kept, dense_states.model.load_head())
    dense = forward.forward_windows(context.load_dense, context.source, tokens, batch, context)
    if dense_states and dense_states.accept(dense.head, tokens):
        for _ in dense_states.keep(dense.states):
            pass
        kept = dense_states.open()
        if kept is None:
            raise OSError(f"{dense_states.folder} cannot be read back: check the disk")
        return forward.ForwardPass(kept, dense.head)
    return forward.ForwardPass([states.cpu() for states in dense.states], dense.head)


def logit_parts(
    measured: forward.ForwardPass,
    tokens: Tensor,
    device: torch.device,
    dense: forward.ForwardPass | None = None,
    *,
    is_dense: bool = False,
) -> Iterator[LogitPart]:
    """Yield the logits of all windows, a few rows at a time, so that [tokens, vocabulary] is never
    in memory.

    Args:
        tokens: int64 [windows, seqlen]
        dense: pass of the dense model over the same windows and batches.
        is_dense: the measured model is the dense one.
    """
    passes = [p for p in (dense, measured) if p]
    done = 0
    for batch in zip(*(p.states for p in passes), strict=True):
        windows = len(batch[0])
        ids = tokens[done : done + windows].to(device)
        targets = ids[:, 1:].flatten()
        states = [x[:, :-1].to(device).flatten(0, 1) for x in batch]
        for rows, logits in forward.logit_parts([p.head for p in passes], states):
            beside = logits[0] if dense or is_dense else None
            yield LogitPart(windows, len(targets), rows, targets[rows], logits[-1], beside)
        done += windows
