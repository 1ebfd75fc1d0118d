"""What is known of each metric: unit, direction, scale, margin, tolerance, and how tables show it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

TIME_UNITS = ("s", "ms", "us", "ns")
TIME_MARGIN = 0.05
"""The margin of every time and speed. A gate's settings change it under the name `latency`."""
TIMINGS = ("latency", "tokens_per_s", "linears", "speedup")
"""Metrics of this project that are not in METRICS: their units say what they are."""


@dataclass(frozen=True)
class Metric:
    """One metric. The defaults are for a metric that is not in METRICS, for example from a measure of another package."""

    name: str
    unit: str = ""
    better: str = ""
    """ "lower", "higher", or "" where neither is better."""
    quantity: str = ""
    """What is counted or measured; "" if not known."""
    low: float | None = None
    high: float | None = None
    """The range of its values; None: no limit."""
    log: bool = False
    """Are two values compared by their ratio? Times, speeds and bytes always are."""
    counted: bool = False
    """Counted, not sampled: the number has no noise, and baselines keep no scores of single items."""
    windowed: bool = False
    """A mean over windows of a text."""
    margin: float | None = None
    """How much worse is still good enough: a share where changes are ratios, else a difference. None: not judged."""
    tolerance: float = 1e-4
    """By how much a number may move when it is measured again and still be the same number."""
    seed_noise: float = 0.0
    """Standard deviation of a change between calibration seeds, assumed where only one seed was run."""
    in_tables: bool = True
    """Do tables show it? Every export does."""
    sorts_rows: bool = True
    """May a table sort its rows by it? Not by a metric that only some rows of a run have."""
    public_name: str = ""
    """Its name outside this project, if it has one."""

    @property
    def label(self) -> str:
        """Its name for people."""
        return self.name.replace("_", " ")

    @property
    def averages_items(self) -> bool:
        """Is it a mean over items, or the exponential of one?"""
        return self.windowed or (self.quantity == "proportion" and not self.counted)

    @property
    def is_time(self) -> bool:
        """Is it a time, or a speed?"""
        return self.unit in TIME_UNITS or self.unit.endswith("/s")

    @property
    def is_ratio(self) -> bool:
        """Is a change of it a ratio, and not a difference?"""
        return self.log or self.is_time or self.unit == "B"


_ALL = (
    # Five seeds of SparseGPT on tiny differ by 0.4% (results/tiny).
    Metric(
        "perplexity",
        "1",
        "lower",
        "ratio",
        1.0,
        log=True,
        windowed=True,
        margin=0.005,
        seed_noise=0.005,
        public_name="perplexity",
    ),
    Metric("kl", "nats/token", "lower", "nats/token", 0.0, windowed=True),
    Metric("top1_agreement", "1", "higher", "proportion", 0.0, 1.0, windowed=True),
    Metric("mean_acc", "1", "higher"),
    Metric("worst_drop", "1", "lower"),
    Metric(
        "acc",
        "1",
        "higher",
        "proportion",
        0.0,
        1.0,
        margin=0.01,
        tolerance=1e-3,
        seed_noise=0.005,
        public_name="accuracy",
    ),
    Metric("sparsity", "1", "higher", "proportion", 0.0, 1.0, counted=True, margin=0.001),
    Metric("violated_groups", "1", "lower", "groups", 0.0, counted=True, margin=0.0),
    Metric("zeros_lost", "1", "lower", "weights", 0.0, counted=True, margin=0.0, sorts_rows=False),
    Metric("bytes_packed", "B", "lower", "bytes", 0.0, counted=True, margin=0.005),
    Metric("bits_per_weight", "1", "lower", "bits", 0.0, counted=True, sorts_rows=False),
    Metric("acc_norm", "1", "higher", "proportion", 0.0, 1.0, in_tables=False),
    Metric("parameters", "1", counted=True, in_tables=False),
    Metric("nonzeros", "1", "lower", "weights", 0.0, counted=True, in_tables=False),
    Metric("bytes", "B", "lower", "bytes", 0.0, counted=True, in_tables=False),
    Metric("negative_zeros", "1", "lower", "weights", 0.0, counted=True, in_tables=False),
)

METRICS = {metric.name: metric for metric in _ALL}
"""In the order of a table's columns. Times and speeds are not listed: their units say what they are."""

QUALITY = ("perplexity", "mean_acc", "acc", "kl")
"""What rows are judged by: the first of these that a table has."""

SIZE = "bytes_packed"
"""What quality is weighed against."""

_COLUMNS = [metric.name for metric in _ALL if metric.in_tables]


@lru_cache(maxsize=256)
def find(name: str, unit: str | None = None) -> Metric:
    """The metric of this name, or one with the defaults. unit: its reading's unit, which counts where it differs."""
    metric = METRICS.get(name) or Metric(name)
    if unit is not None and unit != metric.unit:
        metric = replace(metric, unit=unit)
    return replace(metric, margin=TIME_MARGIN) if metric.is_time and metric.margin is None else metric


def column_order(name: str) -> int:
    """Where its columns stand in a table. Metrics that tables do not show, and unknown ones, come last."""
    return _COLUMNS.index(name) if name in _COLUMNS else len(_COLUMNS)
