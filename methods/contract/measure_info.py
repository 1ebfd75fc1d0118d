"""Facts that the class of a measure states besides its fields: the metrics that it reports. They
decide no number, and are no part of a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DECIDES_NO_NUMBER = True

TIME_UNITS = ("s", "ms", "us", "ns")

Aggregation = Literal[
    "",
    "mean",
    "window mean",
    "exp of window mean",
    "weighted mean",
    "median of timings",
    "mean of speedups",
    "own",
]
"""Ways in which a number follows from the items of its record. See `Metric.aggregation`."""

SAMPLED_MEANS = ("mean", "window mean", "exp of window mean")
"""Aggregations of sampled numbers. They have a standard error."""


@dataclass(frozen=True)
class Metric:
    """Facts about a number that a measure reports. The defaults are for a metric that no installed
    measure declares."""

    name: str
    unit: str = ""
    better: Literal["lower", "higher", ""] = ""
    """ "" if neither is better."""
    quantity: str = ""
    """Kind of the values, or "" if unknown."""
    low: float | None = None
    """Lower end of the range of values. None means no limit."""
    high: float | None = None
    """Upper end of the range of values. None means no limit."""
    aggregation: Aggregation = ""
    """Way in which the number follows from the items, so that `bench check` can compute it again.

    mean: mean of the item values. window mean: sum of the item values over the sum of their
    weights. exp of window mean: its exponential. weighted mean: mean with weights, of items that
    are no sample. median of timings: for a rate, the reciprocal of the median time. mean of
    speedups: geometric mean, rounded to four digits. own: the measure's `derive`. Empty: the items
    do not give the number.
    """
    order: int = 1000
    """Place among the columns of a table. A lower number is further left."""
    quality: int = 0
    """Priority among metrics that rank rows: a table uses the lowest number that it has. 0: it
    ranks no rows."""
    on_board: bool = False
    """True if a leaderboard shows it at first, in the order in which the measure declares its
    metrics."""
    one_column: bool = False
    """True if a leaderboard shows it under only one protocol."""
    in_tables: bool = True
    """True if tables show it. All exports do."""
    sorts_rows: bool = True
    """True if a table may sort its rows by it. Only some rows of a run have the others."""
    from_storage: bool = False
    """True if it counts how weights are stored. A library may claim that, and tables mark its
    number."""
    in_records: bool = True
    """False if tables average it over records, so that no record holds it."""
    margin: float | None = None
    """Largest loss that passes a gate, relative if changes are ratios. None: a gate does not judge
    the metric."""
    tolerance: float = 1e-4
    """Largest change that counts as a reproduction."""
    seed_noise: float = 0.0
    """Standard deviation of a row's number between seeds, assumed if too few rows of a model have
    several seeds."""
    counted: bool = False
    """True if values are counted, not sampled: they have no noise, and baselines keep no items of
    them."""
    capped_by_pattern: bool = False
    """True if only the part that the pattern requires counts as a gain or loss."""
    has_floor: bool = False
    """True if a number of the dense model says something only above a floor: above the guesses in
    the notes of its record for a proportion, and else above 0."""
    public_name: str = ""
    """Name in the Every Eval Ever schema, if it has one."""

    @property
    def label(self) -> str:
        """Name for people."""
        return self.name.replace("_", " ")

    @property
    def windowed(self) -> bool:
        """True if values are means over windows of a text."""
        return self.aggregation in ("window mean", "exp of window mean")

    @property
    def sampled(self) -> bool:
        """True if the number follows from a sample of items, so that it has noise."""
        return self.aggregation in SAMPLED_MEANS or (self.aggregation == "own" and not self.counted)

    @property
    def is_count(self) -> bool:
        """True if values are whole numbers."""
        return self.counted and self.quantity in ("groups", "weights", "bytes", "experts")

    @property
    def is_time(self) -> bool:
        """True for a time, a speed, or their ratio: two timings are never equal."""
        return (
            self.aggregation == "mean of speedups"
            or self.unit in TIME_UNITS
            or self.unit.endswith("/s")
        )

    @property
    def is_ratio(self) -> bool:
        """True if a change is a ratio, not a difference."""
        return self.aggregation == "exp of window mean" or self.is_time or self.unit == "B"


@dataclass(frozen=True, kw_only=True)
class MeasureInfo:
    """Facts about a measure. A class has it as `info: ClassVar[MeasureInfo]`, which is read as that
    of a method is."""

    metrics: tuple[Metric, ...] = ()
    """Metrics of its readings, and of the averages that tables make of them."""
    other_metrics: bool = False
    """True if a record may have further metrics, for example those that a task of lm-eval
    defines."""
