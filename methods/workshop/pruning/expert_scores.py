"""Observe the experts of a mixture on calibration text: one pass, from which every score of an
expert is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from methods.model.experts import ExpertList, routed_to


class Seen:
    """Sums over calibration tokens for each expert of a block, float64.

    g is the weight of an expert for a token that the router sends to it, as the family computes it,
    and f the output of the expert, a vector.
    """

    def __init__(self, experts: int, hidden: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.count = zeros(experts)
        """Number of tokens."""
        self.gates = zeros(experts)
        """Sum of g."""
        self.norms = zeros(experts)
        """Sum of |f|."""
        self.squares = zeros(experts)
        """Sum of |f|^2."""
        self.routed = zeros(experts, hidden)
        """Sum of f."""
        self.gated = zeros(experts)
        """Sum of g |f|, with the g of a token scaled so that their sum is 1."""
        self.outputs = zeros(experts, hidden)
        """Sum of the expert's output over all tokens, if it was asked for."""
        self.cosines = zeros(experts, experts)
        """Sum, over all tokens, of the cosines of the outputs of two experts, if it was asked
        for."""
        self.removal = zeros(experts)
        """Sum of |y' - y|^2: y is the output of all experts, and y' that without this expert."""
        self.logits = zeros(experts, experts)
        """Sum, over all tokens, of the products of router logits."""
        self.energy = zeros(1)
        """Sum of |y|^2 over all tokens."""

    @property
    def means(self) -> Tensor:
        """Mean of f, [experts, hidden]."""
        return self.routed / self.count.clamp(min=1)[:, None]


@dataclass(frozen=True)
class Router:
    """The router of a block, which returns logits [tokens, experts], weights [tokens, k], and the
    experts that it chose [tokens, k]."""

    module: nn.Module

    def __call__(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out: tuple[Tensor, Tensor, Tensor] = self.module(hidden)
        return out

    def among(self, hidden: Tensor, kept: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the weights and the experts that the router chooses if it has only the rows in
        `kept`, by the numbers of the experts before."""
        rows = torch.tensor(kept, device=hidden.device)
        left = {name: each[rows] for name, each in self.module.state_dict().items()}
        _, weights, chosen = functional_call(self.module, left, (hidden,))
        return weights, rows[chosen]


class Observing(nn.Module):
    """A stand-in for the experts of a block: the same sum, and it adds to what was seen.

    everywhere: also run each expert on all tokens, for the sums over them.
    """

    def __init__(
        self, experts: ExpertList, router: Router, seen: Seen, everywhere: bool = False
    ) -> None:
        super().__init__()
        self._everywhere = everywhere
        # In lists, so that they are no submodules of the block.
        self._parts = [(experts, router, seen)]

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """See `ExpertList.forward`."""
        ((experts, router, seen),) = self._parts
        tokens, k = chosen.shape
        logits = router(hidden)[0].double()
        seen.logits += logits.T @ logits
        if self._everywhere:
            every = torch.stack([expert(hidden).double() for expert in experts])
            seen.outputs += every.sum(1)
            directions = nn.functional.normalize(every, dim=2)
            seen.cosines += torch.einsum("eth,fth->ef", directions, directions)
        places = chosen
        if k < len(experts):
            # Without one of its experts, a token goes to the next one.
            following = logits.scatter(1, chosen, -torch.inf).argmax(1, keepdim=True)
            places = torch.cat([chosen, following], 1)
        outputs = torch.zeros(tokens, places.shape[1], hidden.shape[1], device=hidden.device)
        for number, expert in enumerate(experts):
            place, token = routed_to(number, places)
            if len(token):
                outputs[token, place] = expert(hidden[token]).float()
        _add(seen, chosen, weights.float(), outputs[:, :k])
        whole = torch.einsum("tk,tkh->th", weights.float(), outputs[:, :k])
        seen.energy += whole.double().square().sum()
        if k < len(experts):
            for number in range(len(experts)):
                _, token = routed_to(number, chosen)
                if len(token):
                    others = [n for n in range(len(experts)) if n != number]
                    less, now = router.among(hidden[token], others)
                    at = (places[token][:, None, :] == now[:, :, None]).int().argmax(2)
                    picked = outputs[token[:, None], at]
                    y = torch.einsum("tk,tkh->th", less.float(), picked)
                    seen.removal[number] += (y - whole[token]).double().square().sum()
        return whole.to(hidden.dtype)


def _add(seen: Seen, chosen: Tensor, weights: Tensor, outputs: Tensor) -> None:
    """Add the outputs of routed tokens: [tokens, k, hidden]. chosen, weights: [tokens, k]."""
    index, gates = chosen.flatten(), weights.double()
    norms = outputs.double().norm(dim=2)
    shares = gates / gates.sum(1, keepdim=True)
    seen.count.index_add_(0, index, torch.ones_like(norms).flatten())
    seen.gates.index_add_(0, index, gates.flatten())
    seen.norms.index_add_(0, index, norms.flatten())
    seen.squares.index_add_(0, index, norms.square().flatten())
    seen.gated.index_add_(0, index, (shares * norms).flatten())
    seen.routed.index_add_(0, index, outputs.flatten(0, 1).double())


class Comparing(nn.Module):
    """A stand-in for the experts of a block: the same sum, and it measures the error of those that
    are left.

    after: the experts, with others in the place of those that change; kept: those that are left.
    """

    def __init__(
        self, experts: ExpertList, after: ExpertList, router: Router, kept: Sequence[int]
    ) -> None:
        super().__init__()
        self._parts = [(experts, after, router)]
        self._kept = kept
        self.error = 0.0
        """Sum of |y' - y|^2."""

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        ((experts, after, router),) = self._parts
        whole: Tensor = experts(hidden, chosen, weights)
        less, now = router.among(hidden, self._kept)
        left = after(hidden, now, less)
        self.error += float((left - whole).double().square().sum())
        return whole


def flatness(weights: Iterable[Tensor]) -> float:
    """Return the mean of |w| over the root of the mean of w^2, of all weights of an expert.

    Source: Liu et al. 2026, AIMER, arXiv 2603.18492.
    """
    total, squares, count = 0.0, 0.0, 0
    for weight in weights:
        total += float(weight.double().abs().sum())
        squares += float(weight.double().square().sum())
        count += weight.numel()
    return total / (count * squares) ** 0.5 if squares else 1.0


def _deviation(seen: Seen) -> Tensor:
    """Return the root of the mean of |f - mean f|^2 of each expert."""
    variance = seen.squares / seen.count.clamp(min=1) - seen.means.square().sum(1)
    return variance.clamp(min=0).sqrt()


def _per_token(total: Callable[[Seen], Tensor]) -> Callable[[Seen], Tensor]:
    return lambda seen: total(seen) / seen.count.clamp(min=1)


SCORES: Mapping[str, Callable[[Seen], Tensor]] = {
    "frequency": lambda seen: seen.count,
    "gate": lambda seen: seen.gates,
    "ean": lambda seen: seen.norms,
    "man": _per_token(lambda seen: seen.norms),
    "msan": _per_token(lambda seen: seen.squares),
    "reap": _per_token(lambda seen: seen.gated),
    "removal": lambda seen: seen.removal,
    "mone": lambda seen: seen.gates * _deviation(seen),
}
"""Scores of the experts of a block by what was seen: the lowest is removed first."""
