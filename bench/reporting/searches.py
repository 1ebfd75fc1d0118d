"""Find the results folders that are searches or grids. They are on another page, and never in a
leaderboard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, StringConstraints, ValidationError

from bench.comparing.result_set import ResultSet
from bench.reporting.protocol import VALIDATION
from bench.results.record import Record
from bench.system.toml import read_toml
from methods.contract.errors import UserError

FILE = "about.toml"
"""Name of the file in a results folder that says what the folder is for."""
MAX_BYTES = 2**14
"""Largest size of it. The parser's memory grows with the square of the dots in a key."""
RULE = (
    'A results folder is here if its about.toml says kind = "search" or "grid", or if all its '
    "perplexities are on "
    "validation splits."
)

RecordDigits = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
HttpsUrl = Annotated[
    str,
    StringConstraints(pattern=r"^https://[a-zA-Z0-9.-]+(/[a-zA-Z0-9._~/%+-]*)?$", max_length=300),
]


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
    weights: dict[RecordDigits, HttpsUrl] = {}
    """Where the weights of a row can be downloaded, by the first digits of a record of it."""

    def weights_of(self, records: Iterable[Record]) -> dict[str, str]:
        """Return URLs of weights by artifact."""
        found = {}
        for record in records:
            for digits, url in self.weights.items():
                if record.key.startswith(digits):
                    found[record.artifact] = url
        return found


def are_weights(given: Mapping[str, str]) -> bool:
    """Return whether these are URLs by the first digits of records, as `weights` of About."""
    try:
        About.model_validate({"weights": dict(given)})
    except ValidationError:
        return False
    return True


def read_about(folder: Path) -> About:
    """Read the file, or raise UserError if it has another key or kind."""
    file = folder / FILE
    if not file.is_file():
        return About()
    try:
        return About.model_validate(read_toml(file, MAX_BYTES))
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"invalid {where} in {str(file)!r}: use kind (results, search or grid), about (one "
            "sentence), credit, submitted (a date), [licences] and [weights] (RECORD = URL, "
            "https)"
        ) from None


def is_search(results: ResultSet) -> bool:
    """Return whether a results folder is a search, by RULE."""
    if read_about(Path(results.name)).kind != "results":
        return True
    texts = [r.identity.protocol.name for r in results.records if r.identity.subject == "text"]
    return bool(texts) and all(VALIDATION in text for text in texts)
