"""Find the results folders that are searches or grids. They are on another page, and never in a
leaderboard."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from bench.compare.result_set import ResultSet
from bench.reporting.protocol import VALIDATION
from bench.system.toml import read_toml
from methods.contract.errors import UserError

FILE = "about.toml"
"""Name of the file in a results folder that says what the folder is for."""
RULE = (
    'A results folder is here if its about.toml says kind = "search" or "grid", or if all its '
    "perplexities are on "
    "validation splits."
)


class About(BaseModel, extra="forbid"):
    """The file about.toml of a results folder. kind: a search for a recipe, a grid of runs, or
    results."""

    kind: Literal["results", "search", "grid"] = "results"
    about: str = ""
    credit: str = ""
    """Who contributed the folder."""
    submitted: date | None = None
    licences: dict[str, str] = {}
    """Licences of models and data, by name."""


def read_about(folder: Path) -> About:
    """Read the file, or raise UserError if it has another key or kind."""
    file = folder / FILE
    if not file.is_file():
        return About()
    try:
        return About.model_validate(read_toml(file))
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"invalid {where} in {str(file)!r}: use kind (results, search or grid), about (one "
            "sentence), credit, submitted (a date) and [licences]"
        ) from None


def is_search(results: ResultSet) -> bool:
    """Return whether a results folder is a search, by RULE."""
    if read_about(Path(results.name)).kind != "results":
        return True
    texts = [r.identity.protocol.name for r in results.records if r.identity.subject == "text"]
    return bool(texts) and all(VALIDATION in text for text in texts)
