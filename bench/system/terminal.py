"""The streams that this program prints to. They alone make text from outside printable."""

from __future__ import annotations

import codecs
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from bench.system.text import printable_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

_CURSOR_MOVES = re.compile(r"(?:\n|\r|\x1b\[A)*")
"""Cursor movements that tqdm writes between the bars of downloads."""


_PLAIN = str.maketrans("\N{MINUS SIGN}\N{EN DASH}─\N{MULTIPLICATION SIGN}≥", "---x>")
"""Printed where the encoding of a stream lacks a character. All others become a question mark."""


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    plain = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(c if c.isascii() else "?" for c in plain), error.end


codecs.register_error("plain", _replace)


class PrintableStream:
    """A text stream that replaces what a terminal or GitHub's log would act on.

    It has no `buffer`, which would bypass it.
    """

    def __init__(self, stream: TextIO) -> None:
        self.raw = stream

    def write(self, text: str) -> int:
        if _CURSOR_MOVES.fullmatch(text):
            self.raw.write(text)
        else:
            # A bar of tqdm starts with a carriage return.
            start = "\r" if text.startswith("\r") else ""
            self.raw.write(start + printable_lines(text.removeprefix("\r")))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self.raw, name)


def make_output_printable() -> None:
    """Replace standard output and standard error of this process by printable streams."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, PrintableStream):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="plain")
            setattr(sys, name, PrintableStream(stream))


def raw_stream(stream: TextIO) -> TextIO:
    """Return the stream behind a printable one, for text that is already safe."""
    return stream.raw if isinstance(stream, PrintableStream) else stream


def make_console(stream: TextIO) -> Console:
    """Return a rich console that interprets no markup and makes the text of each segment printable.

    stream: sys.stdout or sys.stderr. Lines in a file have any length. COLUMNS=0, as some terminals
    without a size set it, is no width: rich would print nothing.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class PrintableConsole(Console):
        """A console whose control segments are rich's own and whose text is printable."""

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if not segment.control:
                    segment = segment._replace(text=printable_lines(segment.text))
                yield segment

    environment = dict(os.environ)
    if not environment.get("COLUMNS", "").strip("0"):
        environment.pop("COLUMNS", None)
    return PrintableConsole(
        file=raw_stream(stream),
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=True,
        _environ=environment,
    )


def width_of(stream: TextIO) -> int | None:
    """Return the columns of the terminal behind a stream, or None for a file or a pipe."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def shorten(text: str, width: int) -> str:
    """Return text of at most `width` terminal columns, with an ellipsis in the middle where it was
    cut."""
    from rich.cells import cell_len, chop_cells

    if cell_len(text) <= width:
        return text
    if width < 3:
        return "…"[:width]
    tail = chop_cells(text[::-1], (width - 1) // 2)[0][::-1]
    return f"{chop_cells(text, width - 1 - cell_len(tail))[0]}…{tail}"


@contextmanager
def byte_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on standard error while the block runs, if that is a terminal. Yield a function
    that takes the bytes that are done, and all."""
    from rich.progress import DownloadColumn

    with _bar(label, DownloadColumn()) as show:
        yield show or (lambda done, total: None)


@contextmanager
def step_bar(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """As `byte_bar`, for steps. Yield None if there is no terminal."""
    from rich.progress import MofNCompleteColumn

    with _bar(label, MofNCompleteColumn()) as show:
        yield show


@contextmanager
def _bar(label: str, count: ProgressColumn) -> Iterator[Callable[[int, int], None] | None]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = make_console(sys.stderr)
    if not console.is_terminal or console.is_dumb_terminal:
        yield None
        return
    with Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), count, TimeRemainingColumn(),
        console=console, transient=True, redirect_stdout=False, redirect_stderr=False,
    ) as progress:  # fmt: skip
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)
