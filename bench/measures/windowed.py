"""Measures that read a corpus's windows: settings, protocol, plan, and how measures of the same
windows are read together.

`bench.measures.contract` shows one in a package of a third party.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from bench.inputs import corpora
from bench.inputs.bos import Bos, count_first
from bench.inputs.windows import check_windows, load_windows, token_digest
from bench.measures import forward
from bench.measures.contract import MeasureContext, MeasureSettings, PlanContext, Planned, Readings
from bench.measures.dense_states import DenseModel
from bench.measures.window_pass import LogitPart, Participant, WindowReader, run_pass
from bench.results.identity import Protocol
from bench.system.validation import Count, Extent, Length, count_of
from methods.contract.method import Needs

if TYPE_CHECKING:
    from torch import Tensor, nn


class WindowSettings(MeasureSettings):
    """Windows without overlap over one corpus, for perplexity, agreement and similar measures."""

    table: ClassVar[str] = "perplexity"
    data: str | None = None
    """Name of a corpus, a .txt, .jsonl or .parquet file (FILE:FIELD names a field), or a folder of
    such files. Default: the model's evaluation corpus."""
    seqlen: Length | None = None
    """Tokens in a window. Default: the model's evaluation length."""
    windows: Extent = None
    """Number of windows, or "all". Default: 32,768 tokens for `tiny`, all for other models."""
    draw: Literal["spread", "front"] = "spread"
    """Windows to take if not all: evenly spaced in the text, over many articles, or the first."""
    split: Literal["evaluation", "validation"] = "evaluation"
    """Split of the corpus. Use validation to make choices, on a corpus that has it (wiki-mini)."""
    batch: Count | None = None
    """Windows in a forward pass. Default: about 4096 tokens."""
    dense_states_gb: float = Field(default=4, ge=0, le=10**6)
    """Largest size in GB of the dense model's hidden states in the cache. Changes no number."""


class Windows(NamedTuple):
    """Windows of a corpus."""

    tokens: Tensor
    """int64 [windows, seqlen]"""
    clusters: Sequence[str]
    """Number of the article in which each window begins."""


@dataclass(frozen=True)
class Windowed(ABC):
    """Base class of measures that read windows. A run fills in the fields from its settings
    `perplexity`.

    Args:
        corpus: name in bench.inputs.corpora.
        seqlen: tokens in a window.
        windows: number of windows. None: all.
        batch: windows in a forward pass.
        bos: rule for BOS as far as it changes the tokens.
        draw: "spread" if the windows are evenly spaced. "": from the front.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs] = Needs.NOTHING
    settings: ClassVar[type[WindowSettings]] = WindowSettings
    streams: ClassVar[bool] = True
    beside_dense: ClassVar[bool] = False
    """True if the reader also needs the dense model's logits."""
    corpus: str
    seqlen: int
    windows: int | None = None
    batch: int | None = None
    split: str = "evaluation"
    bos: Bos = ""
    draw: str = ""

    @classmethod
    def plan(cls, context: PlanContext) -> Iterator[Planned]:
        """Plan one measurement, on the windows of the run's settings.

        Raises:
            UserError: the corpus lacks the split or has too few windows, or the model has too few
                positions.
        """
        wanted, data_dir = context.run.settings_of(WindowSettings), context.run.data_dir
        facts = context.facts
        corpus, seqlen = wanted.data or facts.data, wanted.seqlen or facts.seqlen
        default = max(1, facts.quick.tokens // seqlen) if facts.quick.tokens else None
        windows = count_of(wanted.windows, default)
        corpora.require_split(corpus, wanted.split)
        context.require_positions("perplexity", seqlen)
        context.require_text(corpus)
        content = corpora.digest(corpus, wanted.split, data_dir, fetch=context.fetch)
        if content:
            first = count_first(context.bos)
            check_windows(
                corpus, seqlen, windows, facts.tokenizer, data_dir, wanted.split, first=first
            )
        config = {"corpus": corpus, "seqlen": seqlen, "windows": windows, "batch": wanted.batch}
        if wanted.split != "evaluation":
            config |= {"split": wanted.split}
        if context.bos:
            config |= {"bos": context.bos}
        if windows and wanted.draw == "spread":
            config |= {"draw": wanted.draw}
        yield Planned(config, content, {"dense_states_gb": wanted.dense_states_gb})

    @property
    def protocol(self) -> Protocol | str:
        name = self.corpus if self.split == "evaluation" else f"{self.corpus}-{self.split}"
        return Protocol(
            name=name, seqlen=self.seqlen, limit=self.windows, bos=self.bos, draw=self.draw
        )

    @property
    def estimated_tokens(self) -> int:
        everything = corpora.lookup(self.corpus).tokens
        if self.windows:
            return min(everything, self.windows * self.seqlen)
        return everything

    @property
    def per_forward(self) -> int:
        return self.batch or max(1, forward.BATCH_TOKENS // self.seqlen)

    @property
    def same_pass(self) -> tuple[Any, ...]:
        """Key of the forward pass. Measures of one model share a pass if their keys are equal."""
        of_text = (self.corpus, self.split, self.seqlen, self.windows, self.draw, self.bos)
        return *of_text, self.per_forward

    def known(self, windows: Windows, context: MeasureContext) -> Readings | None:
        """Return the readings if they are known without running a model."""
        return None

    @abstractmethod
    def reader(self, windows: Windows, context: MeasureContext) -> WindowReader:
        """Make the reader of a pass."""

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Measure in a separate pass, or raise UserError if the corpus has fewer windows than
        requested."""
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
    """Read measures with the same `same_pass` in one forward pass.

    Args:
        measures: with their contexts, which differ only in `workdir`.
        model: loads the model, without its blocks if `context.compute.stream`.
        dense_model: keeps the dense model's states in the cache. None: they are not kept.

    Returns:
        Readings or fault of each measure. A fault in the forward pass is the fault of all.

    Raises:
        UserError: the corpus has fewer windows than requested.
    """
    m, context = measures[0]
    text = (m.corpus, context.tokenizer(), m.seqlen, m.windows, context.data_dir, m.split, m.bos)
    windows = Windows(*load_windows(*text, spread=m.draw == "spread"))
    digest = token_digest(windows.tokens)
    participants = []
    for measure, own in measures:
        copies = not type(measure).__module__.startswith("bench.")
        reader = partial(measure.reader, windows, own)
        participant = Participant(reader, beside_dense=measure.beside_dense, copies=copies)
        with participant.own_code():
            participant.readings = measure.known(windows, own)
        participants.append(participant)
    try:
        with (
            dense_model.states(digest, m.per_forward)
            if dense_model
            else nullcontext() as dense_states
        ):
            run_pass(participants, model, windows.tokens, m.per_forward, context, dense_states)
    except Exception as fault:  # noqa: BLE001 (a model may raise anything)
        for participant in participants:
            participant.fault = participant.fault or (None if participant.readings else fault)
    for participant in participants:
        readings = participant.readings
        if readings:
            with participant.own_code():
                participant.readings = replace(
                    readings, tokens=windows.tokens.numel(), token_digest=digest
                )
    return participants


class WindowSums:
    """Sums of a value over the rows of each window."""

    def __init__(self) -> None:
        self.values: list[float] = []
        """Sums of the windows that are complete, in order."""
        self._batch: Tensor | None = None

    def add(self, part: LogitPart, values: Tensor) -> None:
        """Add the values [rows] of a part. They are summed in their dtype."""
        if self._batch is None:
            self._batch = values.new_empty(part.batch_rows)
        self._batch[part.rows] = values
        if part.rows.stop == part.batch_rows:
            self.values += self._batch.view(part.windows, -1).sum(1).tolist()
            self._batch = None


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and its standard error, which is None for a single value or a mean that is
    not finite."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2 or not math.isfinite(mean):
        return mean, None
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
