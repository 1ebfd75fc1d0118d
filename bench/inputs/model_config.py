"""Values of a model's config.json. Each is checked when it is read. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from methods.contract.errors import UserError

MAX_SIZE = 2**24
"""Largest size in a config. The largest vocabularies have 2^18 tokens, the longest contexts
2^20."""
CONFIG_DTYPES = ("float16", "bfloat16", "float32", "float64")
ACTIVATIONS = (
    "gelu", "gelu_10", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh",
    "gelu_python_tanh", "gelu_accurate", "hardswish", "laplace", "leaky_relu", "linear", "mish",
    "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "swish", "tanh",
)  # fmt: skip
"""Activations of transformers without parameters."""
ATTENTION = ("eager", "sdpa")
"""Allowed implementations of attention. transformers would download and run some others."""
REDIRECTS = (
    "auto_map",
    "transformers_weights",
    "per_layer_config",
    "pruned_heads",
    "experts_implementation",
)
"""Keys that name code, weights or layers outside the folder or the architecture."""
MAX_LABELS = 100_000
"""Largest number of labels. transformers makes a text for each."""
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")


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
            raise self._invalid(f"it has no {name}")
        if type(value) is not int or not 0 < value <= most:
            raise self._invalid(f"{name} is {_short(value)}, not a whole number from 1 to {most}")
        return value

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def flag(self, name: str, default: bool) -> bool:
        value = self._values.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self._invalid(f"{name} is {_short(value)}, not true or false")
        return value

    def check_choice(self, name: str, allowed: tuple[str, ...]) -> None:
        """Check a value, if it is present."""
        value = self._values.get(name)
        if value is not None and value not in allowed:
            raise self._invalid(f"{name} is {_short(value)}, not one of {', '.join(allowed)}")

    def check_number(self, name: str) -> None:
        """Check that a value, if it is present, is a number of at least 0."""
        value = self._values.get(name)
        if value is not None and (type(value) not in (int, float) or not 0 <= value < math.inf):
            raise self._invalid(f"{name} is {_short(value)}, not a number of at least 0")

    def check_token(self, name: str, vocabulary: int) -> None:
        """Check that a value, if it is present, is a token. A negative one counts from the end."""
        value = self._values.get(name)
        if value is not None and (type(value) is not int or not -vocabulary <= value < vocabulary):
            raise self._invalid(f"{name} is {_short(value)}, not a token of the {vocabulary}")

    def check_rope(self) -> None:
        """Check the types of rotary embeddings, of the model or of each kind of layer."""
        for name in ("rope_scaling", "rope_parameters"):
            value = self._values.get(name)
            if value is not None and not isinstance(value, dict):
                raise self._invalid(f"{name} is {_short(value)}, not an object")
            if value:
                kinds = [value, *(inner for inner in value.values() if isinstance(inner, dict))]
            else:
                kinds = []
            for each in kinds:
                kind = each.get("rope_type", each.get("type", "default"))
                if kind not in ROPE_TYPES:
                    raise self._invalid(
                        f"{name} is of type {_short(kind)}, not one of {', '.join(ROPE_TYPES)}"
                    )
                ModelConfig(each, self._where).check_number("rope_theta")

    def require_absent(self, name: str) -> None:
        """Refuse a key that would make transformers read or run something else."""
        if self._values.get(name):
            raise self._invalid(
                f"{name} is {_short(self._values[name])}, which cast-bench does not use"
            )

    def require_multiple(self, part: int, whole: int, what: str) -> None:
        if whole % part:
            raise self._invalid(f"{what}, and {whole} is not a multiple of {part}")

    def _invalid(self, what: str) -> UserError:
        return UserError(
            f"invalid config.json in {self._where}: {what}; download or write it again"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
