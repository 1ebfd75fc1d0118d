"""Lines on a terminal, drawn again as a run goes: all measurements, and the phase of each artifact at work."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from bench.execution.events import describe_figures
from bench.execution.forecast import Pace, clock_time
from bench.system.terminal import make_console, shorten
from bench.system.text import one_line

GAP, MIN_NAME, MIN_BAR, MAX_BAR = 2, 12, 6, 40
"""In columns."""


@dataclass
class Line:
    """What one line says.

    state: in place of the bar, where nothing is counted yet; until: the time of day when it ends.
    """

    name: str = ""
    state: str = ""
    done: int = 0
    total: int = 0
    since: float = 0.0
    until: str = ""
    figures: Sequence[str] = ()

    def compose(self, width: int, bar: str = "━", rest: str = "─") -> Text:
        """The line in a width. What gives way first: the bar, figures, the time taken, the middle of the name; last, when it ends."""
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
        name = shorten(name, named if size else named + max(0, left))
        filled = size * min(self.done, self.total) // max(self.total, 1)
        drawn = Text.assemble((bar * filled, "green"), (rest * (size - filled), "dim"))
        texts = (Text(name), drawn, *map(Text, (*count, *middle, *until)))
        return Text(" " * GAP).join(text for text in texts if text)


class RichDisplay:
    """All measurements, and the phase of each artifact at work, with the time of day when it ends."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._all = Line("measurements")
        self._now: dict[str, Line] = {}
        self._paces: dict[str, Pace] = {}
        self._live = Live(
            self,
            console=make_console(stream),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bar, rest = ("#", "-") if options.ascii_only else ("━", "─")
        for line in (self._all, *self._now.copy().values()):  # drawn from a thread of its own
            yield line.compose(options.max_width, bar, rest)

    def begin(self, total: int, known: int) -> None:
        self._all = Line("measurements", done=known, total=total, since=time.monotonic())
        self._live.start()

    def note(self, text: str) -> None:
        self._live.console.print(Text(one_line(text)))

    def artifact(self, label: str, waiting: bool, left: float | None = None) -> None:
        self._paces[label] = Pace()
        self._expect(left)
        self._now[label] = Line(label, "waiting for another run" if waiting else "importing", since=time.monotonic())

    def enter(self, label: str, phase: str, state: str, left: float | None = None) -> None:
        self._expect(left)
        self._now[label] = Line(f"{label}: {phase}" if phase else label, state, since=self._now[label].since)

    def progress(
        self, label: str, phase: str, done: int, total: int, figures: dict[str, float], left: float | None = None
    ) -> None:
        phase_left = self._paces[label].advance(phase, done, total)
        until = clock_time(phase_left) if phase_left is not None and phase_left > 2 else ""
        since = self._now[label].since
        self._now[label] = Line(f"{label}: {phase}", "", done, total, since, until, describe_figures(figures))
        self._expect(left)

    def measurement(self, label: str, measure: str, status: str, reason: str) -> None:
        self._all.done += 1
        if status != "ok":
            self.note(f"{label}: {measure} {status} ({reason})")

    def leave(self, label: str) -> None:
        self._now.pop(label, None)

    def end(self) -> None:
        self._live.stop()

    def _expect(self, left: float | None) -> None:
        if left is not None:
            self._all.until = clock_time(left)
