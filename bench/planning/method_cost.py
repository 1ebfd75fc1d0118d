"""Estimated cost of a method on LLaMA2-7B, from its shapes.

A forward pass over the decoder's linear layers takes 2 FLOP per weight and token. A Hessian X^T X
of [in, in] takes in^2 FLOP per token, because it is symmetric. Attention, selection and inverses
are not counted.
"""

from __future__ import annotations

from bench.catalog.declarations import CatalogEntry
from bench.inputs.shapes import known_shapes
from bench.planning import recipes

MODEL = "llama2-7b"
SEQUENCES, SEQLEN = 128, 2048
"""Calibration sequences and their tokens, as in the literature."""


def describe(entry: CatalogEntry) -> str:
    """Return a method's cost in words, or "" if its entry does not state it."""
    cost = entry.cost
    if cost is None:
        return ""
    shapes = known_shapes()[MODEL]
    hidden, inner, blocks = (
        shapes[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    weights = blocks * (4 * hidden**2 + 3 * hidden * inner)
    # Inputs of q, k and v, of o, of gate and up, and of down.
    squares = 3 * hidden**2 + inner**2
    parts = [f"after {entry.after}"] if entry.after else []
    if cost.passes:
        work = SEQUENCES * SEQLEN * (2 * cost.passes * weights + cost.hessians * squares * blocks)
        passes = "pass" if cost.passes == 1 else "passes"
        parts.append(f"{cost.passes:g} {passes} of {SEQUENCES} x {SEQLEN} tokens, {work:.1e} FLOP")
    if cost.hessians:
        parts.append(f"{cost.hessians * 4 * squares / 1e9:.1f} GB of Hessians")
    if cost.training:
        tokens = cost.tokens or recipes.choose(weights, "cuda").tokens
        parts.append(f"{tokens:.1e} tokens, {cost.training * weights * tokens:.1e} FLOP")
    if cost.state:
        parts.append(f"{cost.state * weights / 1e9:.0f} GB of state")
    return "; ".join(filter(None, (*parts, cost.also))) or "nothing"
