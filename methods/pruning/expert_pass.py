"""All calibration tokens through the experts of a block, one expert after the other, so that one need be in memory at a time.

A forward pass of the block has its experts one after the other on one batch. Here the batches come one after the other on
one expert: the same sums in the same order for each batch, so the same bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from methods.experts import Expert, experts_of, routed_to
from methods.pruning.activations import Activations
from methods.pruning.observer import Accumulate, Observer, Stop
from methods.pruning.states import States


class ExpertPass:
    """What the calibration tokens give the experts of one block, and what these return.

        tokens = ExpertPass(activations, index, block)
        for number, expert in reader.experts(index): tokens.run(number, expert)
        tokens.finish()

    The block runs twice on each batch, without its experts: up to them when this is made, and to its end in `finish`.
    """

    def __init__(
        self, activations: Activations, index: int, block: nn.Module, observer: Observer | None = None
    ) -> None:
        """observer: of linears before the experts."""
        found = experts_of(block)
        assert found
        self._activations, self._index, self._block, self._path = activations, index, block, found[0]
        self._hidden = activations.make_states()  # [tokens, hidden] per batch
        self._routes: list[tuple[Tensor, Tensor]] = []  # of a batch, [tokens, k] each: experts, and their weights
        self._out: States | None = None
        self._shared: tuple[Tensor, Tensor] | None = None
        """The statistic and sample of all tokens, once they are known."""
        with _in_place_of_experts(block, self._path, _Gate(self)):
            for hidden in activations.hidden:
                run = partial(activations.run, index, block, hidden)
                if observer:
                    observer.batch(run)
                else:
                    with contextlib.suppress(Stop):
                        run()
        if len(self._routes) != len(activations.hidden):
            raise RuntimeError(f"the forward pass did not reach {self._path}")

    def keep(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> None:
        """Of the next batch, as `ExpertList` is given them."""
        self._hidden.append(hidden.cpu())
        self._routes.append((chosen.cpu(), weights.cpu()))

    def run(self, number: int, expert: Expert) -> None:
        """Add what one expert gives to the outputs. Experts come in their order."""
        if self._out is None:
            self._out = self._activations.make_states()
            for hidden in self._hidden:
                self._out.append(torch.zeros_like(hidden))
        for j, (chosen, weights) in enumerate(self._routes):
            place, token = routed_to(number, chosen)
            if len(token):
                x = self._hidden.rows(j, token)
                y = expert(x.to(self._activations.device)) * weights[token, place, None].to(self._activations.device)
                self._out.add_rows(j, token, y.to(x.dtype).cpu())

    def finish(self) -> None:
        """The block's outputs become the activations, as `Activations.advance` has it."""
        assert self._out is not None
        stand_in = _Given()
        with _in_place_of_experts(self._block, self._path, stand_in):
            for j, hidden in enumerate(self._activations.hidden):
                stand_in.value = self._out[j].to(self._activations.device)
                self._activations.hidden[j] = self._activations.run(self._index, self._block, hidden)

    def observe(
        self, number: int, expert: Expert, linears: dict[str, nn.Module], accumulate: Accumulate, sample_rows: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """As `Activations.observe`, of linears of one expert.

        Where experts see all tokens, their first linears have the same input, which is seen once.
        """
        every = self._activations.all_experts
        known = [name for name, module in linears.items() if every and self._shared and module is expert.first]
        unknown = {name: module for name, module in linears.items() if name not in known}
        with Observer(unknown, unknown, accumulate, self._activations.stride(sample_rows)) as observer:
            for j, (chosen, _) in enumerate(self._routes if unknown else ()):
                x = self._hidden[j] if every else self._hidden.rows(j, routed_to(number, chosen)[1])
                if len(x):
                    observer.batch(partial(expert, x.to(self._activations.device)))
        stats, samples, reached = observer.statistics(), observer.samples(), dict(observer.reached)
        for name in known:
            assert self._shared
            stats[name], samples[name] = self._shared
            reached[name] = self._activations.tokens
        if every and self._shared is None:
            self._shared = next(
                ((stats[name], samples[name]) for name, module in linears.items() if module is expert.first), None
            )
        self._activations.settle(linears, reached, stats, samples, accumulate)
        return stats, samples


class _Gate(nn.Module):
    """Keeps what a block's experts are given, and ends the forward pass."""

    def __init__(self, tokens: ExpertPass) -> None:
        super().__init__()
        self._keep = tokens.keep

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        self._keep(hidden, chosen, weights)
        raise Stop


class _Given(nn.Module):
    """Returns what experts gave."""

    value: Tensor

    def forward(self, *_args: Tensor) -> Tensor:
        return self.value


@contextlib.contextmanager
def _in_place_of_experts(block: nn.Module, path: str, stand_in: nn.Module) -> Iterator[None]:
    experts = block.get_submodule(path)
    block.set_submodule(path, stand_in)
    try:
        yield
    finally:
        block.set_submodule(path, experts)


def advance(activations: Activations, index: int, block: nn.Module, experts: Iterable[tuple[int, Expert]]) -> None:
    """Run all tokens through a block whose experts come one by one."""
    tokens = ExpertPass(activations, index, block)
    for number, expert in experts:
        tokens.run(number, expert)
    tokens.finish()
