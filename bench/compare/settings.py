"""What a gate is asked: margins, levels and tolerances, from a TOML file where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bench.system.suggest import describe_unknown
from bench.system.toml import read_toml
from methods.errors import UserError

MARGINS = {
    "perplexity": 0.005,
    "acc": 0.01,
    "latency": 0.05,
    "violated_groups": 0.0,
    "zeros_lost": 0.0,
    "sparsity": 0.001,
    "bytes_packed": 0.005,
}
"""How much worse is still good enough: a share of perplexity, timings and bytes; a difference of everything else."""
TOLERANCES = {"perplexity": 1e-4, "acc": 1e-3}
"""By how much a number may move and still be the same; of any other metric, LEAST_MOVE."""
LEAST_MOVE = 1e-4
SEED_NOISE = {"perplexity": 0.005, "acc": 0.005}
"""Standard deviation of one change between calibration draws, taken where a method with seeds was run with one. Five
draws of tiny's SparseGPT differ by 0.4% (results/tiny)."""


class Rules(BaseModel):
    """A gate's settings. A metric without a margin is not judged; a margin named `latency` is that of every timing."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    margins: dict[str, float] = MARGINS
    tolerances: dict[str, float] = TOLERANCES
    seed_noise: dict[str, float] = SEED_NOISE
    strict: bool = False

    @field_validator("margins", "tolerances", "seed_noise")
    @classmethod
    def _no_less_than_nothing(cls, value: dict[str, float]) -> dict[str, float]:
        for name, margin in value.items():
            if not 0 <= margin < float("inf"):
                raise ValueError(f"{name} = {margin} should be 0 or more")
        return value

    def margin(self, metric: str, timing: bool) -> float | None:
        return self.margins.get(metric, self.margins.get("latency") if timing else None)

    def tolerance(self, metric: str) -> float:
        return self.tolerances.get(metric, LEAST_MOVE)


def read(path: Path | None, **over: Any) -> Rules:
    """Defaults, then the file, then what is given here; tables are merged by metric.

    Raises:
        UserError: not TOML, an unknown key, or a value that will not do.
    """
    values: dict[str, Any] = read_toml(path) if path else {}
    for name, known in (("margins", MARGINS), ("tolerances", TOLERANCES), ("seed_noise", SEED_NOISE)):
        if isinstance(values.get(name), dict):
            values[name] = known | values[name]
    try:
        return Rules(**(values | {k: v for k, v in over.items() if v is not None}))
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise UserError(f"{path}: " + describe_unknown("setting", where, list(Rules.model_fields))) from None
        raise UserError(f"{path}: {where} = {first['input']!r} will not do: {first['msg'].lower()}") from None
