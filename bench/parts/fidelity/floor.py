"""Floor of fidelity: how far a model is from itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from bench.measures.contract import MeasureContext, Readings
from bench.measures.window_pass import WindowReader
from bench.measures.windowed import Windowed, Windows, mean_and_stderr
from bench.parts.fidelity import tally
from bench.results.derive import Items
from bench.results.record import Item, Reading
from methods.contract.measure_info import MeasureInfo, Metric

if TYPE_CHECKING:
    from torch import nn

PASSES = 5
"""Passes over the text: the model as its row runs it, and the conditions."""


@dataclass(frozen=True)
class Floor(Windowed):
    """Mean KL of a model beside itself in another dtype, number of threads, batch and attention
    kernel.

    The condition with the largest mean KL counts. Of the dense row it is the floor of a table: what
    cannot be called a difference. Items: KL of each window under this condition, summed over its
    positions. The notes have the mean, the 99% and the largest KL, EAR and the share of equal top
    tokens of each condition.
    """

    name: ClassVar[str] = "floor"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(
            Metric(
                "floor_kl", "nats/token", "", "nats/token", 0.0, aggregation="window mean",
                order=29, sorts_rows=False,
            ),
        )
    )  # fmt: skip
    streams: ClassVar[bool] = False

    @property
    def estimated_tokens(self) -> int:
        return PASSES * super().estimated_tokens

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Run the passes. They load the model for each condition, so no pass is shared."""
        from bench.inputs import loading  # imports torch
        from bench.inputs.windows import load_windows, token_digest
        from bench.parts.fidelity.passes import Passes, conditions

        tokenizer, at = context.tokenizer(), context.data_dir
        text = (self.corpus, tokenizer, self.seqlen, self.windows, at, self.split, self.bos)
        windows = Windows(*load_windows(*text, spread=self.draw == "spread"))
        load = partial(loading.load, context.folder)
        passes = Passes(windows, tokenizer, context.compute, context.progress, PASSES)
        passes.run_original(load)
        found = {}
        for one in conditions(context.compute):
            found[one.name] = tally.read_items(passes.distance(load, one).items)
        worst = max(found.values(), key=lambda items: float(items.columns["kl"].sum()))
        positions = windows.tokens.shape[1] - 1
        sums = worst.columns["kl"].tolist()
        mean, stderr = mean_and_stderr([nats / positions for nats in sums])
        items = []
        for i, (cluster, nats) in enumerate(zip(windows.clusters, sums, strict=True)):
            items.append(Item(str(i), cluster, nats, float(positions)))
        reading = Reading("floor_kl", mean, stderr=stderr, n=len(items))
        notes = {"floor": {name: _summarize(of) for name, of in found.items()}}
        tokens, digest = windows.tokens.numel(), token_digest(windows.tokens)
        return Readings((reading,), tuple(items), tokens, digest, notes)

    def reader(self, windows: Windows, context: MeasureContext) -> WindowReader:
        raise NotImplementedError("the floor shares no pass: call read()")


def _summarize(items: Items) -> dict[str, float]:
    """Return the numbers of a condition by name."""
    out = {"kl": float(items.columns["kl"].sum() / items.weights.sum())}
    out["kl_p99"] = tally.percentile(items, tally.PERCENTILES["kl_p99"])
    out["kl_max"] = float(items.columns[tally.LARGEST].max())
    for name, column in (("ear", "value"), ("top1", "top1")):
        out[name] = float(items.columns[column].sum() / items.weights.sum())
    return out
