"""Lay a table out in a width: no word, interval or protocol is broken, and columns that do not fit go to a second line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.cells import cell_len

from bench.system.terminal import shorten

GAP, INDENT, HANG = 2, 4, 2
"""In columns of the terminal: between two columns, before the second line of a row, and before that of a cell."""
SHORT, SHORT_HEADER = 14, 8
"""Cells and headers of up to so many columns are not broken."""
COMFORTABLE = (36, 28, 22, 16, 0)
"""How wide a column of words should be before another one moves to the second line; what gives fewest lines is taken."""
STACKED = 1.5
"""A table with a second line for each row must save so many lines by it, where it could do without."""
SAMPLE = 100
"""So many rows decide the layout."""

_PART = re.compile(r"(?:\[[^\[\]]{,40}\]|\([^()]{,40}\)|\S)+")
_NUMBER = re.compile(r"[(\[]?[-+−×≥±~]?\d[\d.,:]*")
_UNIT = re.compile(r"[A-Za-zµ%]{1,12}[)\].,;:]*")


@dataclass(frozen=True)
class Placed:
    """A column on one of a row's lines."""

    index: int
    width: int


@dataclass
class Column:
    """A header and its cells, and what they need."""

    header: str
    cells: Sequence[str]
    right: bool = False

    @cached_property
    def least(self) -> int:
        """The widest part of a cell, or cell if it is short: narrower, it would be cut."""
        return max(_two_lines(self.header), *map(self._least, self.cells), 0)

    @cached_property
    def most(self) -> int:
        """The widest cell; a header is broken over numbers that are narrower."""
        return max(self.least, *map(cell_len, self.cells), 0 if self.right else cell_len(self.header))

    @property
    def hang(self) -> int:
        """Where the second line of a cell begins: words further in, so that no line looks like another row."""
        return 0 if self.right else HANG

    def _least(self, cell: str) -> int:
        if (width := cell_len(cell)) <= SHORT:
            return width
        first, *others = map(cell_len, parts(cell))
        return max(first, *(width + self.hang for width in others), 0)


def _two_lines(header: str) -> int:
    """The width in which a header has two lines at most."""
    words = parts(header)
    if cell_len(header) <= SHORT_HEADER or len(words) < 2:
        return cell_len(header)
    return min(max(cell_len(" ".join(words[:k])), cell_len(" ".join(words[k:]))) for k in range(1, len(words)))


def parts(text: str) -> list[str]:
    """Text cut where a line may break: not in brackets, in a number with its error, interval or unit, nor in a word."""
    out: list[str] = []
    for part in _PART.findall(text):
        if out and _belongs_to(out[-1], part):
            out[-1] += f" {part}"
        else:
            out.append(part)
    return out


def _belongs_to(before: str, part: str) -> bool:
    """before: what may itself have been joined."""
    last = before.rpartition(" ")[2]
    if part == "±" or last in ("±", "≥", "+", "x"):
        return True
    if part[0] == "[" or (part[0] == "(" and " to " in part):  # an interval
        return bool(_NUMBER.match(before))
    return bool(_NUMBER.fullmatch(last) and _UNIT.fullmatch(part))


def wrap(text: str, width: int, hang: int = 0) -> list[str]:
    """The lines of a cell. A part that is wider than a line is cut in the middle, where an ellipsis says so.

    hang: spaces before all lines but the first.
    """
    if cell_len(text) <= width:
        return [text]
    first, *others = parts(text)
    lines = [shorten(first, width)]
    for part in others:
        if cell_len(lines[-1]) + 1 + cell_len(part) <= width:
            lines[-1] += f" {part}"
        else:
            lines.append(" " * hang + shorten(part, width - hang))
    return lines


def place(columns: Sequence[Column], width: int | None) -> list[list[Placed]]:
    """Which columns are on each line of a row, and how wide they are. width: None for as wide as it needs to be."""
    whole = [[Placed(i, max(c.most, cell_len(c.header))) for i, c in enumerate(columns)]]
    if width is None or total_width(whole) <= width:
        return whole
    layouts = [_fill(columns, width, comfortable) for comfortable in COMFORTABLE]
    return min(layouts, key=lambda layout: _count_lines(columns, layout) * (STACKED if len(layout) > 1 else 1))


def _fill(columns: Sequence[Column], width: int, comfortable: int) -> list[list[Placed]]:
    """Columns from the left to the right, as many on each line as are comfortable there."""
    lines: list[list[int]] = [[]]
    rest = width
    for i, column in enumerate(columns):
        wanted = min(max(column.least, min(column.most, comfortable)), width - INDENT)
        if lines[-1] and wanted > rest:
            lines.append([])
            rest = width - INDENT
        lines[-1].append(i)
        rest -= wanted + GAP
    return [_widen(columns, line, width - (INDENT if n else 0)) for n, line in enumerate(lines)]


def _widen(columns: Sequence[Column], line: Sequence[int], width: int) -> list[Placed]:
    """Widths of the columns of one line, which share what their words leave."""
    available = width - GAP * (len(line) - 1)
    least = [min(columns[i].least, available) for i in line]
    more = [max(0, columns[i].most - low) for i, low in zip(line, least, strict=True)]
    rest = available - sum(least)
    for left, k in zip(range(len(line), 0, -1), sorted(range(len(line)), key=more.__getitem__), strict=True):
        more[k] = max(0, min(more[k], rest // left))  # those that need little get it all
        rest -= more[k]
    return [Placed(i, low + extra) for i, low, extra in zip(line, least, more, strict=True)]


def _count_lines(columns: Sequence[Column], layout: Sequence[Sequence[Placed]]) -> int:
    rows = min(SAMPLE, len(columns[0].cells))
    return sum(len(lay_out([c.cells[k] for c in columns], columns, layout)) for k in range(rows))


@dataclass(frozen=True)
class Piece:
    """Text in one line of a table, with the number of its column."""

    text: str
    column: int | None = None


def lay_out(
    texts: Sequence[str], columns: Sequence[Column], layout: Sequence[Sequence[Placed]], *, at_bottom: bool = False
) -> list[list[Piece]]:
    """The lines of a row as pieces; lines without text are left out. at_bottom: of lower cells, the lines above are empty."""
    out = []
    for n, line in enumerate(layout):
        wrapped = [wrap(texts[p.index], p.width, columns[p.index].hang) for p in line]
        height = max(map(len, wrapped))
        for k in range(height if any(texts[p.index] for p in line) else 0):
            pieces = [Piece(" " * INDENT)] if n else []
            for placed, cell in zip(line, wrapped, strict=True):
                row = k - (height - len(cell)) if at_bottom else k
                text = cell[row] if 0 <= row < len(cell) else ""
                blank = " " * (placed.width - cell_len(text))
                pieces.append(Piece(blank + text if columns[placed.index].right else text + blank, placed.index))
                pieces.append(Piece(" " * GAP))
            out.append(pieces[:-1])
    return out


def total_width(layout: Sequence[Sequence[Placed]]) -> int:
    """The width of a table's longest line."""
    return max(sum(p.width + GAP for p in line) - GAP + (INDENT if n else 0) for n, line in enumerate(layout))
