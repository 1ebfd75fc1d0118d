"""What is known of a model without records: rows of papers about it, and the nearest model that
was measured here."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.reporting import from_papers
from bench.reporting.folders import PUBLISHED

FILE = Path(__file__).parent.parent / "assets" / "measured.csv"
"""Rows of results/, which scripts/measured_rows.py writes."""
FIELDS = (
    "model", "family", "parameters", "protocol", "method", "pattern", "quantizer", "loss", "low",
    "high", "bits",
)  # fmt: skip
ENDINGS = re.compile(r"(instruct|chat|hf|base|it|meta)$")


class MeasuredRow(NamedTuple):
    """A row of another model. loss: the rise of perplexity over its dense model, as a fraction."""

    model: str
    family: str
    parameters: int
    protocol: str
    method: str
    pattern: str
    quantizer: str
    loss: float
    low: float | None
    high: float | None
    bits: float


def papers_about(model: str) -> list[from_papers.PaperRow]:
    """Return the rows of papers about a model, or about its base model, the best first."""
    found = []
    wanted = _bare(model)
    for path in sorted(PUBLISHED.glob("*.csv")):
        found += [row for row in from_papers.read_rows(path) if _bare(row.model) == wanted]
    return sorted(found, key=lambda row: (row.protocol, row.method != "dense", row.perplexity))


def _bare(name: str) -> str:
    """Return a model's name without its owner, its punctuation, and what a variant adds."""
    text = re.sub(r"[^a-z0-9.]", "", name.rstrip("/").split("/")[-1].lower()).strip(".")
    text = text.removeprefix("meta")
    while ENDINGS.search(text):
        text = ENDINGS.sub("", text)
    return text


def nearest(family: str, parameters: float) -> list[MeasuredRow]:
    """Return the rows of the measured model of the nearest size, the best first. Of equal sizes the
    one of the same family counts.

    Size comes before family: in results/main a format costs models of 135 million weights several
    times what it costs those of half a billion and more, whatever their families.
    """
    rows = _read()
    models: dict[str, MeasuredRow] = {}
    for row in rows:
        models.setdefault(row.model, row)

    def distance(row: MeasuredRow) -> tuple[float, bool]:
        return abs(math.log(max(row.parameters, 1) / max(parameters, 1))), row.family != family

    chosen = min(models.values(), key=distance).model
    first: dict[tuple[str, str], MeasuredRow] = {}
    for row in rows:
        if row.model == chosen:
            first.setdefault((row.pattern, row.quantizer.split(":")[0]), row)
    return sorted(first.values(), key=lambda row: row.loss)


def _read() -> Sequence[MeasuredRow]:
    with FILE.open(newline="", encoding="utf-8") as file:
        return [_row(line) for line in csv.DictReader(file)]


def _row(line: dict[str, Any]) -> MeasuredRow:
    numbers: dict[str, Any] = {"parameters": int(line["parameters"])}
    for name in ("loss", "low", "high", "bits"):
        numbers[name] = float(line[name]) if line[name] else None
    return MeasuredRow(**(line | numbers))
