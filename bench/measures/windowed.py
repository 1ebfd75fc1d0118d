"""What measures on a corpus's windows share: settings, protocol and the windows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.inputs.windows import load_windows
from bench.measures import forward
from bench.results.identity import Protocol
from methods.contract import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from bench.measures.contract import MeasureContext


@dataclass(frozen=True)
class Windowed:
    """corpus: a name in bench.inputs.corpora; seqlen: tokens per window; windows: use only the first so many, None for all;
    batch: windows per forward pass.
    """

    needs: ClassVar[Needs] = Needs.NOTHING
    streams: ClassVar[bool] = True
    corpus: str
    seqlen: int
    windows: int | None = None
    batch: int | None = None
    split: str = "evaluation"

    @property
    def protocol(self) -> Protocol:
        name = self.corpus if self.split == "evaluation" else f"{self.corpus}-{self.split}"
        return Protocol(name=name, seqlen=self.seqlen, limit=self.windows)

    @property
    def per_forward(self) -> int:
        return forward.batch_size(self.batch, self.seqlen)

    def cut(self, context: MeasureContext) -> tuple[Tensor, list[str]]:
        """The windows, int64 [windows, seqlen], and the article in which each begins.

        Raises:
            UserError: the corpus has no window, or fewer than were asked for.
        """
        return load_windows(self.corpus, context.tokenizer(), self.seqlen, self.windows, context.data_dir, self.split)


def mean_and_stderr(values: list[float]) -> tuple[float, float | None]:
    """Mean and its standard error, which is None for a single value or a mean that is not finite."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2 or not math.isfinite(mean):
        return mean, None
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
