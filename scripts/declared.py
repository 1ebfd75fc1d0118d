"""The declared boards: folders of results/, the questions that they answer, and who reads them."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results"
FILE = RESULTS / "boards.toml"


@dataclass(frozen=True)
class Board:
    """A folder of results/, and the questions that it answers."""

    name: str
    question: str
    used: tuple[str, ...]
    """Pages, scripts and commands that read it."""
    specs: tuple[str, ...] = ()
    """Files of the folder that make it, in order. `bench run` makes no board without them."""
    texts: tuple[str, ...] = ()
    """Texts on which the rows of its specs are measured, too."""
    until: str = ""
    """Board that replaces this one once it is measured. This one is not made again."""
    made_by: str = ""
    """Command that makes a board without specs."""
    tables: tuple[Table, ...] = ()

    @property
    def folder(self) -> Path:
        return RESULTS / self.name

    @property
    def measured(self) -> bool:
        return any((self.folder / "records").glob("*.json"))

    def spec_files(self) -> list[Path]:
        return [self.folder / name for name in self.specs]


@dataclass(frozen=True)
class Table:
    """A table of a page, between the comments `<!-- board: NAME -->` and `<!-- /board -->`."""

    name: str
    question: str
    kind: str
    """Function of TABLES in the scripts that makes it."""
    words: tuple[str, ...] = ()
    """Arguments of the function after the folder."""


@cache
def read() -> dict[str, Board]:
    """Return the declared boards by name, in the order in which they are made."""
    boards = {}
    for name, about in tomllib.loads(FILE.read_text()).items():
        own = []
        for table, of in about.pop("tables", {}).items():
            words = tuple(map(str, of.get("words", ())))
            own.append(Table(table, of["question"], of["kind"], words))
        fields: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in about.items()
        }
        boards[name] = Board(name, tables=tuple(own), **fields)
    return boards


def find_table(name: str) -> tuple[Board, Table]:
    """Return a table and its board, or exit."""
    for board in read().values():
        for table in board.tables:
            if table.name == name:
                return board, table
    sys.exit(f"results/boards.toml declares no table {name!r}")


def folders(*, used_in: str) -> list[str]:
    """Return the names of the measured boards that a script or page uses."""
    return [one.name for one in read().values() if used_in in one.used and one.measured]
