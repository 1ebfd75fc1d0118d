"""Values of a model's config.json. Each is checked when it is read. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from bench.system.values import describe_allowed
from methods.contract.errors import UserError

MAX_SIZE = 2**24
"""Largest size in a config. The largest vocabularies have 2^18 tokens, the longest contexts
2^20."""
Attention = Literal["eager", "sdpa"] | None
"""Allowed implementations of attention. transformers would download and run some others."""
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
REDIRECTS = (
    "auto_map",
    "transformers_weights",
    "per_layer_config",
    "pruned_heads",
    "experts_implementation",
)
"""Keys that name code, weights or layers outside the folder or the architecture."""


class _Rope(BaseModel, strict=True):
    rope_theta: Number = None
    factor: Number = None
    low_freq_factor: Number = None
    high_freq_factor: Number = None
    original_max_position_embeddings: Number = None


class _Others(BaseModel, strict=True):
    """Values that decide no shape, but what code runs, or what this package computes with."""

    attn_implementation: Attention = None
    own_implementation: Attention = Field(None, alias="_attn_implementation")
    num_labels: Annotated[int, Field(ge=1, le=2**16)] | None = None
    """transformers makes a text for each."""
    hidden_act: str | None = None
    rms_norm_eps: Number = None
    rope_theta: Number = None
    rope_scaling: _Rope | None = None
    rope_parameters: _Rope | None = None


class ModelConfig:
    """Values of a config with checks."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values, self._where = values, where

    def context(self, default: int) -> int:
        """Return the context length in tokens. default: length for a config without one."""
        return self.size("max_position_embeddings", "n_positions", default=default)

    def size(self, *names: str, default: int | None = None, most: int = MAX_SIZE) -> int:
        """Return the value of the first of these names that is present: a whole number from 1 to
        `most`."""
        name = next((n for n in names if self._values.get(n) is not None), names[0])
        value = self._values.get(name)
        value = default if value is None else value
        if value is None:
            raise self.invalid(f"it has no {name}")
        if type(value) is not int or not 0 < value <= most:
            raise self.invalid(f"{name} is {_short(value)}, not a whole number from 1 to {most}")
        return value

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def flag(self, name: str, default: bool) -> bool:
        value = self._values.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.invalid(f"{name} is {_short(value)}, not true or false")
        return value

    def check_others(self) -> None:
        """Check values that decide no shape, if they are present."""
        try:
            _Others.model_validate(self._values)
        except ValidationError as fault:
            first = fault.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise self.invalid(
                f"{name} is {_short(first['input'])}, but {describe_allowed(first)}"
            ) from None
        self.context(default=1)

    def require_absent(self, name: str) -> None:
        """Refuse a key that would make transformers read or run something else."""
        if self._values.get(name):
            raise self.invalid(
                f"{name} is {_short(self._values[name])}, which cast-bench does not use"
            )

    def invalid(self, what: str) -> UserError:
        return UserError(
            f"invalid config.json in {self._where}: {what}; download or write it again"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
