"""Violations of the pattern, counted by the runner in the written folder, not reported by the
method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.measures.contract import MeasureContext, Readings
from bench.results.identity import Protocol
from bench.results.record import Reading
from methods.contract.measure_info import MeasureInfo, Metric
from methods.contract.method import Needs

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PatternHolds:
    """Number of groups that break the pattern; always measured.

    It also counts negative zeros, and zeros of an earlier stage that were lost.
    """

    name: ClassVar[str] = "pattern"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(
            Metric(
                "violated_groups",
                "1",
                "lower",
                "groups",
                0.0,
                order=70,
                on_board=True,
                counted=True,
                margin=0.0,
            ),
            Metric("negative_zeros", "1", "lower", "weights", 0.0, counted=True, in_tables=False),
            Metric(
                "zeros_lost",
                "1",
                "lower",
                "weights",
                0.0,
                order=71,
                counted=True,
                margin=0.0,
                sorts_rows=False,
            ),
        )
    )
    needs: ClassVar[Needs] = Needs.NOTHING

    @property
    def protocol(self) -> Protocol:
        return Protocol(name="targets")

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        counts = context.counts
        found = {"violated_groups": counts.violations, "negative_zeros": counts.negative_zeros}
        if counts.zeros_lost is not None:
            found["zeros_lost"] = counts.zeros_lost
        values = tuple(
            Reading(metric, count, n=len(counts.layers)) for metric, count in found.items()
        )
        notes = {"changed": sorted(counts.changed)} if counts.changed else {}
        return Readings(values, notes=notes)
