"""Measures that read a corpus's windows: settings, protocol, and how those of the same windows are read together.

`bench.measures.contract` shows one in a package of your own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from bench.inputs.windows import load_windows, token_digest
from bench.measures import forward
from bench.measures.dense_states import DenseModel
from bench.measures.window_pass import LogitPart, Participant, WindowReader, run_pass
from bench.results.identity import Protocol
from methods.contract import Needs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.measures.contract import MeasureContext, Readings


class Windows(NamedTuple):
    """A corpus's windows."""

    tokens: Tensor
    """int64 [windows, seqlen]"""
    clusters: Sequence[str]
    """For each window, the number of the article in which it begins."""


@dataclass(frozen=True)
class Windowed(ABC):
    """corpus: a name in bench.inputs.corpora; seqlen: tokens per window; windows: use only the first so many, None for all;
    batch: windows per forward pass. A run fills them in from its settings `perplexity`.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs] = Needs.NOTHING
    streams: ClassVar[bool] = True
    beside_dense: ClassVar[bool] = False
    """Whether its reader is also given the dense model's logits."""
    corpus: str
    seqlen: int
    windows: int | None = None
    batch: int | None = None
    split: str = "evaluation"

    @property
    def protocol(self) -> Protocol | str:
        name = self.corpus if self.split == "evaluation" else f"{self.corpus}-{self.split}"
        return Protocol(name=name, seqlen=self.seqlen, limit=self.windows)

    @property
    def per_forward(self) -> int:
        return forward.batch_size(self.batch, self.seqlen)

    @property
    def same_pass(self) -> tuple[Any, ...]:
        """Measures of one model share a forward pass where these are equal."""
        return self.corpus, self.split, self.seqlen, self.windows, self.per_forward

    def known(self, windows: Windows, context: MeasureContext) -> Readings | None:
        """The readings, where no model has to run for them."""
        return None

    @abstractmethod
    def reader(self, windows: Windows, context: MeasureContext) -> WindowReader:
        """What reads a pass. A pass that starts again asks for a new one."""

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Measure in a pass of its own.

        Raises:
            UserError: the corpus has no window, or fewer than were asked for.
        """
        (outcome,) = read_together([(self, context)], model)
        if outcome.fault:
            raise outcome.fault
        assert outcome.readings is not None
        return outcome.readings


def read_together(
    measures: Sequence[tuple[Windowed, MeasureContext]],
    model: Callable[[], nn.Module],
    dense_model: DenseModel | None = None,
) -> list[Participant]:
    """Read measures that have the same `same_pass` off one forward pass.

    Args:
        measures: with their contexts, which differ in nothing but `workdir`.
        model: loads the model, without its blocks where `context.compute.stream`.
        dense_model: where the dense model's states are kept; None keeps none.

    Returns:
        What became of each: a fault of its own code is its own, one of the forward pass is everyone's.

    Raises:
        UserError: the corpus has no window, or fewer than were asked for.
    """
    m, context = measures[0]
    windows = Windows(*load_windows(m.corpus, context.tokenizer(), m.seqlen, m.windows, context.data_dir, m.split))
    digest = token_digest(windows.tokens)
    participants = []
    for measure, own in measures:
        participant = Participant(partial(measure.reader, windows, own), measure.beside_dense)
        participant.readings = participant.call(measure.known, windows, own)
        participants.append(participant)
    try:
        with dense_model.states(digest, m.per_forward) if dense_model else nullcontext() as dense_states:
            run_pass(participants, model, windows.tokens, m.per_forward, context, dense_states)
    except Exception as fault:  # noqa: BLE001 (a model may raise anything)
        for participant in participants:
            participant.fault = participant.fault or (None if participant.readings else fault)
    for participant in participants:
        if participant.readings:
            complete = partial(replace, participant.readings, tokens=windows.tokens.numel(), token_digest=digest)
            participant.readings = participant.call(complete)
    return participants


class WindowSums:
    """Sums over each window of a value per row."""

    def __init__(self) -> None:
        self.values: list[float] = []
        """Of the windows whose parts were all added, in order."""
        self._batch: Tensor | None = None

    def add(self, part: LogitPart, values: Tensor) -> None:
        """values: [rows] of the part. They are summed in their dtype."""
        if self._batch is None:
            self._batch = values.new_empty(part.batch_rows)
        self._batch[part.rows] = values
        if part.rows.stop == part.batch_rows:
            self.values += self._batch.view(part.windows, -1).sum(1).tolist()
            self._batch = None


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error, which is None for a single value or a mean that is not finite."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2 or not math.isfinite(mean):
        return mean, None
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
