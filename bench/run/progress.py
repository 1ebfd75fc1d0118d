"""Show a run as it goes: bars and a finish time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Protocol, TextIO


class ProgressDisplay(Protocol):
    def begin(self, total: int, known: int) -> None: ...
    def artifact(self, label: str, waiting: bool, left: float | None = None) -> None:
        """An artifact begins. left: seconds until the whole run ends, about; None where not yet known."""
        ...

    def progress(self, phase: str, done: int, total: int, figures: dict[str, float]) -> None: ...
    def measurement(self, measure: str, status: str, reason: str) -> None: ...
    def note(self, text: str) -> None: ...
    def end(self) -> None: ...


class LogDisplay:
    """A line per event, to a stream that is no terminal; progress at most every ten seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._label, self._last = stream, "", 0.0
        self._phase, self._since, self._first = "", 0.0, 0  # where it went on from: a resumed training is half done

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def begin(self, total: int, known: int) -> None:
        self.note(f"{total} measurements, {known} already recorded")

    def artifact(self, label: str, waiting: bool, left: float | None = None) -> None:
        self._label = label
        end = f", all done at {_clock_time(left)}" if left is not None else ""
        self.note(f"{label}: {'waiting for another run' if waiting else 'started'}{end}")

    def progress(self, phase: str, done: int, total: int, figures: dict[str, float]) -> None:
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._since, self._last, self._first = phase, now, now, done
        elif now - self._last >= 10 and self._first < done < total:
            self._last = now
            left = (now - self._since) / (done - self._first) * (total - done)
            self.note(f"{self._label}: {phase} {done}/{total}, {_describe(figures)}done at {_clock_time(left)}")

    def measurement(self, measure: str, status: str, reason: str) -> None:
        self.note(f"{self._label}: {measure} {status}" + (f" ({reason})" if reason else ""))

    def end(self) -> None:
        pass


class RichDisplay:
    """rich progress bars on stderr: all measurements, and the phase at work, with the clock time it will end."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[until]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._label, self._phase, self._since, self._first = "", "", 0.0, 0

    def begin(self, total: int, known: int) -> None:
        self._all = self._bars.add_task("measurements", total=total, completed=known, until="")
        self._now = self._bars.add_task("", total=None, until="")
        self._bars.start()

    def note(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)

    def artifact(self, label: str, waiting: bool, left: float | None = None) -> None:
        self._label = label
        if left is not None:
            self._bars.update(self._all, until=f"until {_clock_time(left)}")
        self._bars.reset(
            self._now, description=f"{label}: {'waiting for another run' if waiting else 'loading'}", total=None
        )

    def progress(self, phase: str, done: int, total: int, figures: dict[str, float]) -> None:
        now = time.monotonic()
        if phase != self._phase or done <= 1:
            self._phase, self._since, self._first = phase, now, done
            self._bars.reset(self._now, total=total)
        left = (now - self._since) / (done - self._first) * (total - done) if done > self._first else 0.0
        until = f"until {_clock_time(left)}" if left > 2 else ""
        self._bars.update(
            self._now,
            description=f"{self._label}: {phase}",
            completed=done,
            total=total,
            until=_describe(figures) + until,
        )

    def measurement(self, measure: str, status: str, reason: str) -> None:
        self._bars.advance(self._all)
        if status != "ok":
            self.note(f"{self._label}: {measure} {status} ({reason})")

    def end(self) -> None:
        self._bars.stop()


def _clock_time(seconds: float) -> str:
    """The time of day in so many seconds."""
    return time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))


def _describe(figures: dict[str, float]) -> str:
    """Figures a method sent along, before a comma: "loss 2.31, 1,234 tokens/s, "."""
    words = {"tokens_per_s": "tokens/s"}
    return "".join(
        f"{v:,.0f} {words[k]}, " if k in words else f"{k.replace('_', ' ')} {v:.4g}, " for k, v in figures.items()
    )


def display_for(stream: TextIO = sys.stderr) -> ProgressDisplay:
    """The display that suits the stream: bars on a terminal, lines elsewhere."""
    return RichDisplay() if stream.isatty() else LogDisplay(stream)
