"""Contract of forecasts: what a plan costs, and when a run ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from bench.catalog import registry
from bench.execution.listener import RunListener, RunningArtifact, TimeLeft
from bench.planning.artifact import Measurement, Plan
from bench.planning.spec import Spec

SERVICE = "forecasts"


class RunForecast(RunListener):
    """Estimates for one run. This class has none."""

    total: str = ""
    """Phrase about the time of the whole run; "" if it is unknown."""

    def seconds(self, measurements: Sequence[Measurement]) -> float:
        """Return the estimated seconds of an artifact, by which a run orders its artifacts."""
        return 0.0

    def left(self, running: RunningArtifact) -> TimeLeft:
        """Estimate the seconds until the run ends, and until the artifact's phase does."""
        return TimeLeft()


class PlanEstimate(NamedTuple):
    """Cost of a plan."""

    columns: list[dict[str, Any]]
    """Estimates by column of `bench plan`, for each artifact."""
    source: str = ""
    """Sentence about how they were made."""
    total: str = ""
    """Phrase about the time of all artifacts; "" if it is unknown."""


class Forecasts:
    """Estimates of time and memory. This class has none; the service `forecasts` of the catalog
    derives from it."""

    def split_cards(self, spec: Spec) -> tuple[Spec, Any]:
        """Return the spec for CUDA and the cards that its device names, such as 8xh100, or None if
        it names none."""
        return spec, None

    def estimate(self, plan: Plan, cards: Any = None) -> PlanEstimate:
        """Estimate the cost of each artifact. cards: from `split_cards`."""
        return PlanEstimate([{} for _ in plan.artifacts()])

    def of_run(self, plan: Plan, missing: Sequence[list[Measurement]], jobs: int) -> RunForecast:
        """Return the forecast of a run. missing: the measurements of each artifact without a
        record. jobs: number of artifacts at a time."""
        return RunForecast()


def find_forecasts() -> Forecasts:
    """Return the forecasts of the catalog, or some without estimates if it has none."""
    if SERVICE in registry.names("services"):
        return registry.build("services", SERVICE, Forecasts)
    return Forecasts()
