"""A task as another harness measured it, question by question."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic_core import from_json, to_json

from bench.system.provenance import format_time
from methods.contract.errors import UserError, first_line

MAX_TIME = 2**33
"""Largest time in seconds since 1970 that is no error."""
MIN_TIME = 10**9
"""Smallest number that is a time, and no name of a folder."""
MAX_SETTINGS = 2**20
"""Largest number of values and characters in the settings of a run."""
MAX_SCORE = 1e150
"""Largest score. The square of it is finite."""
FAULTS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)
"""Errors of a file whose values have other types or sizes than its harness writes."""


class Question(NamedTuple):
    """Content of a question: digests of the document, of the prompt and of the right answer."""

    document: str
    prompt: str
    target: str


class Total(NamedTuple):
    """A number over a whole task, of a harness that writes no scores of questions."""

    value: float
    unit: str
    better: str
    """ "lower" or "higher"."""
    stderr: float | None = None


@dataclass
class Evaluation:
    """One task as a harness measured it."""

    task: str
    version: str
    settings: Mapping[str, Any]
    higher: dict[str, bool] = field(default_factory=dict)
    """Direction of each metric."""
    scores: dict[Question, dict[str, float]] = field(default_factory=dict)
    """Scores of each question by metric. A question that occurs again has a number after its
    document."""
    left_out: set[str] = field(default_factory=set)
    """Metrics without a number for each question."""

    harness: str = "lm-eval"
    about: Mapping[str, str] = field(default_factory=dict)
    """Name of the model, version of the harness, and time, as far as the harness wrote them."""
    made: float = 0.0
    """Time of the run in seconds since 1970."""
    totals: Mapping[str, Total] = field(default_factory=dict)
    """Numbers without questions, by metric."""
    _seen: Counter[tuple[Question, str]] = field(default_factory=Counter)

    def add(self, question: Question, part: str, scores: Mapping[str, Any]) -> None:
        """Add scores of a question. part: what may score a question once, for example a filter or a
        metric."""
        again = self._seen[question, part]
        self._seen[question, part] += 1
        if again:
            question = question._replace(document=f"{question.document}#{again}")
        known = self.scores.setdefault(question, {})
        for name, value in scores.items():
            if isinstance(value, int | float) and MAX_SCORE < abs(value) < math.inf:
                raise ValueError(f"a score beyond {MAX_SCORE:g}")
            if isinstance(value, int | float) and math.isfinite(value):
                known[name] = float(value)
            else:
                self.left_out.add(name)


class Harness:
    """A harness whose folders can be read. A harness of another package is an entry point in
    cast_bench.harnesses."""

    title: ClassVar[str]
    """Name as its authors write it."""
    how: ClassVar[str]
    """Way to make it write the answer to each question."""

    def find(self, folder: Path) -> Iterable[Path]:
        """Return the files with its results in a folder."""
        raise NotImplementedError

    def read(self, file: Path) -> Iterator[Evaluation]:
        """Read one of these files, and those with the answers beside it. Raise UserError for a
        damaged one."""
        raise NotImplementedError


def check_size(value: Any) -> None:
    """Raise ValueError for a value that is too large or too deep for a record, or has text that is
    not UTF-8.

    An alias of YAML counts each time, so that a value in itself is too large.
    """
    rest, size = [value], 0
    while rest:
        one = rest.pop()
        size += 1
        if isinstance(one, str | bytes):
            size += len(one)
        if isinstance(one, dict):
            rest += [*one, *one.values()]
        elif isinstance(one, list | tuple | set):  # `!!omap` and `!!set` of YAML give the last two
            rest += one
        if size + len(rest) > MAX_SETTINGS:
            raise ValueError(f"settings of more than {MAX_SETTINGS:,} values and characters")
    from_json(to_json(value, serialize_unknown=True))  # as deep as a record may be


def read_results(file: Path, key: str, kind: type) -> dict[str, Any]:
    """Read a JSON object that has a value of this kind. Raise UserError if it is damaged."""
    try:
        about = json.loads(file.read_bytes())
        if isinstance(about, dict) and isinstance(about.get(key), kind):
            return about
        raise ValueError(f"it has no {key}")
    except FAULTS as fault:
        raise UserError(
            f"{file} cannot be read as results of a harness ({first_line(fault)}): measure it again"
        ) from None


def add_lines(file: Path, harness: str, add: Callable[[Any], None]) -> None:
    """Call `add` with the JSON of each line. Raise UserError if a line is damaged."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                add(json.loads(line))
            except FAULTS as fault:
                reason = first_line(fault)
                raise UserError(
                    f"{file} line {number} is no sample of {harness} ({reason}): measure it again"
                ) from None


def time_of(file: Path, *written: Any) -> float:
    """Return the time of a run in seconds since 1970: the first of `written` that is one, or else
    that of the file."""
    for value in written:
        for parse in (float, lambda text: datetime.fromisoformat(text).timestamp()):
            try:
                if MIN_TIME < (seconds := parse(value)) < MAX_TIME:
                    return seconds
            except (TypeError, ValueError, OverflowError, OSError):
                continue
    return file.stat().st_mtime


def time_in_name(stamp: str) -> str:
    """Return the time in a file's name in the form of ISO 8601: the harnesses write - for each
    colon."""
    date, _, time = stamp.partition("T")
    return f"{date}T{time.replace('-', ':')}"


def facts(model: Any, version: Any, date: Any = None) -> dict[str, str]:
    """Return facts for a record. Of the path of a model only the name is kept, because a path tells
    about a machine."""
    name = Path(str(model)).name if model else ""
    known = {"model": name, "version": str(version or "")}
    if isinstance(date, int | float) and 0 < date < MAX_TIME:
        known["recorded"] = format_time(date)
    return known
