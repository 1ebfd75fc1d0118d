"""Base class for settings, and pydantic's errors in the words of this program."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationInfo, field_validator

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

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


DESCRIPTIONS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table of settings",
    "missing": "must be given",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "decimal_parsing": "must be a number",
    "extra_forbidden": "there is no such setting",
}
"""Sentence for each type of error."""
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
"""Words for each limit that an error's context can name."""


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


def split_commas(text: str) -> list[str]:
    """Return the parts between commas. Raise ValueError if a part is empty."""
    parts = text.split(",")
    if not text.strip():
        raise ValueError("must not be empty")
    if not all(part.strip() for part in parts):
        raise ValueError("leave the extra comma out")
    return parts


def describe_allowed(error: ErrorDetails) -> str:
    """Return what the value must be, for a sentence that names the value."""
    for name, limit in error.get("ctx", {}).items():
        if name in BOUNDS:
            return f"must be {BOUNDS[name]} {limit:.16g}"
    message = (
        error["msg"]
        .removeprefix("Value error, ")
        .replace("Input should be", "must be")
        .replace("'", "")
    )
    return DESCRIPTIONS.get(error["type"], message)
