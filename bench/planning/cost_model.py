"""A cost model fitted to past records: seconds and peak memory of an artifact.

Every stage and every measure has a rate, seconds by weight and token, which is the median over past ones of its kind in
logarithms: the load of a machine makes a few records slow, and a median does not follow them. A kind without a record takes the
rate of all that need the same (calibration, training, nothing); where there is none either, the caller's arithmetic holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bench.planning.memory import STATE_BYTES
from bench.planning.past_costs import Part, PastCost
from methods.contract import LIBRARY_BYTES

WITHIN = 1.5
"""The factor by which an estimate is called near."""


class Error(NamedTuple):
    """How near the model comes to artifacts that it was not fitted to."""

    artifacts: int
    share: float
    """Within WITHIN of what they took."""
    median: float
    """Factor."""


class CostModel:
    """Of one machine."""

    def __init__(self, past: Iterable[PastCost]) -> None:
        self.past = list(past)
        rates: dict[str, list[float]] = {}
        ratios: dict[bool, list[float]] = {}
        for cost in self.past:
            for part in cost.parts:
                if part.seconds > 0:
                    for kind in part.kinds:
                        rates.setdefault(kind, []).append(np.log(part.seconds / part.work))
            if cost.peak_bytes:
                ratios.setdefault(cost.trains, []).append(np.log(cost.peak_bytes / _arithmetic_bytes(cost)))
        self._rates = {kind: float(np.exp(np.median(logs))) for kind, logs in rates.items()}
        self._ratios = {trains: float(np.exp(np.median(logs))) for trains, logs in ratios.items()}

    def seconds(self, parts: Sequence[Part]) -> float | None:
        """Of all parts; None where a kind has no record."""
        each = [self._seconds(part) for part in parts]
        known = [seconds for seconds in each if seconds is not None]
        return sum(known) if len(known) == len(each) else None

    def _seconds(self, part: Part) -> float | None:
        return next((self._rates[kind] * part.work for kind in part.kinds if kind in self._rates), None)

    def memory_ratio(self, trains: bool) -> float | None:
        """What artifacts took of memory, by what arithmetic says; None without a record."""
        return self._ratios.get(trains)

    def error(self) -> Error | None:
        """Every artifact is left out once, and estimated from the others. None where fewer than three are known."""
        factors = [factor for _, factor in self.leave_one_out()]
        if len(factors) < 3:
            return None
        off = np.exp(np.abs(np.log(factors)))
        return Error(len(factors), float(np.mean(off <= WITHIN)), float(np.median(off)))

    def leave_one_out(self) -> list[tuple[PastCost, float]]:
        """Each artifact, and its estimate from the others by what it took; without those that the others say nothing of."""
        out = []
        for cost in self.past:
            others = CostModel(other for other in self.past if other.artifact != cost.artifact)
            seconds = others.seconds(cost.parts)
            if seconds and cost.seconds:
                out.append((cost, seconds / cost.seconds))
        return out


def _arithmetic_bytes(cost: PastCost) -> float:
    """As bench.planning.memory has it."""
    state = STATE_BYTES * cost.parameters if cost.trains else 0.0
    return LIBRARY_BYTES + 2.0 * cost.parameters * cost.item_bytes + state
