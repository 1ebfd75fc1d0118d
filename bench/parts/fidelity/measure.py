"""Distance to the dense model token by token: the tail of KL, and where it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.measures.contract import MeasureContext, Readings
from bench.measures.window_pass import LogitPart
from bench.measures.windowed import Windowed, Windows, mean_and_stderr
from bench.parts.fidelity import tally
from bench.parts.fidelity.kinds import kinds_of
from bench.results.derive import Items
from bench.results.record import Reading, Record
from methods.contract.errors import Skipped
from methods.contract.measure_info import MeasureInfo, Metric

if TYPE_CHECKING:
    from torch import Tensor

READ_MEANS = (
    "reverse_kl", "js_divergence", "ear", "top5_overlap", "original_token_probability",
)  # fmt: skip
"""Means over tokens that are readings. Those of KL and of equal top tokens are agreement's."""


@dataclass(frozen=True)
class Fidelity(Windowed):
    """Tail of KL(dense || compressed) over tokens, reverse KL, Jensen-Shannon, acceptance rate and
    top-5 overlap.

    EAR is the expected acceptance rate of speculative decoding, the sum of min(p, q). Percentiles
    come from ten bins of KL per decade, so they are right within a factor of 1.26. Items: EAR of
    each window, summed over its positions. Beside it: sums of all distances over all tokens, and by
    the dense model's confidence, by position and by kind of token; tokens in each bin of KL; and
    the largest KL. The notes have the percentiles and the largest KL of the same buckets.
    """

    name: ClassVar[str] = "fidelity"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(
            Metric("kl_median", "nats", "lower", "nats/token", 0.0, aggregation="own", order=22),
            Metric("kl_p90", "nats", "lower", "nats/token", 0.0, aggregation="own", order=23),
            Metric(
                "kl_p99", "nats", "lower", "nats/token", 0.0, aggregation="own", order=24,
                on_board=True, one_column=True,
            ),
            Metric("kl_p999", "nats", "lower", "nats/token", 0.0, aggregation="own", order=25),
            Metric("kl_max", "nats", "lower", "nats/token", 0.0, aggregation="own", order=26),
            Metric(
                "reverse_kl", "nats/token", "lower", "nats/token", 0.0,
                aggregation="window mean", order=27,
            ),
            Metric(
                "js_divergence", "nats/token", "lower", "nats/token", 0.0, 0.6931471805599454,
                aggregation="window mean", order=28,
            ),
            Metric(
                "ear", "1", "higher", "proportion", 0.0, 1.0, aggregation="window mean", order=29,
                on_board=True, one_column=True,
            ),
            Metric(
                "top5_overlap", "1", "higher", "proportion", 0.0, 1.0,
                aggregation="window mean", order=29,
            ),
            Metric(
                "original_token_probability", "1", "", "proportion", 0.0, 1.0,
                aggregation="window mean", order=29,
            ),
        )
    )  # fmt: skip
    beside_dense: ClassVar[bool] = True

    def reader(self, windows: Windows, context: MeasureContext) -> TokenDistances:
        return TokenDistances(windows, context.tokenizer())

    @staticmethod
    def derive(metric: str, record: Record, items: Items) -> float | None:
        return tally.derived(metric, items)


class TokenDistances:
    """Distances of all tokens: eight numbers each, and never logits of more than one part."""

    def __init__(self, windows: Windows, tokenizer: Any) -> None:
        self._windows, self._tokenizer = windows, tokenizer
        from bench.parts.fidelity.distances import DistanceReader  # imports torch

        self._distances = DistanceReader()
        self._parts: list[Tensor] = []

    def take(self, part: LogitPart) -> None:
        assert part.dense is not None
        if part.dense.shape != part.logits.shape:
            raise Skipped(
                f"KL needs one vocabulary, and the model has {part.logits.shape[-1]:,} logits "
                f"where the original has {part.dense.shape[-1]:,}"
            )
        self._parts.append(self._distances.read(part.dense, part.logits))

    def finish(self) -> Readings:
        import torch  # slow to import

        from bench.parts.fidelity.distances import clamped

        windows, seqlen = self._windows.tokens.shape
        every = clamped(torch.cat(self._parts)).double().cpu().numpy()
        targets = self._windows.tokens[:, 1:].numpy()
        kinds = kinds_of(targets.ravel().tolist(), self._tokenizer)
        ids = np.array(sorted(kinds))
        by_id = np.array([kinds[i] for i in sorted(kinds)])
        every = every.reshape(windows, seqlen - 1, -1)
        kind = by_id[np.searchsorted(ids, targets)]
        found = tally.items_of(every, kind, self._windows.clusters)
        items = tally.read_items(found)
        values = []
        for metric in (*tally.PERCENTILES, "kl_max"):
            value = tally.derived(metric, items)
            assert value is not None
            values.append(Reading(metric, value, n=windows))
        for metric in READ_MEANS:
            sums = items.columns["value" if metric == tally.VALUE else metric]
            mean, stderr = mean_and_stderr((sums / (seqlen - 1)).tolist())
            values.append(Reading(metric, mean, stderr=stderr, n=windows))
        return Readings(tuple(values), found, notes={tally.TAILS: tally.tails_of(every, kind)})
