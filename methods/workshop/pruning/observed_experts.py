"""Observe the experts of a block on calibration text, one expert in memory after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from methods.model.experts import ExpertList, experts_of, routed_to
from methods.workshop.pruning.activations import Activations, require_finite
from methods.workshop.pruning.expert_pass import ExpertPass
from methods.workshop.pruning.expert_scores import Router, Seen
from methods.workshop.pruning.holders import InMemory
from methods.workshop.pruning.states import States

MOST_VALUES = 2**22
"""Most outputs of experts that are compared at a time: 32 MiB in float64."""
Numbered = Iterable[tuple[int, nn.Module]]
"""Experts of a block with their numbers."""


def in_block(block: nn.Module) -> tuple[str, ExpertList]:
    """Return the name of the experts in a block of a mixture, and the experts."""
    found = experts_of(block)
    assert found
    return found


@contextmanager
def in_turn(held: InMemory, index: int) -> Iterator[tuple[nn.Module, Numbered]]:
    """Hold a block, and yield it with its experts.

    Take the experts once, in their order. Of a streamed model, each is in memory until the next one
    is taken.
    """
    parts = held.parts(index, {}, None, None)
    next(parts)
    block = held.blocks[index]

    def take() -> Iterator[tuple[int, nn.Module]]:
        for number, expert in enumerate(in_block(block)[1]):
            if held.by_expert:
                next(parts)
            yield number, expert

    yield block, take()
    for _ in parts:  # to the end, where the block is released
        pass


class ObservedPass(ExpertPass):
    """The calibration tokens of a block at its experts, and what is seen of each expert.

    with in_turn(held, index) as (block, experts):
        tokens = ObservedPass(states, index, block, router)
        for number, expert in experts: tokens.run(number, expert)
        tokens.finish()
    with in_turn(held, index) as (_, experts):
        error = tokens.error(experts, kept)
    """

    def __init__(
        self,
        states: Activations,
        index: int,
        block: nn.Module,
        router: Router,
        *,
        removal: bool = False,
        everywhere: bool = False,
    ) -> None:
        """removal: also sum the errors without each expert. This keeps the outputs of all experts
        of a token, and of the one that follows them. everywhere: also run each expert on all
        tokens, and sum its outputs."""
        super().__init__(states, index, block)
        self.router, count = router, len(in_block(block)[1])
        self._everywhere = everywhere
        self.load = torch.zeros(count, dtype=torch.int64)
        """Number of tokens of each expert in `error`."""
        self.seen = Seen(count, self._hidden[0].shape[1], states.device)
        self._out = self._zeros(1)
        # Experts of each token and the one that follows, [tokens, k + 1] per batch.
        self._places: list[Tensor] = []
        if removal and self._routes[0][0].shape[1] < count:
            for hidden, (chosen, _) in zip(self._hidden, self._routes, strict=True):
                logits = router(hidden.to(states.device))[0].double().cpu()
                following = logits.scatter(1, chosen, -torch.inf).argmax(1, keepdim=True)
                self._places.append(torch.cat([chosen, following], 1))
            self._outputs = self._zeros(self._places[0].shape[1])

    def _zeros(self, rows: int) -> States:
        """Return zeros, [tokens * rows, hidden] per batch."""
        states = self._activations.make_states()
        for hidden in self._hidden:
            states.append(hidden.new_zeros(len(hidden) * rows, hidden.shape[1]))
        return states

    def _run(self, expert: nn.Module, batch: int, token: Tensor) -> Tensor:
        """Return the outputs of an expert for some tokens of a batch."""
        out: Tensor = expert(self._hidden.rows(batch, token).to(self._activations.device))
        return out

    def run(self, number: int, expert: nn.Module) -> None:
        """Add the outputs of one expert. Experts must come in their order."""
        assert self._out is not None
        for j, (chosen, weights) in enumerate(self._routes):
            place, token = routed_to(number, chosen)
            if len(token):
                y = self._run(expert, j, token)
                gates = weights[token, place].to(y.device)
                shares = gates.double() / weights[token].double().sum(1).to(y.device)
                self.seen.add(number, gates, shares, y)
                self._out.add_rows(j, token, (y * gates[:, None]).to(y.dtype).cpu())
        for hidden in self._hidden if self._everywhere else ():
            outputs = expert(hidden.to(self._activations.device))
            self.seen.outputs[number] += outputs.double().sum(0)
        for j, places in enumerate(self._places):
            place, token = routed_to(number, places)
            if len(token):
                y = self._run(expert, j, token)
                self._outputs.add_rows(j, token * places.shape[1] + place, y.cpu())

    def finish(self) -> None:
        """Replace the inputs of the block by its outputs, and complete what was seen."""
        assert self._out is not None
        for whole in self._out:
            require_finite(whole, "the outputs of a block")
            self.seen.energy += float(whole.double().square().sum())
        for j in range(len(self._places)):
            self._add_removal(j)
        super().finish()

    def _add_removal(self, batch: int) -> None:
        """Add the errors without each expert, of one batch."""
        device, hidden = self._activations.device, self._hidden[batch].to(self._activations.device)
        places = self._places[batch].to(device)
        chosen, weights = (each.to(device) for each in self._routes[batch])
        outputs = self._outputs[batch].to(device).float().view(*places.shape, -1)
        whole = torch.einsum("tk,tkh->th", weights.float(), outputs[:, :-1])
        numbers = range(len(self.seen.count))
        for number in numbers:
            _, token = routed_to(number, chosen)
            if len(token):
                others = [other for other in numbers if other != number]
                less, now = self.router.among(hidden[token], others)
                at = (places[token][:, None, :] == now[:, :, None]).int().argmax(2)
                picked = outputs[token[:, None], at]
                y = torch.einsum("tk,tkh->th", less.float(), picked)
                self.seen.removal[number] += (y - whole[token]).double().square().sum()

    @property
    def batches(self) -> range:
        """Numbers of the batches of tokens."""
        return range(len(self._hidden))

    def compare(self, batch: int, experts: Numbered) -> None:
        """Add how alike the router logits and the outputs of the experts are, on all tokens of a
        batch. The outputs of all experts are kept as activations are, maybe on disk."""
        hidden = self._hidden[batch].to(self._activations.device)
        logits = self.router(hidden)[0].double()
        self.seen.logits += logits.T @ logits
        outputs = self._activations.make_states()
        for _, expert in experts:
            outputs.append(expert(hidden).cpu())
        step = max(1, MOST_VALUES // (len(outputs) * hidden.shape[1]))
        for tokens in torch.arange(len(hidden)).split(step):
            rows = [outputs.rows(number, tokens) for number in range(len(outputs))]
            every = torch.stack(rows).to(hidden.device).double()
            directions = nn.functional.normalize(every, dim=2)
            self.seen.cosines += torch.einsum("eth,fth->ef", directions, directions)

    def error(self, experts: Numbered, kept: Sequence[int]) -> float:
        """Return the sum of |y' - y|^2 over all tokens: y is the output of all experts, and y' that
        of `experts` if the router has only the rows in `kept`. Count the tokens of each."""
        assert self._out is not None
        routes = []
        for hidden in self._hidden:
            weights, chosen = self.router.among(hidden.to(self._activations.device), kept)
            routes.append((weights.cpu(), chosen.cpu()))
            self.load += torch.bincount(routes[-1][1].flatten(), minlength=len(self.load))
        left = self._zeros(1)
        for number, expert in experts:
            for j, (weights, chosen) in enumerate(routes):
                place, token = routed_to(number, chosen)
                if len(token):
                    y = self._run(expert, j, token)
                    gates = weights[token, place, None].to(y.device)
                    left.add_rows(j, token, (y * gates).to(y.dtype).cpu())
        total = 0.0
        for one, whole in zip(left, self._out, strict=True):
            total += float((one - whole).double().square().sum())
        return total
