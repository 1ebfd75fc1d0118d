"""Base class for settings, and types of their fields."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationInfo, field_validator

DECIDES_NO_NUMBER = True

MAX_COUNT, MAX_TOKENS = 10_000_000, 2**24
"""Upper limits of settings: for counts of sequences, windows or questions, and for tokens in a
sequence."""


def count_or(word: str, most: int) -> PlainValidator:
    """Return a validator of a whole number from 1 to `most`, or a word. None is the default."""

    def read(value: Any) -> Any:
        if value is None or value == word:
            return value
        if (
            isinstance(value, bool)
            or not re.fullmatch("[0-9]{1,9}", str(value))
            or not 1 <= int(value) <= most
        ):
            raise ValueError(f"must be a whole number from 1 to {most}, or {word}")
        return int(value)

    return PlainValidator(read)


Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Extent = Annotated[int | Literal["all"] | None, count_or("all", MAX_COUNT)]
"""Number of windows or questions, from the first, or "all"."""
Length = Annotated[int, Field(ge=2, le=MAX_TOKENS)]


def count_of(extent: int | Literal["all"] | None, default: int | None) -> int | None:
    """Return a number of windows or questions. None means all of them."""
    return None if extent == "all" else extent or default


class Strict(BaseModel):
    """Settings that refuse unknown names, booleans in place of numbers, and text that no path or
    record can hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_kind(cls, value: Any, info: ValidationInfo) -> Any:
        takes_bool = cls.model_fields[info.field_name or ""].annotation is bool
        values = value if isinstance(value, list | tuple) else (value,)
        for one in values:
            if isinstance(one, bool) and not takes_bool:
                raise ValueError("must not be true or false")
            if one == "":
                raise ValueError("must not be empty")
            # A command line with other bytes than UTF-8 gives text that cannot be encoded.
            if isinstance(one, str) and (
                "\0" in one or one.encode(errors="ignore").decode() != one
            ):
                raise ValueError("must be valid text")
        return value
