"""Settings of a gate: alpha, margins, tolerances and seed noise, from a TOML file if there is
one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from bench.catalog import metric_owners, registry
from bench.results.metrics import column_order
from bench.system.suggest import describe_unknown
from bench.system.toml import read_toml
from bench.system.values import describe_allowed
from methods.contract.errors import UserError
from methods.contract.measure_info import Metric

Number = Annotated[float, Field(strict=True)]
"""A number, but not true or false."""
Amount = Annotated[Number, Field(ge=0, le=1e9, allow_inf_nan=False)]
"""A margin, tolerance or deviation. Its square is finite."""


class CompareSettings(BaseModel, extra="forbid", frozen=True):
    """Settings of a gate. The dicts by metric replace the values that measures declare.

    A gate does not judge a metric without a margin. The margin `latency` is for all times and
    speeds, and so is `latency` in `not_comparable`: metrics or measures that pass although their
    numbers cannot be compared. `seed_noise`: standard deviations of a row's number between
    calibration seeds, which replace those of the rows with several seeds.
    """

    alpha: Number = Field(default=0.05, gt=0, lt=1)
    margins: dict[str, Amount] = {}
    tolerances: dict[str, Amount] = {}
    seed_noise: dict[str, Amount] = {}
    strict: bool = False
    not_comparable: tuple[str, ...] = ()

    def margin(self, metric: Metric) -> float | None:
        """Return the largest loss that passes, or None if the metric is not judged."""
        names = [metric.name]
        if metric.is_time:
            names.append("latency")
        return next((self.margins[name] for name in names if name in self.margins), metric.margin)

    def tolerance(self, metric: Metric) -> float:
        """Return the largest change that counts as a reproduction."""
        return self.tolerances.get(metric.name, metric.tolerance)


def read(path: Path | None, measured: Iterable[str] = (), **over: Any) -> CompareSettings:
    """Read settings from a file, or raise UserError. `over` overrides them. measured: metrics of
    other packages' measures."""
    values: dict[str, Any] = read_toml(path) if path else {}
    try:
        settings = CompareSettings(**(values | {k: v for k, v in over.items() if v is not None}))
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise UserError(
                f"{path}: " + describe_unknown("setting", where, list(CompareSettings.model_fields))
            ) from None
        raise UserError(
            f"{path}: invalid {where} = {first['input']!r}: {describe_allowed(first)}"
        ) from None
    known = dict.fromkeys((*sorted(metric_owners.built_in(), key=column_order), *measured))
    for table in ("margins", "tolerances", "seed_noise"):
        for name, value in getattr(settings, table).items():
            if name not in known and not metric_owners.find(name):
                raise UserError(
                    f"{path}: invalid {table}.{name} = {value}: "
                    + describe_unknown("metric", name, known)
                )
    known |= dict.fromkeys(registry.names("measures"))
    for name in settings.not_comparable:
        if name not in known and not metric_owners.find(name):
            raise UserError(
                f"{path}: invalid not_comparable: " + describe_unknown("metric", name, known)
            )
    return settings
