"""Cost model fitted to past records: seconds and peak memory of an artifact.

Every kind of stage and measure has a rate in seconds per weight and token. It is the median over
past ones, because a busy machine makes a few records slow. Records of the same model come first,
because a share of the weights of a small model is its embedding, which multiplies nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bench.parts.forecasts.past_costs import PastCost, TimedPart
from methods.contract.method import LIBRARY_BYTES

WITHIN = 1.5
"""Factor within which an estimate counts as close."""


class EstimateError(NamedTuple):
    """Error of the model for artifacts that it was not fitted to."""

    artifacts: int
    share: float
    """Share of estimates within WITHIN of the measured time."""
    median: float
    """Median factor between estimate and measured time."""


class CostModel:
    """Cost model of one machine."""

    def __init__(self, past: Iterable[PastCost]) -> None:
        self.past = list(past)
        rates: dict[str, list[float]] = {}
        ratios: list[float] = []
        for cost in self.past:
            for part in cost.parts:
                for kind in part.kinds:
                    rates.setdefault(kind, []).append(part.seconds / part.work)
            if cost.peak_bytes:
                # As bench.planning.memory estimates it from the shapes.
                estimate = LIBRARY_BYTES + 2.0 * cost.parameters * cost.item_bytes
                ratios.append(cost.peak_bytes / estimate)
        self._rates = {kind: _median(values) for kind, values in rates.items()}
        self.memory_ratio = _median(ratios) if ratios else None
        """Measured memory of artifacts without a training, divided by the estimate from the shapes.
        None: there is no record."""

    def seconds(self, parts: Sequence[TimedPart]) -> float | None:
        """Estimate the time of all parts. None: a kind has no record."""
        total = 0.0
        for part in parts:
            kinds = (*part.kinds, *part.instead)
            rates = [self._rates[kind] for kind in kinds if kind in self._rates]
            if not rates:
                return None
            total += rates[0] * part.work
        return total

    def error(self) -> EstimateError | None:
        """Estimate each artifact from the others. None: fewer than three are known."""
        factors = [factor for _, factor in self.leave_one_out()]
        if len(factors) < 3:
            return None
        off = np.exp(np.abs(np.log(factors)))
        return EstimateError(len(factors), float(np.mean(off <= WITHIN)), float(np.median(off)))

    def leave_one_out(self) -> list[tuple[PastCost, float]]:
        """Return each artifact, and its estimate from the others divided by its measured time.

        Parts whose kind no other has are left out.
        """
        out = []
        for cost in self.past:
            others = CostModel(other for other in self.past if other.artifact != cost.artifact)
            timed = [(others.seconds([part]), part.seconds) for part in cost.parts]
            known = [(estimate, taken) for estimate, taken in timed if estimate is not None]
            estimate = sum(seconds for seconds, _ in known)
            taken = sum(seconds for _, seconds in known)
            if estimate and taken:
                out.append((cost, estimate / taken))
        return out


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
