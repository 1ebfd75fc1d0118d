"""Accuracy of guesses: at random, and of the answer that is right most often. An accuracy says
something only above both."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bench.results import metrics
from bench.results.record import Record
from bench.stats.bootstrap import students_t
from bench.stats.ratios import wilson_interval

KNOWN = Path(__file__).parent.parent / "assets" / "task_guesses.json"
"""Guesses of tasks whose older records do not hold them, computed from the tasks' data."""
LEVEL = 0.05


class Guess(NamedTuple):
    """Accuracies of two guesses on a task's questions."""

    chance: float
    """Accuracy at random: the mean of 1 / number of choices."""
    majority: float
    """Accuracy of the choice, by its position, that is right most often."""

    @property
    def best(self) -> float:
        return max(self)

    def is_beaten_by(self, accuracy: float, questions: int) -> bool:
        """Return whether the lower end of the interval of an accuracy (Wilson, 95%) is above both
        guesses."""
        return wilson_interval(accuracy * questions, questions, LEVEL)[0] > self.best


def is_above_floor(
    metric: str, value: float, stderr: float | None, n: int | None, guess: Guess | None
) -> bool | None:
    """Return whether a number is above its floor by its 95% interval: above both guesses for a
    proportion, else above 0. None if that is not known."""
    if not n:
        return None
    if stderr and metrics.find(metric).quantity != "proportion":
        return bool(value > students_t(LEVEL, n - 1) * stderr)
    return None if guess is None else bool(guess.is_beaten_by(value, n))


def of_record(record: Record) -> Guess | None:
    """Return the guesses on a record's questions: from its notes, or of a task whose data is known.
    None if neither has them."""
    notes = record.notes
    if all(isinstance(notes.get(name), int | float) for name in ("chance", "majority")):
        return Guess(float(notes["chance"]), float(notes["majority"]))
    measure = record.key_inputs.get("measure")
    data = str(measure.get("content", "")) if isinstance(measure, dict) else ""
    limit = record.identity.protocol.limit
    known = _known().get(record.identity.protocol.name, {}).get(data, {}).get(str(limit or "all"))
    return Guess(**known) if known else None


@cache
def _known() -> dict[str, Any]:
    """Return guesses by task, digest of its data, and number of questions."""
    found: dict[str, Any] = json.loads(KNOWN.read_text(encoding="utf-8"))
    return found
