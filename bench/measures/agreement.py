"""Distance to the dense model on perplexity's windows. It shows small losses that perplexity does
not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from bench.measures.contract import MeasureContext, Readings
from bench.measures.window_pass import LogitPart
from bench.measures.windowed import Windowed, Windows, WindowSums, mean_and_stderr
from bench.results.record import Item, Reading
from methods.contract.errors import Skipped
from methods.contract.measure_info import MeasureInfo, Metric


@dataclass(frozen=True)
class Agreement(Windowed):
    """KL(dense || compressed) per token, and top-1 agreement.

    Items: KL of each window, summed over its positions, and the number of positions with equal top
    tokens.
    """

    name: ClassVar[str] = "agreement"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(
            Metric(
                "kl",
                "nats/token",
                "lower",
                "nats/token",
                0.0,
                aggregation="window mean",
                order=20,
                quality=4,
            ),
            Metric(
                "top1_agreement",
                "1",
                "higher",
                "proportion",
                0.0,
                1.0,
                aggregation="window mean",
                order=21,
                on_board=True,
                one_column=True,
            ),
        )
    )
    beside_dense: ClassVar[bool] = True

    def known(self, windows: Windows, context: MeasureContext) -> Readings | None:
        if not context.is_dense:
            return None
        count, seqlen = windows.tokens.shape
        return _readings(windows, [0.0] * count, [seqlen - 1] * count)

    def reader(self, windows: Windows, context: MeasureContext) -> WindowDistances:
        return WindowDistances(windows)


class WindowDistances:
    """Sums over the positions of each window: KL(dense || model) in nats, and equal top tokens."""

    def __init__(self, windows: Windows) -> None:
        self._windows, self._kl, self._same = windows, WindowSums(), WindowSums()

    def take(self, part: LogitPart) -> None:
        p, q = part.dense, part.logits
        assert p is not None
        if p.shape[-1] != q.shape[-1]:
            raise Skipped(
                f"KL needs one vocabulary, and the model has {q.shape[-1]:,} logits where the "
                f"original has {p.shape[-1]:,}"
            )
        self._same.add(part, p.argmax(-1) == q.argmax(-1))
        p, q = p.log_softmax(-1), q.log_softmax(-1)
        # Rounding makes it negative where the models are nearly equal. In float64, so that the sum
        # over a window loses nothing.
        self._kl.add(part, (p.exp() * (p - q)).sum(-1).clamp(min=0).double())

    def finish(self) -> Readings:
        return _readings(self._windows, self._kl.values, self._same.values)


def _readings(windows: Windows, kl: Sequence[float], same: Sequence[float]) -> Readings:
    positions = windows.tokens.shape[1] - 1
    values = []
    for metric, sums in (("kl", kl), ("top1_agreement", same)):
        mean, stderr = mean_and_stderr([x / positions for x in sums])
        values.append(Reading(metric, mean, stderr=stderr, n=len(sums)))
    items = tuple(
        Item(str(i), c, nats, float(positions), {"top1_agreement": float(hits)})
        for i, (c, nats, hits) in enumerate(zip(windows.clusters, kl, same, strict=True))
    )
    return Readings(tuple(values), items)
