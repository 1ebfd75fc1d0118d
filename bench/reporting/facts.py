"""Numbers about a row with their intervals, rounded once for all outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.reporting.words import rounded
from bench.stats.ratios import Change


@dataclass(frozen=True)
class Bound:
    """A value with its 95% interval. Low and high are None where no pairs of items give one."""

    value: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        _round(self)

    @property
    def parts(self) -> tuple[float, float | None, float | None]:
        """Return value, low and high."""
        return self.value, self.low, self.high

    @property
    def ends(self) -> tuple[float, float]:
        """Return the ends of the interval. Without an interval, the value twice."""
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        return low, high


@dataclass(frozen=True)
class Interval:
    """Row b compared with row a: a ratio or a difference, with its 95% interval."""

    value: float
    low: float
    high: float
    n: int
    unit: str
    seeds: int
    p: float
    seed_noise: str = ""
    """Source of the noise between seeds that was added; empty if none was."""
    missing: tuple[int, str] | None = None
    """Number of further articles, questions or seeds that would tell the rows apart, if the
    estimate stays the same. None: no number would."""

    def __post_init__(self) -> None:
        _round(self)

    @property
    def fields(self) -> tuple[Any, ...]:
        """Return the fields in order."""
        return tuple(self.__dict__.values())

    @classmethod
    def rounded(cls, *fields: Any) -> Interval:
        """Return the interval with these `fields` of another one, which are rounded."""
        out = object.__new__(cls)
        out.__dict__.update(zip(cls.__dataclass_fields__, fields, strict=True))
        return out


def _round(bound: Bound | Interval) -> None:
    """Round in place, so that what is written is the same on every processor: their sums differ in
    the last bits."""
    numbers = rounded(bound.value, bound.low, bound.high)
    for name, number in zip(("value", "low", "high"), numbers, strict=True):
        object.__setattr__(bound, name, number)


def _ratio(loss: Bound | None) -> Bound | None:
    """Return 1 + loss."""
    if loss is None:
        return None
    low, high = (None if x is None else 1 + x for x in (loss.low, loss.high))
    return Bound(1 + loss.value, low, high)


@dataclass(frozen=True)
class Flips:
    """Answers of the choices of a track compared with the dense model's, as shares of the
    questions."""

    changed: Bound
    """Another choice ranks first."""
    lost: float
    """The answer was right and is wrong."""
    gained: float

    @property
    def fields(self) -> tuple[Any, ...]:
        """Return the fields as JSON."""
        return self.changed.parts, self.lost, self.gained

    @classmethod
    def of(cls, fields: Sequence[Any]) -> Flips:
        """Return the flips with these `fields`."""
        changed, lost, gained = fields
        return cls(Bound(*changed), lost, gained)


@dataclass(frozen=True)
class TrackLoss:
    """Loss of a track: the rise of the bits per byte of the right answers.

    flips: None for a track without choices.
    """

    loss: Bound
    """As a fraction of the dense model's bits per byte."""
    change: Change
    """The same, with its degrees of freedom."""
    rise: Change
    """In bits per byte."""
    flips: Flips | None = None


@dataclass(frozen=True)
class Facts:
    """The numbers that `bench pick` and the page choose a row by. None: not measured.

    loss: the perplexity's ratio to the dense model, minus 1; control_loss: the same to dense-ft of
    an equal training; drop: how much accuracy the worst task loses; tracks: loss of each track;
    track_loss: that of worst_track; flips: of zero-shot tasks;
    speedup: measured, over dense; tokens, seconds: to make it, `at_least` if the record of an
    earlier stage is missing.
    make, export: commands, empty if the records do not say how they were made; of a quantized file,
    the one that downloads it.
    """

    compressed: bool
    broken: bool = False
    """True if the weights break the pattern."""
    bytes: float | None = None
    """Bytes of the whole model."""
    bits_per_parameter: float | None = None
    bits: float | None = None
    """Bits per weight of the targets."""
    loss: Bound | None = None
    control_loss: Bound | None = None
    drop: Bound | None = None
    worst_task: str = ""
    tracks: Mapping[str, TrackLoss] = field(default_factory=dict)
    track_loss: Bound | None = None
    worst_track: str = ""
    flips: Flips | None = None
    speedup: Bound | None = None
    tokens: int | None = None
    seconds: float | None = None
    at_least: bool = False
    device: str = ""
    make: str = ""
    export: str = ""
    serve: str = ""
    """Command that serves the exported files. Empty without an engine."""

    @property
    def ratio(self) -> Bound | None:
        """The perplexity as a ratio to the dense model's."""
        return _ratio(self.loss)

    @property
    def control_ratio(self) -> Bound | None:
        """The perplexity as a ratio to that of dense-ft with an equal training."""
        return _ratio(self.control_loss)


@dataclass(frozen=True)
class RowNumbers:
    """The numbers that a derived column is computed from."""

    facts: Facts
    values: Mapping[str, float] = field(default_factory=dict)
    """Number of the row by metric. Of several protocols, the first that has one."""
    dense: Mapping[str, float] = field(default_factory=dict)
    """The same for the dense row. Empty without one."""
