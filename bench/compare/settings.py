"""What a gate is asked: margins, levels and tolerances, from a TOML file where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bench.results.metrics import Metric
from bench.system.suggest import unknown
from bench.system.toml import read_toml
from methods.errors import UserError


class CompareSettings(BaseModel):
    """A gate's settings, by metric where they are not those of bench.results.metrics.

    A metric without a margin is not judged. A margin named `latency` is that of every time and speed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    margins: dict[str, float] = {}
    tolerances: dict[str, float] = {}
    seed_noise: dict[str, float] = {}
    strict: bool = False

    @field_validator("margins", "tolerances", "seed_noise")
    @classmethod
    def _no_less_than_nothing(cls, value: dict[str, float]) -> dict[str, float]:
        for name, margin in value.items():
            if not 0 <= margin < float("inf"):
                raise ValueError(f"{name} = {margin} should be 0 or more")
        return value

    def margin(self, metric: Metric) -> float | None:
        """How much worse is still good enough; None: the metric is not judged."""
        names = (metric.name, "latency") if metric.is_time else (metric.name,)
        return next((self.margins[name] for name in names if name in self.margins), metric.margin)

    def tolerance(self, metric: Metric) -> float:
        """By how much a number may move and still be the same."""
        return self.tolerances.get(metric.name, metric.tolerance)

    def noise(self, metric: Metric) -> float:
        """Standard deviation of a change between calibration seeds."""
        return self.seed_noise.get(metric.name, metric.seed_noise)


def read(path: Path | None, **over: Any) -> CompareSettings:
    """The file's settings, then what is given here; what neither says has its default.

    Raises:
        UserError: not TOML, an unknown key, or a value that will not do.
    """
    values: dict[str, Any] = read_toml(path) if path else {}
    try:
        return CompareSettings(**(values | {k: v for k, v in over.items() if v is not None}))
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise UserError(f"{path}: " + unknown("setting", where, list(CompareSettings.model_fields))) from None
        raise UserError(f"{path}: {where} = {first['input']!r} will not do: {first['msg'].lower()}") from None
