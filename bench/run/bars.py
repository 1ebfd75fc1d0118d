"""Two lines on a terminal, drawn again as a run goes: all measurements, and the phase at work."""

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

from bench.run.events import describe_figures
from bench.run.forecast import Pace, clock_time
from bench.system.terminal import make_console, shorten
from bench.system.text import printable

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
        name = printable(self.name)
        named = min(cell_len(name), max(MIN_NAME, left // 2), max(0, left - GAP))
        left -= named + GAP
        elapsed = str(timedelta(seconds=int(time.monotonic() - self.since)))
        middle = fitting(elapsed, *map(printable, self.figures))
        size = 0 if self.state or left - GAP < MIN_BAR else min(left - GAP, MAX_BAR)
        name = shorten(name, named if size else named + max(0, left))
        filled = size * min(self.done, self.total) // max(self.total, 1)
        drawn = Text.assemble((bar * filled, "green"), (rest * (size - filled), "dim"))
        texts = (Text(name), drawn, *map(Text, (*count, *middle, *until)))
        return Text(" " * GAP).join(text for text in texts if text)


class RichDisplay:
    """All measurements and the phase at work, each with the time of day when it ends."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._all, self._now, self._pace = Line("measurements"), Line(), Pace()
        self._label = ""
        self._live = Live(
            self,
            console=make_console(stream),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,  # what it prints would not be printable
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bar, rest = ("#", "-") if options.ascii_only else ("━", "─")
        yield self._all.compose(options.max_width, bar, rest)
        yield self._now.compose(options.max_width, bar, rest)

    def begin(self, total: int, known: int) -> None:
        now = time.monotonic()
        self._all = Line("measurements", done=known, total=total, since=now)
        self._now = Line(since=now)
        self._live.start()

    def note(self, text: str) -> None:
        self._live.console.print(Text(printable(text)))

    def artifact(self, label: str, waiting: bool, left: float | None = None) -> None:
        self._label = label
        self._pace.reset()
        self._expect(left)
        self._now = Line(label, "waiting for another run" if waiting else "importing", since=time.monotonic())

    def enter(self, phase: str, state: str, left: float | None = None) -> None:
        self._expect(left)
        self._now = Line(f"{self._label}: {phase}" if phase else self._label, state, since=self._now.since)

    def progress(self, phase: str, done: int, total: int, figures: dict[str, float], left: float | None = None) -> None:
        phase_left = self._pace.advance(phase, done, total)
        until = clock_time(phase_left) if phase_left is not None and phase_left > 2 else ""
        name = f"{self._label}: {phase}"
        self._now = Line(name, "", done, total, self._now.since, until, describe_figures(figures))
        self._expect(left)

    def measurement(self, measure: str, status: str, reason: str) -> None:
        self._all.done += 1
        if status != "ok":
            self.note(f"{self._label}: {measure} {status} ({reason})")

    def end(self) -> None:
        self._live.stop()

    def _expect(self, left: float | None) -> None:
        if left is not None:
            self._all.until = clock_time(left)
