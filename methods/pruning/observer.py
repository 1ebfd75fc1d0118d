"""What linears are given in forward passes: a statistic of it, and a sample of its rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType

import torch
from torch import Tensor, nn

Accumulate = Callable[[Tensor, Tensor | None], Tensor]
"""accumulate(x, total) -> the statistic with the inputs x, float [tokens, in], added. total is None at first; then x may have no
tokens, to see how large the statistic is. Where several processes share a calibration it must be a sum over tokens: theirs are
added up."""


class Stop(Exception):
    """Raised inside a forward pass to end it early."""


class Observer:
    """Collects the statistic and a sample of the inputs of linears, batch by batch.

        with Observer(linears, required, accumulate, stride) as observer:
            for x in batches: observer.batch(lambda: block(x))
        stats, samples = observer.statistics(), observer.samples()

    Linears with the same input, the same object, share one statistic and one sample.
    """

    def __init__(
        self,
        linears: Mapping[str, nn.Module],
        required: Iterable[str],
        accumulate: Accumulate,
        stride: int,
        ends: bool = True,
        before: int = 0,
    ) -> None:
        """required: linears that every batch must reach; stride: of how many rows one is in the sample.

        ends: a forward pass ends when all that are required were reached; before: rows that other processes have, and
        that come before this one's.
        """
        self.reached = dict.fromkeys(linears, 0)
        """How many tokens came to each linear."""
        self._linears, self._required = linears, set(required)
        self._accumulate, self._stride, self._ends, self._before = accumulate, stride, ends, before
        self._stats: dict[str, Tensor] = {}
        self._samples: dict[str, list[Tensor]] = {}
        self.sources: dict[str, str] = {}
        """Of each linear that was reached, the first one with the same input."""
        self._inputs: dict[str, Tensor] = {}  # of this batch, by first linear
        self._waiting: set[str] = set()

    def __enter__(self) -> Observer:
        self._hooks = [module.register_forward_pre_hook(self._hook(name)) for name, module in self._linears.items()]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._hooks:
            handle.remove()
        self._inputs.clear()

    def batch(self, run: Callable[[], object]) -> None:
        """A forward pass of one batch.

        Raises:
            RuntimeError: it did not reach a linear that is required.
        """
        self._waiting = set(self._required)
        self._inputs.clear()
        with contextlib.suppress(Stop):
            run()
        if self._waiting:
            raise RuntimeError(f"the forward pass did not reach {sorted(self._waiting)}")

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            first = next((k for k, other in self._inputs.items() if other is x), None)
            if first is None:
                self._inputs[name] = x
                rows = x.flatten(0, -2)
                self._stats[name] = self._accumulate(rows.float(), self._stats.get(name))
                row = self._before + self.reached[name]
                sample = rows[-row % self._stride :: self._stride]  # every stride-th of all batches
                kept = sample.to(torch.float32, copy=True)  # a view would keep all of x
                self._samples.setdefault(name, []).append(kept)
            self.sources[name] = first or name
            self.reached[name] += x.shape[:-1].numel()
            self._waiting.discard(name)
            if self._ends and not self._waiting:
                raise Stop

        return hook

    def statistics(self) -> dict[str, Tensor]:
        """Of the linears that were reached."""
        return {name: self._stats[first] for name, first in self.sources.items()}

    def statistics_by_input(self) -> dict[str, Tensor]:
        """By the first linear with an input; what is taken out of it is free."""
        return self._stats

    def samples_by_input(self) -> dict[str, Tensor]:
        """float32 [some rows, in], by the first linear with an input."""
        return {first: torch.cat(rows) for first, rows in self._samples.items()}

    def samples(self) -> dict[str, Tensor]:
        """float32 [some rows, in]"""
        joined = self.samples_by_input()
        return {name: joined[first] for name, first in self.sources.items()}
