"""The display on a terminal, redrawn as a run goes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from bench.execution.events import describe_figures
from bench.execution.listener import RunListener, RunningArtifact, TimeLeft
from bench.reporting.words import clock_time
from bench.system.terminal import make_console, shorten
from bench.system.text import one_line

if TYPE_CHECKING:
    from bench.reporting.table import TextTable
    from bench.results.record import Record

GAP, MIN_NAME, MIN_BAR, MAX_BAR = 2, 12, 6, 40
"""Widths in columns."""
MIN_ROWS = 3
"""Smallest number of rows in the live table, however low the terminal is."""


@dataclass
class Line:
    """One line of progress.

    state: text in place of the bar before anything is counted. until: the time of day when the
    phase ends.
    """

    name: str = ""
    state: str = ""
    done: int = 0
    total: int = 0
    since: float = 0.0
    until: str = ""
    figures: Sequence[str] = ()

    def compose(self, width: int, ascii_only: bool = False) -> Text:
        """Return the line in a width. It drops the bar first, then figures, elapsed time, the
        middle of the name, the end."""
        left = width + GAP

        def fitting(*texts: str) -> list[str]:
            nonlocal left
            out = []
            for text in filter(None, texts):
                if cell_len(text) + GAP <= left:
                    out.append(text)
                    left -= cell_len(text) + GAP
            return out

        until = fitting(self.until and f"until {self.until}")
        count = fitting(self.state or f"{self.done}/{self.total}")
        name = self.name
        named = min(cell_len(name), max(MIN_NAME, left // 2), max(0, left - GAP))
        left -= named + GAP
        elapsed = str(timedelta(seconds=int(time.monotonic() - self.since)))
        middle = fitting(elapsed, *self.figures)
        size = 0 if self.state or left - GAP < MIN_BAR else min(left - GAP, MAX_BAR)
        if not size:
            named += max(0, left)
        name = shorten(name, named)
        filled = size * min(self.done, self.total) // max(self.total, 1)
        bar, rest = ("#", "-") if ascii_only else ("━", "─")
        drawn = Text.assemble((bar * filled, "green"), (rest * (size - filled), "dim"))
        texts = (Text(name), drawn, *map(Text, (*count, *middle, *until)))
        return Text(" " * GAP).join(text for text in texts if text)


class RichDisplay(RunListener):
    """The rows that are done, a bar for all measurements, and a line for the phase of each artifact
    at work."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._all = Line("measurements")
        self._now: dict[str, Line] = {}
        self._reasons: dict[str, str] = {}
        """Reason of each artifact's last failure. Its other measurements fail for the same."""
        self._records: list[Record] = []
        self._tables: list[TextTable] = []
        console = make_console(stream)
        self._live = Live(
            self, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = (self._all, *self._now.copy().values())  # a thread of rich draws them
        for table in self._tables:
            yield from compose_table(
                table, options.max_width, max(MIN_ROWS, console.height - len(lines) - 3)
            )
        for line in lines:
            yield line.compose(options.max_width, options.ascii_only)

    def begin(self, total: int, known: int) -> None:
        self._all = Line("measurements", done=known, total=total, since=time.monotonic())
        self._live.start()

    def note(self, text: str) -> None:
        self._live.console.print(Text(one_line(text)))

    def start(self, running: RunningArtifact, left: TimeLeft) -> None:
        self._expect(left)
        self._reasons.pop(running.label, None)
        state = "waiting for another run" if running.waits else "importing"
        self._now[running.label] = Line(running.label, state, since=time.monotonic())

    def take(self, running: RunningArtifact, event: Mapping[str, Any], left: TimeLeft) -> None:
        label, since = running.label, self._now[running.label].since
        match event["event"]:
            case "imported":
                self._now[label] = Line(label, "loading", since=since)
            case "state":
                name = f"{label}: {event['phase']}" if event["phase"] else label
                self._now[label] = Line(name, event["state"], since=since)
            case "progress":
                until = clock_time(left.phase) if left.phase is not None and left.phase > 2 else ""
                name, figures = f"{label}: {event['phase']}", describe_figures(event["figures"])
                self._now[label] = Line(
                    name, "", event["done"], event["total"], since, until, figures
                )
            case "measurement":
                self._all.done += 1
                reason = event.get("reason", "")
                if event["status"] != "ok" and self._reasons.get(label) != reason:
                    self._reasons[label] = reason
                    measure = running.by_key[event["key"]].label
                    self.note(f"{label}: {measure} {event['status']} ({reason})")
        self._expect(left)

    def end(self, running: RunningArtifact, cause: str, records: Sequence[Record] | None) -> None:
        from bench.reporting.table import text_tables

        self._now.pop(running.label, None)
        self._records += records or ()
        self._tables = text_tables(
            [r for r in self._records if r.identity.model == running.artifact.model]
        )

    def close(self, fault: BaseException | None = None) -> None:
        self._live.stop()

    def _expect(self, left: TimeLeft) -> None:
        if left.run is not None:
            self._all.until = clock_time(left.run)


def compose_table(table: TextTable, width: int, rows: int) -> Iterator[Text]:
    """Yield a header and the first rows of a table, with the columns that fit a width."""
    columns: list[list[str]] = []
    left = width + GAP
    for column in zip(table.headers, *table.lines, strict=True):
        cells = [one_line(cell) for cell in column]
        size = max(map(cell_len, cells)) + GAP
        left -= size
        if left < 0:
            break
        columns.append([cell + " " * (size - cell_len(cell)) for cell in cells])
    for number, line in enumerate(zip(*columns, strict=True)):
        if number <= rows:
            yield Text("".join(line).rstrip(), "" if number else "bold")
