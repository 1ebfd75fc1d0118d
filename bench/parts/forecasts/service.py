"""The forecasts of the catalog, from past records."""

from __future__ import annotations

from collections.abc import Sequence

from bench.execution.forecast import Forecasts, PlanEstimate
from bench.parts.forecasts.cards import Cards, describe_cards, split_cards
from bench.parts.forecasts.plan_costs import (
    describe_error,
    estimate_columns,
    estimate_seconds,
    fit_model,
)
from bench.parts.forecasts.time_left import ScaledForecast
from bench.planning.artifact import Measurement, Plan
from bench.planning.spec import Spec


class FromRecords(Forecasts):
    """Estimates from past records, or else from shapes and the speed of this machine."""

    def split_cards(self, spec: Spec) -> tuple[Spec, Cards | None]:
        return split_cards(spec)

    def estimate(self, plan: Plan, cards: Cards | None = None) -> PlanEstimate:
        model = fit_model(plan)
        columns = estimate_columns(plan, model, cards)
        if cards:
            return PlanEstimate(columns, describe_cards(cards, columns, plan))
        return PlanEstimate(columns, describe_error(model))

    def of_run(self, plan: Plan, missing: Sequence[list[Measurement]], jobs: int) -> ScaledForecast:
        seconds = estimate_seconds(missing, fit_model(plan)) if missing else {}
        are_seconds = all(measurements[0].artifact.device == "cpu" for measurements in missing)
        return ScaledForecast(seconds, are_seconds=are_seconds, jobs=jobs)
