"""The forecasts of the catalog, from past records."""

from __future__ import annotations

from collections.abc import Sequence

from bench.execution.forecast import Forecasts, PlanEstimate
from bench.parts.forecasts.cards import Cards, describe_rate, split_cards
from bench.parts.forecasts.cost_model import CostModel
from bench.parts.forecasts.plan_costs import (
    describe_error,
    describe_on_cards,
    describe_plan,
    estimate_costs,
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
        costs = estimate_costs(plan, model, cards)
        columns = [cost.columns for cost in costs]
        if cards:
            return PlanEstimate(columns, describe_rate(cards), describe_on_cards(costs, cards))
        return PlanEstimate(columns, describe_error(model), describe_plan(costs, plan.jobs))

    def of_run(self, plan: Plan, missing: Sequence[list[Measurement]], jobs: int) -> ScaledForecast:
        model = fit_model(plan) if missing else CostModel(())
        seconds = estimate_seconds(missing, model) if missing else {}
        are_seconds = all(measurements[0].artifact.device == "cpu" for measurements in missing)
        total = describe_plan(estimate_costs(plan, model), jobs) if missing else ""
        return ScaledForecast(seconds, are_seconds=are_seconds, jobs=jobs, total=total)
