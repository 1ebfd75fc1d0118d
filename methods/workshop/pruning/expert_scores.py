"""Scores of the experts of a mixture, and the sums over calibration tokens that they need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call


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
        """Sum of the expert's output over all tokens, for merging."""
        self.cosines = zeros(experts, experts)
        """Sum, over all tokens, of the cosines of the outputs of two experts, for merging."""
        self.removal = zeros(experts)
        """Sum of |y' - y|^2: y is the output of all experts, and y' that without this expert. For
        the score `removal`."""
        self.logits = zeros(experts, experts)
        """Sum, over all tokens, of the products of router logits, for merging."""
        self.energy = zeros(1)
        """Sum of |y|^2 over all tokens."""

    def add(self, number: int, gates: Tensor, shares: Tensor, outputs: Tensor) -> None:
        """Add tokens of an expert.

        gates: g of each token, [n]; shares: the same with the g of a token scaled to the sum 1;
        outputs: f of each token, [n, hidden].
        """
        outputs = outputs.double()
        norms = outputs.norm(dim=1)
        self.count[number] += len(outputs)
        self.gates[number] += gates.double().sum()
        self.norms[number] += norms.sum()
        self.squares[number] += norms.square().sum()
        self.gated[number] += (shares.double() * norms).sum()
        self.routed[number] += outputs.sum(0)

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
