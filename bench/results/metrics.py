"""Metrics: unit, direction, scale, margin, tolerance, and columns of tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

DECIDES_NO_NUMBER = True

TIME_UNITS = ("s", "ms", "us", "ns")
TIME_MARGIN = 0.05
"""Margin of all times and speeds. A gate's settings name it `latency`."""
PERPLEXITY_NOISE = 0.016
"""Standard deviation of ln perplexity between seeds, in nats/token: that of one-shot rows at 2:4 in
results/smollm2-135m-wanda7, the largest that was measured. On `tiny` it is a quarter of it."""
BITS_NOISE = 0.006
"""Standard deviation of bits per byte between seeds: PERPLEXITY_NOISE at four bytes a token."""
SHARE_NOISE = 0.005
"""Standard deviation of a share of right answers or tokens between seeds: twice that of top-1 agreement in results/tiny-recon."""
MEAN_BITS = "mean_bits_per_byte"
"""Mean over the tasks of a track, which models with other tokenizers can share."""
TIMINGS = {
    "latency": ("s", "lower"),
    "tokens_per_s": ("tokens/s", "higher"),
    "linears": ("s", "lower"),
    "speedup": ("1", "higher"),
}
"""Unit and direction of the metrics of this project that are not in METRICS, because their units define them."""
SPEEDS = TIMINGS | {f"{name}_dense": (unit, "") for name, (unit, _) in TIMINGS.items() if name != "speedup"}
"""The same with the timings of the dense side, which have no direction."""


@dataclass(frozen=True)
class Metric:
    """One metric. The defaults are for metrics of other packages, which are not in METRICS."""

    name: str
    unit: str = ""
    better: str = ""
    """ "lower", "higher", or "" if neither is better."""
    quantity: str = ""
    """Kind of the values, or "" if unknown."""
    low: float | None = None
    high: float | None = None
    """Upper end of the range of values. None means no limit, here and for `low`."""
    log: bool = False
    """True if two values are compared by their ratio. Times, speeds and bytes always are."""
    counted: bool = False
    """True if values are counted, not sampled: they have no noise, and baselines keep no items of them."""
    windowed: bool = False
    """True if values are means over windows of a text."""
    margin: float | None = None
    """Largest loss that passes a gate, relative if changes are ratios. None: a gate does not judge the metric."""
    tolerance: float = 1e-4
    """Largest change that counts as a reproduction."""
    seed_noise: float = 0.0
    """Standard deviation of a row's number between seeds, assumed if too few rows of a model have several seeds."""
    in_tables: bool = True
    """True if tables show it. All exports do."""
    sorts_rows: bool = True
    """True if a table may sort its rows by it. Only some rows of a run have the others."""

    @property
    def label(self) -> str:
        """Name for people."""
        return self.name.replace("_", " ")

    @property
    def averages_items(self) -> bool:
        """Return whether it is a mean over items, or the exponential of one."""
        return self.windowed or (self.quantity in ("proportion", "bits/byte") and not self.counted)

    @property
    def is_count(self) -> bool:
        """Return whether values are whole numbers."""
        return self.counted and self.quantity in ("groups", "weights", "bytes")

    @property
    def is_time(self) -> bool:
        """Return whether it is a time or a speed, or their ratio: timed twice, it is never the same."""
        return self.unit in TIME_UNITS or self.unit.endswith("/s") or self.name == "speedup"

    @property
    def is_ratio(self) -> bool:
        """Return whether a change is a ratio, not a difference."""
        return self.log or self.is_time or self.unit == "B"


_ALL = (
    Metric(
        "perplexity", "1", "lower", "ratio", 1.0, log=True, windowed=True, margin=0.005, seed_noise=PERPLEXITY_NOISE
    ),
    Metric("kl", "nats/token", "lower", "nats/token", 0.0, windowed=True, seed_noise=PERPLEXITY_NOISE),
    Metric("top1_agreement", "1", "higher", "proportion", 0.0, 1.0, windowed=True, seed_noise=SHARE_NOISE),
    Metric("common_prefix", "tokens", "higher", "tokens", 0.0, 64.0, windowed=True),
    Metric(
        "bits_per_byte", "bits/byte", "lower", "bits/byte", 0.0, margin=0.01, seed_noise=BITS_NOISE, in_tables=False
    ),
    Metric(
        "corpus_bits_per_byte",
        "bits/byte",
        "lower",
        "bits/byte",
        0.0,
        windowed=True,
        margin=0.01,
        seed_noise=BITS_NOISE,
    ),
    Metric(MEAN_BITS, "bits/byte", "lower"),
    Metric("mean_acc", "1", "higher"),
    Metric("worst_drop", "1", "lower"),
    Metric("acc", "1", "higher", "proportion", 0.0, 1.0, margin=0.01, tolerance=1e-3, seed_noise=SHARE_NOISE),
    Metric("sparsity", "1", "higher", "proportion", 0.0, 1.0, counted=True, margin=0.001),
    Metric("violated_groups", "1", "lower", "groups", 0.0, counted=True, margin=0.0),
    Metric("zeros_lost", "1", "lower", "weights", 0.0, counted=True, margin=0.0, sorts_rows=False),
    Metric("bytes_packed", "B", "lower", "bytes", 0.0, counted=True, margin=0.005),
    Metric("bits_per_weight", "1", "lower", "bits", 0.0, counted=True, sorts_rows=False),
    Metric("bits_with_bitmap", "1", "lower", "bits", 0.0, counted=True, sorts_rows=False),
    Metric("acc_norm", "1", "higher", "proportion", 0.0, 1.0, tolerance=1e-3, in_tables=False),
    Metric("acc_raw", "1", "higher", "proportion", 0.0, 1.0, tolerance=1e-3, in_tables=False),
    Metric("acc_per_byte", "1", "higher", "proportion", 0.0, 1.0, tolerance=1e-3, in_tables=False),
    Metric("acc_per_char", "1", "higher", "proportion", 0.0, 1.0, tolerance=1e-3, in_tables=False),
    Metric("cache_bytes_per_token", "B", "lower", "bytes", 0.0, counted=True, sorts_rows=False),
    Metric("adapter_bytes", "B", "lower", "bytes", 0.0, counted=True, in_tables=False),
    Metric("relative_flops", "1", "lower", "ratio", 0.0, counted=True, in_tables=False),
    Metric("parameters", "1", "", "weights", 0.0, counted=True, in_tables=False),
    Metric("nonzeros", "1", "lower", "weights", 0.0, counted=True, in_tables=False),
    Metric("bytes", "B", "lower", "bytes", 0.0, counted=True, in_tables=False),
    Metric("negative_zeros", "1", "lower", "weights", 0.0, counted=True, in_tables=False),
)

METRICS = {metric.name: metric for metric in _ALL}
"""Metrics by name, in the order of a table's columns. Times and speeds are not listed: their units define them."""

QUALITY = ("perplexity", "mean_acc", "acc", "kl")
"""Metrics that rank rows. A table uses the first of these that it has."""

SIZE = "bytes_packed"
"""Metric of size that is compared with quality."""

_COLUMNS = [metric.name for metric in _ALL if metric.in_tables]


@lru_cache(maxsize=256)
def find(name: str, unit: str | None = None) -> Metric:
    """Return the metric of this name, or one with the defaults. unit: the unit of its reading, which overrides the metric's."""
    metric = METRICS.get(name) or Metric(name)
    if unit is not None and unit != metric.unit:
        metric = replace(metric, unit=unit)
    return replace(metric, margin=TIME_MARGIN) if metric.is_time and metric.margin is None else metric


def column_order(name: str) -> int:
    """Return the place of a metric's columns in a table. Hidden and unknown metrics come last."""
    return _COLUMNS.index(name) if name in _COLUMNS else len(_COLUMNS)
