"""Distances between two distributions of the next token, for many tokens at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.parts.fidelity.tally import DISTANCES

TOP = 5
"""Number of most likely tokens whose overlap is counted."""
BLOCK = 64
"""Largest number of logits in a block of `_largest`."""
MIN_BLOCK = 8
"""Smallest number of logits in a block that saves time."""

MAX_EXPONENT = 80.0
"""Exponent up to which exp fits in float32. From there on, ln(1 + exp(x)) is x."""


class DistanceReader:
    """Computes distances in memory that it uses again, because new memory costs as much time as the
    numbers in it."""

    def __init__(self) -> None:
        self._room = torch.empty(0)

    def read(self, original: Tensor, compressed: Tensor) -> Tensor:
        """Return the distances of each token, and the original's confidence.

        Args:
            original: logits, float32 [tokens, vocabulary].
            compressed: logits of the other model, of the same shape.

        Returns:
            float32 [tokens, distances], in the order of `tally.DISTANCES`. KL and Jensen-Shannon
            are in nats, from softmaxes in float32. The error of one token can reach some 1e-5:
            see `clamped`.
        """
        if self._room.shape[1:] != original.shape:
            self._room = original.new_empty(4, *original.shape)
        p, q, gap, product = self._room
        torch.softmax(original, -1, out=p)
        torch.softmax(compressed, -1, out=q)
        top, tokens = _largest(original, min(TOP, original.shape[-1]))
        theirs, their_tokens = _largest(compressed, top.shape[-1])
        confidence = p.gather(1, tokens[:, :1])
        # A logit less the logarithm of its probability is the logarithm of the softmax's divisor.
        shift = top[:, :1] - confidence.log()
        shift -= theirs[:, :1] - q.gather(1, their_tokens[:, :1]).log()
        torch.sub(original, compressed, out=gap).sub_(shift)  # ln(p / q)
        kl = torch.mul(p, gap, out=product).sum(-1)
        reverse = -torch.mul(q, gap, out=product).sum(-1)
        ear = torch.minimum(p, q, out=product).sum(-1)
        found = compressed.gather(1, tokens)
        probability = q.gather(1, tokens[:, :1])[:, 0]
        # JS = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, where ln(m / q) is
        # ln(1 + p / q) - ln 2 and ln(m / p) is less by ln(p / q).
        torch.clamp(gap, max=MAX_EXPONENT, out=product).exp_().log1p_()
        torch.maximum(product, gap, out=product).mul_(p.add_(q))
        js = (kl - product.sum(-1)) / 2 + math.log(2)
        same = (found[:, 0] == theirs[:, 0]).float()
        overlap = (found >= theirs[:, -1:]).sum(-1) / top.shape[-1]
        columns = {
            "kl": kl,
            "reverse_kl": reverse,
            "js_divergence": js,
            "ear": ear,
            "top1": same,
            "top5_overlap": overlap,
            "original_token_probability": probability,
            "confidence": confidence[:, 0],
        }
        return torch.stack([columns[name] for name in DISTANCES], dim=-1)


def clamped(distances: Tensor) -> Tensor:
    """Return distances [..., distances] that rounding has not moved out of their range."""
    low, high = torch.zeros(len(DISTANCES)), torch.ones(len(DISTANCES))
    for name, most in {
        "kl": math.inf,
        "reverse_kl": math.inf,
        "js_divergence": math.log(2),
    }.items():
        high[DISTANCES.index(name)] = most
    return distances.clamp(low.to(distances.device), high.to(distances.device))


def _largest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest logits of each row and their tokens, as `torch.topk` does.

    The largest `count` logits are in the `count` blocks with the largest maxima. On a CPU, finding
    these blocks first takes a sixth of the time of `topk` on whole rows.
    """
    block = math.gcd(logits.shape[-1], BLOCK)
    if block < MIN_BLOCK or logits.shape[-1] < count * block:
        values, tokens = logits.topk(count)
        return values, tokens
    blocks = logits.reshape(len(logits), -1, block)
    best = blocks.amax(-1).topk(count).indices
    candidates = blocks.gather(1, best[..., None].expand(-1, -1, block)).flatten(1)
    values, places = candidates.topk(count)
    tokens = best.gather(1, places // block) * block + places % block
    return values, tokens
