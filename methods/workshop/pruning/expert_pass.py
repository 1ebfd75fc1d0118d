"""Pass all calibration tokens through the experts of a block, one expert after the other.

So only one expert needs to be in memory at a time. A forward pass of the block runs all experts on
one batch. Here all
batches run on one expert: the same sums in the same order for each batch, so the same bits.
"""

from __future__ import annotations

import contextlib
from functools import partial

import torch
from torch import Tensor, nn

from methods.model.experts import Expert, experts_of, routed_to, tell_gates
from methods.workshop.pruning.activations import Activations, Call, Recorder, Replay, replaced
from methods.workshop.pruning.observer import Observer, Stop
from methods.workshop.pruning.states import States
from methods.workshop.pruning.statistics import Observed, Statistics


class ExpertPass:
    """The inputs of the experts of one block for all calibration tokens, and the sum of their
    outputs.

        tokens = ExpertPass(activations, index, block)
        for number, expert in reader.experts(index): tokens.run(number, expert)
        tokens.finish()

    The block runs twice on each batch, without its experts: up to them in the constructor, and to
    its end in `finish`.
    """

    def __init__(
        self,
        activations: Activations,
        index: int,
        block: nn.Module,
        observer: Observer | None = None,
    ) -> None:
        """observer: of linears before the experts."""
        found = experts_of(block)
        assert found
        self._activations, self._index, self._block, self._path = (
            activations,
            index,
            block,
            found[0],
        )
        self._hidden = activations.make_states()  # [tokens, hidden] per batch
        # Experts and their weights, [tokens, k] each, per batch.
        self._routes: list[tuple[Tensor, Tensor]] = []
        self._out: States | None = None
        self._shared: tuple[Tensor, Tensor] | None = None
        """The statistic and sample of all tokens, once they are known."""
        calls: list[Call] = []
        with replaced(block, {self._path: Recorder(found[1], calls, last=True)}):
            for hidden in activations.hidden:
                run = partial(activations.run, index, block, hidden)
                if observer:
                    observer.batch(run)
                else:
                    with contextlib.suppress(Stop):
                        run()
                while calls:
                    x, (chosen, weights), _ = calls.pop()
                    self._hidden.append(x.cpu())
                    self._routes.append((chosen.cpu(), weights.cpu()))
        if len(self._routes) != len(activations.hidden):
            raise RuntimeError(f"the forward pass did not reach {self._path}")

    def run(self, number: int, expert: nn.Module) -> None:
        """Add the outputs of one expert. Experts must come in their order."""
        if self._out is None:
            self._out = self._activations.make_states()
            for hidden in self._hidden:
                self._out.append(torch.zeros_like(hidden))
        for j, (chosen, weights) in enumerate(self._routes):
            place, token = routed_to(number, chosen)
            if len(token):
                x = self._hidden.rows(j, token)
                y = expert(x.to(self._activations.device)) * weights[token, place, None].to(
                    self._activations.device
                )
                self._out.add_rows(j, token, y.to(x.dtype).cpu())

    def finish(self) -> None:
        """Replace the inputs of the block by its outputs, as `Activations.advance` does."""
        assert self._out is not None
        stand_in = Replay(self._block.get_submodule(self._path))
        with replaced(self._block, {self._path: stand_in}):
            for j, hidden in enumerate(self._activations.hidden):
                stand_in.value = self._out[j].to(self._activations.device)
                self._activations.hidden[j] = self._activations.run(
                    self._index, self._block, hidden
                )

    def observe(
        self, number: int, expert: Expert, linears: dict[str, nn.Module], statistics: Statistics
    ) -> Observed:
        """Run one expert until all inputs of its linears are collected.

        If experts see all tokens, their first linears have the same input, and only the first
        expert's is observed.
        """
        every = statistics.all_experts
        first = next(
            (name for name, module in linears.items() if every and module is expert.first), None
        )
        unknown = {
            name: module for name, module in linears.items() if name != first or not self._shared
        }
        with statistics.observer(unknown, unknown) as observer:
            for j, (chosen, weights) in enumerate(self._routes if unknown else ()):
                place, token = routed_to(number, chosen)
                x = self._hidden[j] if every else self._hidden.rows(j, token)
                if statistics.gated:
                    tell_gates(expert, weights[token, place].to(self._activations.device))
                if len(x):
                    observer.batch(partial(expert, x.to(self._activations.device)))
        if first is not None:
            self._shared = self._shared or observer.take(first)
            assert self._shared
            observer.give(first, self._shared, statistics.tokens)
        return statistics.pool(observer, linears, routed=linears)
