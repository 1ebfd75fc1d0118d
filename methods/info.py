"""Facts that the class of a method or measure states besides its fields. They decide no number, and are no part of a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

DECIDES_NO_NUMBER = True


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Work and memory of a method besides the model, from which `bench ls methods --long` estimates its cost."""

    passes: float = 0
    """Number of forward passes over the calibration tokens."""
    hessians: float = 0
    """Number of float32 matrices [in, in] for each distinct input of a block."""
    training: float = 0
    """FLOP per weight and training token: 2 for a forward pass, 4 for a backward pass."""
    tokens: float | None = None
    """Number of training tokens; None for those of the recipe for the model's size."""
    state: float = 0
    """Bytes per weight: gradients, moments, masks, teacher."""
    also: str = ""
    """Other costs, in words. A measured number needs its source."""


TRAINING = Cost(training=6, state=16)
"""Cost of a forward and a backward pass, with weight, gradient and two moments in float32."""

DISTILLATION = Cost(training=8, state=18)
"""Cost of `TRAINING` and a forward pass of a teacher in bfloat16."""

HESSIANS_PER_LINEAR = 1.3
"""Hessians of a library that has one per linear, not one per input: (6 4096^2 + 11008^2) / (3 4096^2 + 11008^2)."""


TIME_UNITS = ("s", "ms", "us", "ns")

Rule = Literal[
    "", "mean", "window mean", "exp of window mean", "weighted mean", "median of timings", "mean of speedups", "own"
]
"""Names of the rules by which a number follows from the items of its record. See `Metric.rule`."""

MEANS = ("mean", "window mean", "exp of window mean")
"""Rules of sampled numbers. They have a standard error."""


@dataclass(frozen=True)
class Metric:
    """Facts about a number that a measure reports. The defaults are for a metric that no installed measure declares."""

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
    rule: Rule = ""
    """Rule by which `bench check` computes the number again.

    mean: mean of the item values. window mean: sum of the item values over the sum of their weights. exp of window mean: its
    exponential. weighted mean: mean with weights, of items that are no sample. median of timings: for a rate, the reciprocal
    of the median time. mean of speedups: geometric mean, rounded to four digits. own: the measure's `derive`. Empty: the
    items do not give the number.
    """
    order: int = 1000
    """Place among the columns of a table. A lower number is further left."""
    quality: int = 0
    """Priority among metrics that rank rows: a table uses the lowest number that it has. 0: it ranks no rows."""
    on_board: bool = False
    """True if a leaderboard shows it at first, in the order in which the measure declares its metrics."""
    one_column: bool = False
    """True if a leaderboard shows it under only one protocol."""
    in_tables: bool = True
    """True if tables show it. All exports do."""
    sorts_rows: bool = True
    """True if a table may sort its rows by it. Only some rows of a run have the others."""
    in_records: bool = True
    """False if tables average it over records, so that no record holds it."""
    margin: float | None = None
    """Largest loss that passes a gate, relative if changes are ratios. None: a gate does not judge the metric."""
    tolerance: float = 1e-4
    """Largest change that counts as a reproduction."""
    seed_noise: float = 0.0
    """Standard deviation of a row's number between seeds, assumed if too few rows of a model have several seeds."""
    counted: bool = False
    """True if values are counted, not sampled: they have no noise, and baselines keep no items of them."""
    capped_by_pattern: bool = False
    """True if only the part that the pattern requires counts as a gain or loss."""
    public_name: str = ""
    """Name in the Every Eval Ever schema, if it has one."""

    @property
    def label(self) -> str:
        """Name for people."""
        return self.name.replace("_", " ")

    @property
    def windowed(self) -> bool:
        """True if values are means over windows of a text."""
        return self.rule in ("window mean", "exp of window mean")

    @property
    def sampled(self) -> bool:
        """True if the number follows from a sample of items, so that it has noise."""
        return self.rule in MEANS or (self.rule == "own" and not self.counted)

    @property
    def is_count(self) -> bool:
        """True if values are whole numbers."""
        return self.counted and self.quantity in ("groups", "weights", "bytes")

    @property
    def is_time(self) -> bool:
        """True for a time, a speed, or their ratio: two timings are never equal."""
        return self.rule == "mean of speedups" or self.unit in TIME_UNITS or self.unit.endswith("/s")

    @property
    def is_ratio(self) -> bool:
        """True if a change is a ratio, not a difference."""
        return self.rule == "exp of window mean" or self.is_time or self.unit == "B"


@dataclass(frozen=True, kw_only=True)
class MeasureInfo:
    """Facts about a measure. A class has it as `info: ClassVar[MeasureInfo]`, which is read as that of a method is."""

    metrics: tuple[Metric, ...] = ()
    """Metrics of its readings, and of the averages that tables make of them."""
    other_metrics: bool = False
    """True if a record may have further metrics, for example those that a task of lm-eval defines."""


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """Source, cost and limits of a method or quantizer.

    A class has it as `info: ClassVar[MethodInfo]`. The catalog evaluates that expression without importing the class, so it
    may use literals, `Needs` and the names of this module.
    """

    paper: str = ""
    """arXiv number, "VENUE YEAR", or "none" for a control."""
    cost: Cost | None = None
    """Estimated cost; None if unknown."""
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings that can be typed as one word, by that word."""
    dense: bool = False
    """True if it is a control, whose model stays dense."""
    transform: bool = False
    """True if it changes weights and keeps the model's function. It is dense, too."""
    folds: str = ""
    """Field with which such a transform moves norms into linears, which not every family allows."""
    turns: str = ""
    """Field with which such a transform changes the basis of the residual stream, in which blocks are compared."""
    after: str = ""
    """Transform that a quantizer is named with: a run makes it first, before any pruning, with the same `group`. Its settings
    here are those of the quantizer, so a run refuses others."""
    drops: str = ""
    """Field with the share or number of blocks, or of a block's units, that it removes. The rest of the weights are kept."""
    adds: str = ""
    """Field with the rank, or the share of a linear's bytes, of a low-rank term that it adds beside each target."""
    rounds_term: str = ""
    """Field that rounds this term's factors, if it is set. No training may follow then."""
    same_blocks: bool = False
    """True if it needs each block of the dense model, whole, so that it cannot follow a method that `drops`."""
    same_outputs: bool = False
    """True if it compares the outputs of blocks with the dense model's, so that it cannot follow fewer hidden channels."""
    keeps_pattern: bool = False
    """True if it trains a model under the pattern that this has. A method with a `prior` does, too."""
    prior: str = ""
    """Stage that it refines if the user types no `from=`."""
    refines: bool = False
    """True if it refines another stage. Without a `prior`, the user must type `from=`."""
    groups_only: bool = False
    """True if it takes n:m patterns only."""
    columns: str = ""
    """Field that holds a number of columns, which must be a whole number of groups."""
    file: str = ""
    """Field that names a file. If it is set nothing else is needed, and the field `sha256` identifies the content."""
    calibrated_by: tuple[str, ...] = ()
    """Fields without any of which it needs no calibration text, although its class does."""
    settings_file: str = ""
    """Field that names a file with settings, which the user must name. The field `sha256` identifies the content."""
    elsewhere: bool = False
    """True if `file` names a model made elsewhere, which the user must name. It may differ from its source in any tensor, and
    has the pattern that is found in it."""
    whole_blocks: bool = False
    """True if it works on a whole block at a time. A streamed mixture then has all experts of a block in memory."""
    extra: str = ""
    """Extra of cast-bench that installs its library."""
    variant: str = ""
    """Words that tables add to the method's name: what it leaves out of its paper."""
    variant_field: str = ""
    """Field that decides this. If the user sets it, the name has it already."""
    environment: str = ""
    """Environment that it runs in, for `bench env create`."""
