"""Values as a user types them, and pydantic's errors in the words of this program.

It imports no pydantic, so that the help of a command does not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

DECIDES_NO_NUMBER = True

DESCRIPTIONS = {
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table of settings",
    "missing": "must be given",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "extra_forbidden": "there is no such setting",
}
"""Sentence for each type of error, or for all types that begin with this word."""
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
"""Words for each limit that an error's context can name."""


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
    kind = error["type"]
    return DESCRIPTIONS.get(kind) or DESCRIPTIONS.get(kind.partition("_")[0], message)
