"""Forward hooks that collect a statistic and a sample of the inputs of linears."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

Accumulate = Callable[[Tensor, Tensor | None], Tensor]
"""accumulate(x, total) -> the statistic with the inputs x, float [tokens, in], added.

total is None in the first call. There x may have no tokens, to learn the size of the statistic. If
several processes share a calibration, the statistic must be a sum over tokens, because the walk
sums theirs."""


class Stop(Exception):
    """Raised inside a forward pass to end it early."""


class Observer:
    """Collects the statistic and a sample of the inputs of linears, batch by batch.

        with Observer(linears, required, accumulate, stride) as observer:
            for x in batches: observer.batch(lambda: block(x))
        stat, rows = observer.take(observer.sources[name])

    Linears with the same input, the same object, share one statistic and one sample.
    """

    def __init__(
        self,
        linears: Mapping[str, nn.Module],
        required: Iterable[str],
        accumulate: Accumulate,
        stride: int,
        *,
        ends_early: bool = True,
        first_row: int = 0,
        gated: bool = False,
    ) -> None:
        """required: linears that every batch must reach; stride: rows from one row of the sample to
        the next.

        ends_early: end a forward pass when it has reached all required linears; first_row: number
        of rows that processes with a lower rank have; gated: scale the inputs of an expert in the
        statistic by the router's weights (`methods.model.experts.tell_gates`).
        """
        self.reached = dict.fromkeys(linears, 0)
        """Number of tokens that reached each linear."""
        self.sources: dict[str, str] = {}
        """For each linear that a token reached, the first linear with the same input."""
        self._linears, self._required = linears, set(required)
        self._accumulate, self._stride = accumulate, stride
        self._ends_early, self._first_row, self._gated = ends_early, first_row, gated
        self._stats: dict[str, Tensor] = {}
        self._samples: dict[str, list[Tensor]] = {}
        self._inputs: dict[str, Tensor] = {}  # inputs of this batch, by first linear
        self._missing: set[str] = set()

    def __enter__(self) -> Observer:
        self._hooks = [
            module.register_forward_pre_hook(self._hook(name))
            for name, module in self._linears.items()
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._hooks:
            handle.remove()
        self._inputs.clear()

    def batch(self, run: Callable[[], object]) -> None:
        """Run a forward pass of one batch. Raise RuntimeError if the pass did not reach a required
        linear."""
        self._missing = set(self._required)
        self._inputs.clear()
        with contextlib.suppress(Stop):
            run()
        if self._missing:
            raise RuntimeError(f"the forward pass did not reach {sorted(self._missing)}")

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            source = next((k for k, other in self._inputs.items() if other is x), None)
            if source is None:
                self._inputs[name] = x
                rows = x.flatten(0, -2)
                seen = rows.float()
                gates: Tensor | None = getattr(module, "gates", None)
                if self._gated and gates is not None:
                    seen = seen * gates[:, None]
                self._stats[name] = self._accumulate(seen, self._stats.get(name))
                row = self._first_row + self.reached[name]
                # Every stride-th row of all batches.
                sample = rows[-row % self._stride :: self._stride]
                # a view would keep all of x
                self._samples.setdefault(name, []).append(sample.to(torch.float32, copy=True))
            self.sources[name] = source or name
            self.reached[name] += x.shape[:-1].numel()
            self._missing.discard(name)
            if self._ends_early and not self._missing:
                raise Stop

        return hook

    def samples(self) -> dict[str, int]:
        """Number of sampled rows, by the first linear with an input."""
        return {source: sum(map(len, rows)) for source, rows in self._samples.items()}

    def take(self, source: str) -> tuple[Tensor, Tensor] | None:
        """Remove and return the statistic and the sample, float32 [rows, in], of an input. None if
        no token reached it."""
        if source not in self._stats:
            return None
        return self._stats.pop(source), torch.cat(self._samples.pop(source))

    def give(self, name: str, known: tuple[Tensor, Tensor], tokens: int) -> None:
        """Add a linear whose statistic and sample are known."""
        self._stats[name], self._samples[name] = known[0], [known[1]]
        self.sources[name], self.reached[name] = name, tokens
