"""Settings of a search: a spec, fields of its methods with their ranges, and a budget of trials for
each method."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from bench.catalog.choice import parse_chain, parse_method, parse_value
from bench.measures.windowed import WindowSettings
from bench.planning.spec import Spec
from bench.system.values import describe_allowed
from methods.contract.errors import UserError

MAX_TRIALS = 10_000
Value = bool | int | float | str


class Range(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """Values of a field: from `low` to `high`, both included, or one of `choices`."""

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    """True to sample on a logarithmic scale."""
    choices: tuple[Value, ...] = ()

    @field_validator("low", "high", mode="before")
    @classmethod
    def _is_number(cls, value: Any) -> Any:
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError("must be a number")
        return value

    @model_validator(mode="after")
    def _is_one_kind(self) -> Range:
        bounds = self.low is not None and self.high is not None
        if bounds == bool(self.choices) or (self.low is None) != (self.high is None):
            raise ValueError("use low and high, or choices")
        least = 0 if self.log else -math.inf
        if self.low is not None and self.high is not None and not least < self.low < self.high:
            raise ValueError("low must be below high, and above 0 where log = true")
        return self

    @property
    def ends(self) -> tuple[Value, ...]:
        """Ends of the range, or all choices. A field that takes these takes all values."""
        return self.choices or tuple(v for v in (self.low, self.high) if v is not None)

    @property
    def is_whole(self) -> bool:
        """True if the values are whole numbers."""
        return all(isinstance(v, int) for v in (self.low, self.high))

    @property
    def values(self) -> Sequence[Value]:
        """All values, or none if they are fractions of a range."""
        if self.choices:
            return tuple(dict.fromkeys(self.choices))
        return range(int(self.low or 0), int(self.high or 0) + 1) if self.is_whole else ()

    @property
    def size(self) -> float:
        """Number of values, infinite for fractions."""
        return len(self.values) or math.inf

    def rounded(self, value: Value) -> Value:
        """Return the value with three digits, so that a user can type it."""
        if isinstance(value, float) and self.low is not None and self.high is not None:
            return min(max(float(f"{value:.3g}"), float(self.low)), float(self.high))
        return value

    def has(self, value: Value) -> bool:
        """Return whether the range contains the value."""
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return float(self.low or 0) <= value <= float(self.high or 0)


class Search(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """Table [search] of a spec."""

    trials: int = Field(ge=1, le=MAX_TRIALS)
    """Number of trials of each method."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    fields: dict[str, dict[str, Range]] = Field(min_length=1)
    """Ranges of the fields of each method. A method is named as on the command line."""

    def label(self, method: str, values: dict[str, Value]) -> str:
        """Return a trial as a method on the command line."""
        for name, value in values.items():
            text = value if isinstance(value, str) else json.dumps(value)
            method += f":{name}={text}"
        return method

    def values(self, method: str, label: str) -> dict[str, Value] | None:
        """Read the fields of a trial from its label. None: it is not a trial of this method."""
        ranges = self.fields[method]
        if not label.startswith(method + ":"):
            return None
        parts = [part.partition("=") for part in label[len(method) + 1 :].split(":")]
        if sorted(key for key, _, _ in parts) != sorted(ranges):
            return None
        found = {key: parse_value(text) for key, _, text in parts}
        if all(r.has(found[k]) for k, r in ranges.items()):
            return {k: found[k] for k in ranges}
        return None


def read_search(values: dict[str, Any]) -> tuple[Spec, Search]:
    """Read the spec and the search from the content of a TOML file. Refuse trials on another split
    than validation."""
    rest = dict(values)
    table = rest.pop("search", None)
    if not isinstance(table, dict):
        raise UserError(
            "this spec has no table [search]: give it trials, and fields of each method"
        )
    try:
        search = Search.model_validate(table)
    except ValidationError as fault:
        # A misspelt name is also a missing one.
        first = min(fault.errors(), key=lambda error: error["type"] == "missing")
        where = ".".join(["search", *map(str, first["loc"])])
        raise UserError(f"invalid {where}: {describe_allowed(first)}") from None
    if "methods" in rest:
        raise UserError("a search takes its methods from [search.fields]: leave methods out")
    rest = {"quantizers": ("none",), "measures": ("perplexity",)} | rest
    spec = Spec(**rest | {"methods": tuple(search.fields)})
    if spec.settings_of(WindowSettings).split != "validation":
        raise UserError(
            'the evaluation split is for the result of a search: set split = "validation" in '
            "[perplexity]"
        )
    for name in ("models", "patterns", "seeds", "quantizers"):
        if len(getattr(spec, name)) != 1:
            raise UserError(f"a search compares trials of one artifact: give one value of {name}")
    if "perplexity" not in spec.measures or spec.quantizers != ("none",):
        raise UserError(
            "a search compares perplexities without a quantizer: leave measures and quantizers out"
        )
    for method, ranges in search.fields.items():
        parse_chain(method)
        if not ranges:
            raise UserError(f"no field of {method} to search: name some in [search.fields]")
        for key, allowed in ranges.items():
            read = [
                parse_method(search.label(method, {key: value})).config for value in allowed.ends
            ]
            if not allowed.choices:
                # 0 and 1 are fractions if the field is. The field of `lambda`, a keyword of Python,
                # is `lambda_`.
                low, high = (config.get(key, config.get(f"{key}_")) for config in read)
                ranges[key] = allowed.model_copy(update={"low": low, "high": high})
        size = math.prod(allowed.size for allowed in ranges.values())
        if size < search.trials:
            raise UserError(
                f"search.trials={search.trials} is more than the {size} combinations that the "
                f"fields of {method} can take: use at most {size}"
            )
    return spec, search
