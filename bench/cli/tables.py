"""Print tables. Columns that do not fit the terminal move to another line of each row."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import NamedTuple

from rich.cells import cell_len
from rich.text import Text

from bench.system.terminal import make_console, shorten, width_of
from bench.system.text import printable

GAP, INDENT = 2, 4
"""Spaces between two columns, and before every line of a row but the first."""
COMFORTABLE = (36, 28)
"""Widths up to which no column is wrapped, in terminal columns. The one that gives fewer lines is
used."""
MIN_FIRST = 12
"""Least width of a first column that is wrapped, in terminal columns."""
SHORT_HEADER = 8
"""Width up to which a header is not wrapped, in terminal columns."""
MAX_CELL = 2000
"""Width of a cell above which its middle is cut, in terminal columns."""

Line = list[tuple[int, int]]
"""Columns on one line of a row, each with its width."""


class StyledCell(NamedTuple):
    """A cell with a color."""

    text: str
    color: str = ""


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str | StyledCell]],
    right: Sequence[bool],
    title: str = "",
    notes: Sequence[str] = (),
    width: int | None = None,
    narrow: bool = False,
) -> None:
    """Print a table to standard output.

    Args:
        rows: cells of each row; a column without text in any row is left out.
        right: whether each column is aligned to the right.
        notes: sentences below the table.
        width: columns of a file or a pipe. None: as many as the table needs.
        narrow: wrap the first column, down to MIN_FIRST, before columns move to another line.
    """
    width = width_of(sys.stdout) or width
    head: list[StyledCell] = []
    columns: list[list[StyledCell]] = []
    to_right: list[bool] = []
    titled: list[int] = []
    worded: list[int] = []
    tight: list[int] = []
    for i, header in enumerate(headers):
        cells = [row[i] for row in rows]
        known = {cell: _shown(cell) for cell in set(cells)}
        if cells and not any(cell.text for cell in known.values()):
            continue
        text = printable(header)
        needed = max((_width(cell.text) for cell in known.values()), default=0)
        longest_word = max(map(cell_len, text.split()), default=0)
        head.append(StyledCell(text, "bold"))
        columns.append([known[cell] for cell in cells])
        to_right.append(right[i])
        titled.append(max(needed, cell_len(text)))
        tight.append(max(needed, longest_word))
        worded.append(max(tight[-1], cell_len(text[:SHORT_HEADER])))
    body = list(zip(*columns, strict=True))
    if narrow and width and worded:
        over = sum(worded) + GAP * (len(worded) - 1) - width
        least = min(worded[0], MIN_FIRST)
        if 0 < over <= worded[0] - least:
            for widths in (titled, worded, tight):
                widths[0] = min(widths[0], worded[0] - over)
    lines = arrange(titled, worded, tight, width)
    total = 0
    for n, line in enumerate(lines):
        total = max(total, sum(width + GAP for _, width in line) - GAP + INDENT * (n > 0))
    out: list[str | Text] = []
    for part in textwrap.wrap(printable(title), width or len(title) + 1):
        out.append(Text(part, "bold"))
    out += [*_draw(head, lines, to_right, at_bottom=True), Text("─" * total, "dim")]
    for row in body:
        out += _draw(row, lines, to_right)
    for note in notes:
        parts = textwrap.wrap(printable(note), width or len(note) + 1)
        out += [Text(part, "dim") for part in parts]
    make_console(sys.stdout).print(Text("\n").join(_merged(out)))


def _shown(cell: str | StyledCell) -> StyledCell:
    if not isinstance(cell, StyledCell):
        cell = StyledCell(cell)
    text = printable(cell.text)
    if _width(text) > MAX_CELL:
        text = shorten(text, MAX_CELL)
    return StyledCell(text, cell.color)


def _merged(lines: Iterable[str | Text]) -> Iterator[Text]:
    """Yield all lines. Plain lines that follow each other are one text, which takes less time."""
    plain: list[str] = []
    for line in lines:
        if isinstance(line, str):
            plain.append(line)
            continue
        if plain:
            yield Text("\n".join(plain))
            plain = []
        yield line
    if plain:
        yield Text("\n".join(plain))


def arrange(
    titled: Sequence[int], worded: Sequence[int], tight: Sequence[int], width: int | None
) -> list[Line]:
    """Return the columns of each line of a row.

    Args:
        titled: width of each column whose header is not wrapped.
        worded: width of each column whose header is wrapped, but keeps short words together.
        tight: width of each column whose header is wrapped after every word.
        width: columns of the terminal, or None for a file.
    """
    gaps = GAP * (len(titled) - 1)
    if width is None or sum(titled) + gaps <= width:
        return [list(enumerate(titled))]
    for widths in (worded, tight):
        if sum(widths) + gaps <= width:
            return [list(enumerate(widths))]
    return min((_fill(worded, width, comfortable) for comfortable in COMFORTABLE), key=len)


def _fill(natural: Sequence[int], width: int, comfortable: int) -> list[Line]:
    lines: list[Line] = [[]]
    for i, needed in enumerate(natural):
        wanted = min(needed, comfortable, width - INDENT)
        if lines[-1] and wanted > _spare(lines, width) - GAP:
            lines.append([])
        lines[-1].append((i, wanted))
    for line in lines:
        for n, (i, given) in enumerate(line):
            more = min(natural[i] - given, _spare(lines[: lines.index(line) + 1], width))
            line[n] = (i, given + more)
    return lines


def _spare(lines: Sequence[Line], width: int) -> int:
    """Return the free columns at the end of the last line."""
    used = sum(given + GAP for _, given in lines[-1]) - GAP
    return width - used - INDENT * (len(lines) > 1)


def _draw(
    row: Sequence[StyledCell], lines: Sequence[Line], right: Sequence[bool], at_bottom: bool = False
) -> list[str | Text]:
    """Return the lines of one row. Lines without text are left out. at_bottom: align wrapped cells
    at the bottom."""
    if len(lines) == 1:
        plain = _draw_plain(row, lines[0], right)
        if plain is not None:
            return [plain]
    out: list[str | Text] = []
    for n, line in enumerate(lines):
        cells = [_wrap(row[i], width, right[i]) for i, width in line]
        height = max(map(len, cells)) if any(row[i].text for i, _ in line) else 0
        if at_bottom:
            cells = [[Text()] * (height - len(cell)) + cell for cell in cells]
        for texts in list(zip_longest(*cells, fillvalue=Text()))[:height]:
            drawn = Text(" " * INDENT * (n > 0))
            for position, (text, (_, width)) in enumerate(zip(texts, line, strict=True)):
                drawn.append(" " * GAP * (position > 0)).append(text).append(
                    " " * (width - text.cell_len)
                )
            drawn.rstrip()
            out.append(drawn)
    return out


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _draw_plain(row: Sequence[StyledCell], line: Line, right: Sequence[bool]) -> str | None:
    """Return the only line of a row. None: a cell has a color, or does not fit."""
    out = []
    for i, width in line:
        text, color = row[i]
        padded = None if color else _pad(text, width, right[i])
        if padded is None:
            return None
        out.append(padded)
    return (" " * GAP).join(out).rstrip()


@lru_cache(maxsize=2**12)  # most cells of a column have few different texts
def _pad(text: str, width: int, right: bool) -> str | None:
    """Return a cell of a width. None: it does not fit."""
    if _width(text) > width:
        return None
    text = text.rstrip()
    padding = " " * (width - _width(text))
    return padding + text if right else text + padding


def _wrap(cell: StyledCell, width: int, right: bool) -> list[Text]:
    text = Text(cell.text, cell.color)
    wrapped = [text] if text.cell_len <= width else list(text.wrap(make_console(sys.stdout), width))
    for line in wrapped:
        line.rstrip()
        if right:
            line.pad_left(width - line.cell_len)
    return wrapped
