"""Displays of a run: bars, rows and a finish time on a terminal, a line for what ends elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from bench.execution.listener import RunListener, RunningArtifact, TimeLeft
from bench.reporting.words import clock_time
from bench.results import metrics
from bench.results.record import Record
from bench.system.terminal import PrintableStream
from bench.system.text import amount, one_line

SHOWN = ("perplexity", metrics.SIZE, "mean_acc", "acc")
"""Metrics in the line of an artifact that has ended, if it has them."""


class LogDisplay(RunListener):
    """A line when an artifact ends, and for each failure, to a stream that is no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = PrintableStream(stream)
        self._reasons: dict[str, str] = {}
        """Reason of each artifact's last failure. Its other measurements fail for the same."""
        self._left = TimeLeft()
        self._done = self._total = 0

    def note(self, text: str) -> None:
        print(one_line(text), file=self._stream, flush=True)

    def begin(self, total: int, known: int) -> None:
        self._done, self._total = known, total
        self.note(f"{amount(total, 'measurement')}, {known} already recorded")

    def start(self, running: RunningArtifact, left: TimeLeft) -> None:
        self._left = left
        self._reasons.pop(running.label, None)
        if running.waits:
            self.note(f"{running.label}: waiting for another run")

    def take(self, running: RunningArtifact, event: Mapping[str, Any], left: TimeLeft) -> None:
        label, self._left = running.label, left
        if event["event"] == "measurement":
            self._done += 1
            reason = event.get("reason", "")
            if event["status"] == "ok" or self._reasons.get(label) == reason:
                return
            self._reasons[label] = reason
            measure = running.by_key[event["key"]].label
            self.note(f"{label}: {measure} {event['status']} ({reason})")

    def end(self, running: RunningArtifact, cause: str, records: Sequence[Record] | None) -> None:
        if all(record.status == "failed" for record in records or ()):
            return
        done = f"{self._done}/{self._total}{_all_done(self._left)}" if self._total else ""
        for numbers in describe_rows(records or ()):
            parts = filter(None, (f"{running.artifact.pattern}: {numbers}", done))
            self.note(f"{running.label}, {'; '.join(parts)}")


def describe_rows(records: Sequence[Record]) -> list[str]:
    """Return the first numbers of each row that some records make, as its table shows them."""
    from bench.reporting.table import ABSENT, text_tables

    labels = [metrics.find(name).label for name in SHOWN]
    rows = []
    for table in text_tables(records):
        for line in table.lines:
            shown = []
            for label in labels:
                for head, cell in zip(table.headers, line, strict=True):
                    if f"{head} ".startswith(f"{label} ") and cell != ABSENT:
                        # Of several tasks the first is shown, by name.
                        name = head.partition("@")[0] if label == "acc" else label
                        shown.append(f"{name} {cell}")
                        break
            if shown:
                rows.append(", ".join(shown))
    return rows


def _all_done(left: TimeLeft) -> str:
    return f", all done at {clock_time(left.run)}" if left.run is not None else ""


def display_for(stream: TextIO = sys.stderr) -> RunListener:
    """Return the display that suits the stream: bars on a terminal that can move its cursor, lines
    elsewhere."""
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        from bench.execution.bars import RichDisplay

        return RichDisplay(stream)
    return LogDisplay(stream)
