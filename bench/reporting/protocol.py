"""The protocols that a model was measured under, with their records. Numbers of two protocols never
share a column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.results.record import Record
from bench.results.rows import IDENTITY
from bench.system.grouping import group_by

VALIDATION = "validation"
"""Part of the name of a text on which recipes were chosen. Numbers on it are no results."""
RULE = (
    "A model's main protocol is the one under which most of its rows have a perplexity and a "
    "task; of equals, the one with the most perplexities, and then the one measured last. "
    "Validation splits are never the main one."
)

CALIBRATED = "calibrated on"
"""Before the text that a protocol's rows were calibrated on."""

RowLabels = tuple[Any, ...]
"""Labels by IDENTITY. Records with equal labels are one row of a table, whatever their seeds."""


@dataclass(frozen=True)
class BoardProtocol:
    """The protocol that the rows of a leaderboard share.

    text: corpus with window length and number of windows, empty if no text was measured.
    calibration: text that methods were calibrated on, empty if only one was used. Methods without
    calibration are in each.
    """

    text: str
    dtype: str
    device: str
    targets: str
    calibration: str = ""

    @property
    def label(self) -> str:
        targets = "" if self.targets == "*" else f"targets {self.targets}"
        calibration = f"{CALIBRATED} {self.calibration}" if self.calibration else ""
        parts = (self.text or "no perplexity", self.dtype, self.device, targets, calibration)
        return ", ".join(filter(None, parts))


def line_of(record: Record) -> RowLabels:
    """Return the labels of the row that a record belongs to."""
    labels = record.identity.labels()
    return tuple(labels[c] for c in IDENTITY)


def group_by_protocol(
    records: Iterable[Record], by_calibration: bool = True
) -> dict[BoardProtocol, list[Record]]:
    """Group a model's records by protocol, the main one first (see RULE).

    by_calibration: rows calibrated on different texts are under different protocols.

    A measure without a text belongs to all texts. A row without any text is under a protocol
    without one.
    """
    bases = group_by(
        records, lambda r: (r.identity.number_format, r.identity.device, r.identity.targets)
    )
    out: dict[BoardProtocol, list[Record]] = {}
    for base, of_base in bases.items():
        lines = group_by(of_base, line_of)
        for text in sorted({_text(r) or "" for r in of_base}):
            members = [_measured_on(text, of_line) for of_line in lines.values()]
            members = [of_line for of_line in members if of_line]
            names = {_calibration(of_line[0]) for of_line in members} - {""}
            if len(names) < 2 or not by_calibration:
                names = {""}
            for name in sorted(names):
                kept = []
                for of_line in members:
                    if not name or _calibration(of_line[0]) in ("", name):
                        kept += of_line
                if kept:
                    out[BoardProtocol(text, *base, name)] = kept
    return dict(sorted(out.items(), key=lambda item: _order(*item)))


def _text(record: Record) -> str | None:
    """Return the text that a record was measured on, or None."""
    if record.identity.subject != "text":
        return None
    return record.identity.protocol.label


def _measured_on(text: str, records: list[Record]) -> list[Record]:
    """Return a row's records of a text, with those of no text. Empty if the row was not measured on
    the text, or, for the text "", if it was measured on one."""
    texts = set(map(_text, records))
    if text and text not in texts:
        return []
    if not text and any(texts):
        return []
    return [r for r in records if _text(r) in (None, text)]


def _calibration(record: Record) -> str:
    if not record.identity.calibration:
        return ""
    return record.identity.calibration.data


def _order(protocol: BoardProtocol, records: list[Record]) -> tuple[Any, ...]:
    measured = []
    for record in records:
        found = (x.value for x in record.readings if x.metric == "perplexity")
        if any(value is not None for value in found):
            measured.append(record)
    newest = max((r.recorded for r in measured), default="")
    rows = set(map(line_of, measured))
    full = rows & {line_of(r) for r in records if r.identity.subject == "task" and r.status == "ok"}
    return (
        VALIDATION in protocol.text,
        -len(full),
        -len(rows),
        [-ord(c) for c in newest],
        protocol.label,
    )
