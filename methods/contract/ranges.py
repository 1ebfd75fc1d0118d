"""Ranges of hyperparameters, for use as the types of fields: each is bounded on both sides.

`bench.catalog.choice.build` checks them before a model is loaded. A plug-in may use any type that
pydantic checks.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MAX = 100_000
"""Far above what any method uses; with more, a run would not end, or its numbers would overflow."""

Fraction = Annotated[float, Field(ge=0, le=1)]
LearningRate = Annotated[float, Field(ge=0, le=10)]
Beta = Annotated[float, Field(ge=0, lt=1)]
"""The decay of one of Adam's running means."""
Positive = Annotated[float, Field(gt=0, le=MAX)]
NonNegative = Annotated[float, Field(ge=0, le=MAX)]
Count = Annotated[int, Field(ge=1, le=MAX)]
CountOrZero = Annotated[int, Field(ge=0, le=MAX)]
Share = Annotated[
    str,
    Field(pattern=r"^[0-9]{1,2}(\.[0-9]{1,4})?%$", description="a share below 100%, such as 25%"),
]
"""A share in percent, as text."""
