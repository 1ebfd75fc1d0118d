"""What pydantic says of a value, in the words of this program."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

KINDS = {
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
"""By the type of an error."""
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
"""By the name of a limit in an error's context."""


def split_commas(text: str) -> list[str]:
    """The parts between commas.

    Raises:
        ValueError: one of them is empty; the message says what to do.
    """
    parts = text.split(",")
    if not all(part.strip() for part in parts):
        raise ValueError("leave the extra comma out" if "," in text else "must not be empty")
    return parts


def describe_allowed(error: ErrorDetails) -> str:
    """What a value must be that has this error, for a sentence that names the value."""
    for name, limit in error.get("ctx", {}).items():
        if name in BOUNDS:
            return f"must be {BOUNDS[name]} {limit:.16g}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be").replace("'", "")
    return KINDS.get(error["type"], message)
