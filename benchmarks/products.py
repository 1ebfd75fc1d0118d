"""bfloat16 on a CPU without its instructions: torch's own kernels against bench.system.products.

The latter go through float32. A product of SmolLM2's MLP, and attention with its gradients in the
shapes of SmolLM2 and Gemma 3, 512 tokens, one thread. The error is the largest difference of a
gradient from that in float64, over its largest value.

python benchmarks/products.py [--rounds 7]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch
from harness import Figures, finish, in_turn, ratio, significant, start
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from bench.system.devices import has_instructions_for
from bench.system.products import use_float32

TOKENS = 512
ATTENTION = {"SmolLM2": (9, 64), "Gemma 3": (4, 256)}
"""Heads and their size."""


def gradients(work: Callable[..., Tensor], values: list[Tensor], in_float32: bool) -> list[Tensor]:
    """Return the gradients of the sum of squares of a function, through float32 or by torch."""
    use_float32(in_float32)
    inputs = [v.detach().requires_grad_() for v in values]
    work(*inputs).square().sum().backward()
    return [x.grad for x in inputs if x.grad is not None]


def error(found: list[Tensor], exact: list[Tensor]) -> float:
    """Return the largest difference over the largest value."""
    pairs = zip(found, exact, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def main(rounds: int = 7) -> None:
    if has_instructions_for("bfloat16"):
        sys.exit("this CPU has instructions for bfloat16, which torch uses: run it on another CPU")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shapes = [torch.randn(TOKENS, 576), torch.randn(1536, 576)]
    cases: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {"a product": (linear, shapes)}
    attention = partial(scaled_dot_product_attention, is_causal=True)
    for name, (heads, size) in ATTENTION.items():
        qkv = [torch.randn(1, heads, TOKENS, size) for _ in range(3)]
        cases[f"attention of {name}"] = attention, qkv
    figures: Figures = {"tokens": TOKENS, "threads": 1}
    for name, (work, values) in cases.items():
        halves = [v.bfloat16() for v in values]
        exact = gradients(work, [v.double() for v in halves], False)
        sides = {
            "torch's own": partial(gradients, work, halves, False),
            "through float32": partial(gradients, work, halves, True),
        }
        found: Figures = {"torch's own / through float32": ratio(in_turn(sides, rounds), *sides)}
        for side, run in sides.items():
            found[f"error, {side}"] = significant(error(run(), exact))
        figures[f"{name} and its gradients"] = found
    finish("products", figures)


if __name__ == "__main__":
    start(main)
