"""Displays of a run: bars, rows and a finish time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from bench.execution.events import describe_figures
from bench.execution.listener import RunListener, RunningArtifact, TimeLeft
from bench.reporting.words import clock_time
from bench.results.record import Record
from bench.results.rows import IDENTITY
from bench.system.terminal import PrintableStream
from bench.system.text import amount, one_line

EVERY_S = 10
"""Seconds between two lines of a log about one phase."""


class LogDisplay(RunListener):
    """A line for each event, to a stream that is no terminal. Progress of a phase: a line every ten
    seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = PrintableStream(stream)
        self._said: dict[str, tuple[str, float]] = {}
        """Phase of each artifact, and when its last line was printed."""
        self._reasons: dict[str, str] = {}
        """Reason of each artifact's last failure. Its other measurements fail for the same."""

    def note(self, text: str) -> None:
        print(one_line(text), file=self._stream, flush=True)

    def begin(self, total: int, known: int) -> None:
        self.note(f"{amount(total, 'measurement')}, {known} already recorded")

    def start(self, running: RunningArtifact, left: TimeLeft) -> None:
        self._said.pop(running.label, None)
        self._reasons.pop(running.label, None)
        state = "waiting for another run" if running.waits else "started"
        self.note(f"{running.label}: {state}{_all_done(left)}")

    def take(self, running: RunningArtifact, event: Mapping[str, Any], left: TimeLeft) -> None:
        label = running.label
        if event["event"] == "measurement":
            reason = f" ({event['reason']})" if event.get("reason") else ""
            if reason and self._reasons.get(label) == reason:
                return
            self._reasons[label] = reason
            self.note(f"{label}: {running.by_key[event['key']].label} {event['status']}{reason}")
        elif event["event"] == "progress":
            now, (phase, said) = time.monotonic(), self._said.get(label, ("", 0.0))
            if phase != event["phase"]:
                self._said[label] = event["phase"], now
            elif (
                now - said >= EVERY_S and left.phase is not None and event["done"] < event["total"]
            ):
                self._said[label] = phase, now
                figures = "".join(f"{figure}, " for figure in describe_figures(event["figures"]))
                done = (
                    f"{event['done']}/{event['total']}, {figures}done at {clock_time(left.phase)}"
                )
                self.note(f"{label}: {phase} {done}{_all_done(left)}")

    def end(self, running: RunningArtifact, cause: str, records: Sequence[Record] | None) -> None:
        if all(record.status == "failed" for record in records or ()):
            return
        for numbers in describe_rows(records or ()):
            self.note(f"{running.label}, {running.artifact.pattern}: {numbers}")


def describe_rows(records: Sequence[Record]) -> list[str]:
    """Return the numbers of each row that some records make, as its table shows them."""
    from bench.reporting.table import ABSENT, text_tables

    rows = []
    for table in text_tables(records):
        for line in table.lines:
            cells = zip(table.headers, line, strict=True)
            shown = [(h, cell) for h, cell in cells if h not in IDENTITY and cell != ABSENT]
            rows.append(", ".join(f"{head} {cell}" for head, cell in shown))
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
