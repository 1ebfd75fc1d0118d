"""What a measure is, what it is given and what it returns.

A measure in a package of your own needs this module, `bench.results.record` and `methods`, and nothing else of bench:

    from collections.abc import Callable
    from dataclasses import dataclass
    from typing import ClassVar

    from torch import nn

    from bench.measures.contract import MeasureContext, Readings
    from bench.results.record import Reading
    from methods.contract import Needs

    @dataclass(frozen=True)
    class MaxNorm:
        name: ClassVar[str] = "max-norm"
        needs: ClassVar[Needs] = Needs.NOTHING

        @property
        def protocol(self) -> str:
            return "weights"

        def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
            norm = max(float(p.norm()) for p in model().parameters())
            return Readings((Reading("max_norm", norm, "1", "lower"),))

A measure that reads the windows of a corpus, as perplexity does, can share their forward pass. It is then a
`bench.measures.windowed.Windowed`, and has a `reader` in place of `read`. The reader is given the logits of a few rows at a
time, and with `beside_dense = True` those of the dense model:

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

A run builds it with the fields of its settings `perplexity` and reads it off the pass that it makes for all such measures.
A fault in a reader fails its own measurement alone. A measure with a `read` of its own is measured by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from bench.results import identity
from bench.results.record import Item, Reading

if TYPE_CHECKING:
    from torch import nn

    from bench.verify import WeightCounts
    from methods.contract import Compute, Needs, Progress
    from methods.quantizing.stored import Stored


@dataclass(frozen=True)
class Readings:
    """What a measure returns."""

    values: tuple[Reading, ...]
    items: tuple[Item, ...] = ()
    """One per window or question, for paired statistics."""
    tokens: int = 0
    """How many tokens were measured on."""
    token_digest: str = ""
    """sha256 of them: two records are compared only where these are equal."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """JSON: shown, never compared."""


@dataclass(frozen=True, kw_only=True)
class MeasureContext:
    """What a measure may use besides the model."""

    folder: Path
    """The artifact being measured."""
    source: Path
    """The dense model's folder."""
    is_dense: bool
    """Is the artifact the dense model itself?"""
    tokenizer: Callable[[], Any]
    """Loads the tokenizer."""
    load_dense: Callable[[], nn.Module]
    """Loads the dense model."""
    counts: WeightCounts
    """Result of the runner's check of the artifact: counts of each layer, and what breaks the pattern."""
    storage: Stored | None = None
    """How the quantizer would store its weights; None where the artifact is not quantized."""
    compute: Compute
    data_dir: Path | None
    """A mirror of hub data."""
    workdir: Path
    """An empty folder, deleted after the measure."""
    progress: Progress
    seed: int | None


class Measure(Protocol):
    """A frozen dataclass. Its fields and its protocol are known before a model is loaded.

    A class with `streams = True` is given a model larger than the device where `context.compute.stream`: without its
    blocks, which lie in `context.folder` and `context.source`. All other measures are given whole models.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]

    @property
    def protocol(self) -> identity.Protocol | str:
        """What two numbers must share to stand in one column. A text is a protocol's name."""
        ...

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Measure. model: loads the artifact on the device, in eval mode and frozen.

        Raises:
            UserError: an input that cannot be used.
            Skipped: this artifact or this machine cannot be measured; the record gives the reason.
        """
        ...
