"""Ranges that the hyperparameters of several methods share, for use as the types of fields.

`bench.catalog.choice.build` checks them before a model is loaded. pydantic has more, such as `PositiveInt`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Fraction = Annotated[float, Field(ge=0, le=1)]
LearningRate = Annotated[float, Field(ge=0, le=10)]
Beta = Annotated[float, Field(ge=0, lt=1)]
"""The decay of one of Adam's running means."""
