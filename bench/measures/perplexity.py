"""Perplexity: exp of the mean cross-entropy of the next token, over windows without overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from bench.measures.contract import MeasureContext, Readings
from bench.measures.window_pass import LogitPart
from bench.measures.windowed import Windowed, Windows, WindowSums, mean_and_stderr
from bench.results.record import Item, Reading
from methods.contract.measure_info import MeasureInfo, Metric


@dataclass(frozen=True)
class Perplexity(Windowed):
    """exp of the mean next-token cross-entropy.

    The first token of a window is not predicted. Items: cross-entropy of each window in nats,
    summed over its positions.
    """

    name: ClassVar[str] = "perplexity"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(
            Metric(
                "perplexity",
                "1",
                "lower",
                "ratio",
                1.0,
                aggregation="exp of window mean",
                order=10,
                quality=1,
                on_board=True,
                margin=0.005,
                public_name="perplexity",
            ),
        )
    )

    def reader(self, windows: Windows, context: MeasureContext) -> WindowLosses:
        return WindowLosses(windows)


class WindowLosses:
    """Sums of the cross-entropy over each window in nats, in float32."""

    def __init__(self, windows: Windows) -> None:
        self._windows, self._sums = windows, WindowSums()
        self.losses = self._sums.values

    def take(self, part: LogitPart) -> None:
        target_logits = part.logits.gather(1, part.targets[:, None]).squeeze(1)
        self._sums.add(part, part.logits.logsumexp(-1) - target_logits)

    def finish(self) -> Readings:
        targets = self._windows.tokens.shape[1] - 1
        items = tuple(
            Item(str(i), c, nll, float(targets))
            for i, (c, nll) in enumerate(zip(self._windows.clusters, self.losses, strict=True))
        )
        mean, stderr = mean_and_stderr([x / targets for x in self.losses])
        ppl = math.inf if mean >= 700 else math.exp(mean)
        if stderr is not None:
            stderr = ppl * stderr
        reading = Reading("perplexity", ppl, stderr=stderr, n=len(items))
        return Readings((reading,), items)
