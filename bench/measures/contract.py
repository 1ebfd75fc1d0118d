"""Interface of a measure: what it declares, its inputs and its results.

A measure in a package of your own needs this module, `bench.results.record` and `methods`, and
nothing else of bench. It declares each metric once (`methods.contract.measure_info.Metric`), and a
gate, `bench check` and all tables read the facts there. A reading has the unit and direction of its
metric, unless it states others. The method `derive` is for metrics with the aggregation "own":

    from collections.abc import Callable
    from dataclasses import dataclass
    from typing import ClassVar

    from torch import nn

    from bench.measures.contract import MeasureContext, Readings
    from bench.results.record import Item, Reading
    from methods.contract.method import Needs
    from methods.contract.measure_info import MeasureInfo, Metric

    @dataclass(frozen=True)
    class MaxNorm:
        name: ClassVar[str] = "max-norm"
        needs: ClassVar[Needs] = Needs.NOTHING
        info: ClassVar[MeasureInfo] = MeasureInfo(
            metrics=(
                Metric("max_norm", "1", "lower", aggregation="own", counted=True, margin=0.01,
                       on_board=True, order=65),
                Metric("mean_norm", "1", "lower", aggregation="mean", margin=0.02,
                       seed_noise=0.005, order=66),
            )
        )

        @property
        def protocol(self) -> str:
            return "weights"

        def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
            norms = {name: float(p.norm()) for name, p in model().named_parameters()}
            mean = sum(norms.values()) / len(norms)
            items = tuple(Item(name, name, norm, 1.0) for name, norm in norms.items())
            return Readings((Reading("max_norm", max(norms.values())), Reading("mean_norm", mean)),
            items)

        @staticmethod
        def derive(metric, record, items):
            return float(items.columns["value"].max())

A measure that reads the windows of a corpus, as perplexity does, can share their forward pass. It
then derives from `bench.measures.windowed.Windowed` and has a `reader` in place of `read`. The
reader receives the logits of a few rows at a time, and with `beside_dense = True` also those of the
dense model:

    from dataclasses import dataclass
    from typing import ClassVar

    from bench.measures.contract import MeasureContext, Readings
    from bench.measures.window_pass import LogitPart
    from bench.measures.windowed import Windowed, Windows, WindowSums
    from bench.results.record import Item, Reading

    @dataclass(frozen=True)
    class Entropy(Windowed):
        name: ClassVar[str] = "entropy"

        def reader(self, windows: Windows, context: MeasureContext) -> "EntropyReader":
            return EntropyReader(windows)

    class EntropyReader:
        def __init__(self, windows: Windows) -> None:
            self.windows, self.sums = windows, WindowSums()

        def take(self, part: LogitPart) -> None:
            p = part.logits.log_softmax(-1)
            self.sums.add(part, -(p.exp() * p).sum(-1))

        def finish(self) -> Readings:
            count, seqlen = self.windows.tokens.shape
            rows = zip(self.windows.clusters, self.sums.values, strict=True)
            items = tuple(Item(str(i), c, nats, seqlen - 1.0) for i, (c, nats) in enumerate(rows))
            mean = sum(self.sums.values) / (count * (seqlen - 1))
            return Readings((Reading("entropy", mean, "nats/token", ""),), items)

A run fills in its fields from the settings `perplexity` and makes one pass for all such measures. A
fault in a reader fails only its own measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

from bench.inputs import own_text
from bench.inputs.bos import Bos
from bench.inputs.model_facts import ModelFacts
from bench.results import identity
from bench.results.record import Item, Reading
from bench.system.validation import Strict
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from bench.verify import WeightCounts
    from methods.contract.codec import Storage
    from methods.contract.method import Compute, Needs, Progress


class MeasureSettings(Strict):
    """Table of settings that a measure adds to a run. Measures may share one."""

    table: ClassVar[str]
    """Name of the table."""


S = TypeVar("S", bound=MeasureSettings)


class RunSettings(Protocol):
    """Settings of a run that a measure can read."""

    @property
    def measures(self) -> tuple[str, ...]: ...
    @property
    def tasks(self) -> tuple[str, ...]: ...
    @property
    def data_dir(self) -> Path | None: ...
    @property
    def device(self) -> str: ...
    @property
    def executor(self) -> str: ...
    @property
    def jobs(self) -> int | str | None: ...
    def settings_of(self, kind: type[S]) -> S: ...


@dataclass(frozen=True, kw_only=True)
class PlanContext:
    """Inputs of a measure's plan for one model. No weights are loaded."""

    run: RunSettings
    fetch: bool
    """True if missing data may be downloaded."""
    devices: tuple[str, ...]
    """Devices that make artifacts, at least one."""
    facts: ModelFacts
    """Facts of the model, from its folder."""
    bos: Bos
    """Rule for BOS as far as it changes this model's tokens."""

    def require_positions(self, use: str, seqlen: int) -> None:
        """Check that the model can read sequences of this length. Raise UserError if the model has
        fewer positions."""
        positions = self.facts.positions
        if positions is not None and seqlen > positions:
            raise UserError(
                f"{use}.seqlen={seqlen} is more than the {positions} positions of "
                f"{self.facts.name}: use at most that many"
            )

    def require_tokenizer(self) -> None:
        """Raise UserError if the model's folder has weights and no tokenizer."""
        facts = self.facts
        if facts.has_weights and not facts.has_tokenizer:
            raise UserError(
                f"{facts.folder} has no tokenizer (tokenizer.json): copy that of the original "
                "model, or leave out what reads text"
            )

    def require_text(self, corpus: str) -> None:
        """Check that the model can read a corpus.

        Raises:
            UserError: the model has no tokenizer, or a user's text does not suit it.
        """
        self.require_tokenizer()
        own_text.check(corpus, self.facts.name, lacks_template=self.facts.tokenizer.lacks_template)


class Planned(NamedTuple):
    """One planned measurement."""

    config: Mapping[str, Any] = {}
    """Values for the measure's fields."""
    content: str = ""
    """Digest of the data that the measure reads. Empty if the data is not here."""
    options: Mapping[str, Any] = {}
    """Settings that change no number and are not part of the key. `tokens`: about how many it
    reads, if the data tells."""


@dataclass(frozen=True)
class Readings:
    """Result of a measure."""

    values: tuple[Reading, ...]
    items: tuple[Item, ...] = ()
    """Scores of single windows or questions, for paired statistics."""
    tokens: int = 0
    """Number of tokens that were measured on."""
    token_digest: str = ""
    """sha256 of these tokens. Two records are compared only if it is equal."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that are shown and never compared."""


@dataclass(frozen=True, kw_only=True)
class MeasureContext:
    """Inputs of a measure besides the model."""

    folder: Path
    """Folder of the artifact being measured."""
    source: Path
    """Folder of the dense model."""
    is_dense: bool
    """True if the artifact is the dense model itself."""
    tokenizer: Callable[[], Any]
    """Function that loads the tokenizer."""
    load_dense: Callable[[], nn.Module]
    """Function that loads the dense model."""
    counts: WeightCounts
    """Counts of each layer from the check of the artifact, and violations of the pattern."""
    storage: Storage | None = None
    """Bytes of the quantized weights. None: the artifact is not quantized."""
    compute: Compute
    data_dir: Path | None
    """Folder with a mirror of hub data."""
    workdir: Path
    """Empty folder, deleted after the measure."""
    progress: Progress
    seed: int | None


class Measure(Protocol):
    """A frozen dataclass. Its fields and its protocol are known before a model is loaded.

    A class can also declare the following. Its module must not import torch at the top.

    - `settings`: its table of settings, a class of `MeasureSettings`, which `plan` reads with
      `context.run.settings_of`.
    - `check(run, fetch)`, a class method: raise UserError if the run's settings cannot be used.
    - `plan(context)`, a class method: return a `Planned` for each measurement. Default: one, with
      default fields.
    - `estimated_tokens`, a property: about how many tokens it reads, for the estimate of time.
    - `imports`: modules that a worker should import early.
    - `info`, a `methods.contract.measure_info.MeasureInfo`: its metrics. It is no part of a key.
    - `derive(metric, record, items)`, a static method: return the number of a metric with the
      aggregation "own", computed from the items of a record (`bench.results.derive.Items`), or
      None if they do not give it.
    - `shows`: for `bench ls tasks`, names of tasks by what they show; with a default of `version`.
    - `streams = True`: for models larger than the device, `read` gets a model without its blocks if
      `context.compute.stream`. The blocks are in `context.folder` and `context.source`.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]

    @property
    def protocol(self) -> identity.Protocol | str:
        """Label of what is measured on. Numbers in one column share it. A text is the name of a
        protocol."""
        ...

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Measure an artifact.

        Args:
            model: loads the artifact on the device, in eval mode and frozen.

        Raises:
            UserError: an input cannot be used.
            Skipped: this artifact or this machine cannot be measured. The record gives the reason.
        """
        ...
