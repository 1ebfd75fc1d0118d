"""Largest possible speedup of 2:4: a roofline from shapes and a datasheet. It is a model, never
mixed with measurements.

A product takes the time of its arithmetic or of its memory traffic, whichever is longer. 2:4 halves
the arithmetic and stores 9/16 of the bytes of a bfloat16 weight, 5/8 of int8 and 3/4 of int4.
Williams et al. 2009, "Roofline".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.inputs import architecture, models
from bench.inputs.datasheets import DeviceSpec, device_specs
from bench.inputs.kv_size import count_cached
from bench.inputs.model_config import ModelConfig
from bench.inputs.shapes import planned_model
from bench.system.suggest import describe_unknown
from methods.contract.errors import UserError
from methods.model.targets import family_of, find_targets

BITS = {
    "float32": (32, 17),
    "bf16": (16, 9),
    "fp16": (16, 9),
    "int8": (8, 5),
    "fp8": (8, 5),
    "int4": (4, 3),
}
"""Bits per weight, dense and 2:4, without scales. The mask takes one bit per weight."""
LIMITS = ("bf16", "int8", "fp8", "int4")
"""Kinds whose limits are shown."""
QUANTIZER_OF_KIND = {
    "bf16": "none",
    "fp16": "none",
    "int8": "int8",
    "fp8": "fp8",
    "int4": "int4-rtn",
}
"""Quantizer of each kind of weight that linears are timed with."""
ACTIVATION_BYTES = 2
INPUT_BYTES = {"int8": 1, "fp8": 1}
"""Bytes of an input of the linears, by kind. Others have ACTIVATION_BYTES."""
TOKENS = (1, 16, 64, 512, 2048, 8192)
DECODES = ((1, 0), (1, 2048), (16, 2048), (64, 2048), (64, 8192))
"""Pairs of batch size and tokens in each sequence's KV cache."""


class RooflineCost(NamedTuple):
    """The least cost of a piece of work on any device."""

    flops: float
    bytes_moved: float


Costs = tuple[RooflineCost, RooflineCost]
"""Costs of dense and 2:4."""


@dataclass(frozen=True)
class Weights:
    """Numbers of pruned weights."""

    shared: int
    """Number of weights that every token uses."""
    experts: int = 0
    """Number of weights of the experts of a mixture."""
    active: float = 1
    """Fraction of its experts that a token uses."""

    @property
    def total(self) -> int:
        return self.shared + self.experts

    @property
    def per_token(self) -> float:
        """Number of weights that a token is multiplied with."""
        return self.shared + self.experts * self.active

    def read_for(self, tokens: int) -> float:
        """Return the number of weights that a step reads. The router draws experts evenly, and
        unused ones are not read."""
        return self.shared + self.experts * (1 - (1 - self.active) ** tokens)


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that determine its speed."""

    linears: Counter[tuple[int, int]]
    """Number of pruned linears by (out, in)."""
    weights: Weights
    """Weights of those linears."""
    head: int
    """Number of weights of the output head, which stays dense."""
    cached: int
    """Number of values in one token's keys and values of all layers."""


def rows(model: str, card: str, data_dir: Path | None = None) -> list[dict[str, Any]]:
    """Return limits of each shape at TOKENS, then of a decoding step, as speedups over the dense
    model of the same bits."""
    sizes, specs = model_sizes(model, data_dir), device_specs()
    if card not in specs:
        raise UserError(describe_unknown("device spec", card, specs))
    out = []
    for (rows_, width), count in sizes.linears.items():
        for tokens in TOKENS:
            limits = {kind: shape_limit(rows_, width, tokens, kind, specs[card]) for kind in LIMITS}
            out.append(_row(f"{rows_} x {width} ({count} of them)", tokens, None, limits))
    for batch, kv in DECODES:
        limits = {kind: decode_limit(sizes, batch, kv, kind, specs[card]) for kind in LIMITS}
        out.append(_row("decode, whole model", batch, kv, limits))
    return out


def _row(what: str, tokens: int, kv: int | None, limits: dict[str, float]) -> dict[str, Any]:
    return {"kind": "model", "what": what, "tokens": tokens, "kv_tokens_each": kv} | {
        f"{kind}_at_most": round(value, 2) for kind, value in limits.items()
    }


def shape_limit(out: int, width: int, tokens: int, kind: str, card: DeviceSpec) -> float:
    """Return the speedup limit of one product [tokens, in] x [in, out]: dense time over 2:4
    time."""
    return _limit(product_costs(out, width, tokens, kind), card, kind)


def decode_limit(sizes: Sizes, batch: int, kv: int, kind: str, card: DeviceSpec) -> float:
    """Return the speedup limit of a decoding step of `batch` sequences: all linears, the head, and
    the KV cache."""
    return _limit(step_costs(sizes, batch, batch * kv, *BITS[kind]), card, kind)


def product_costs(
    out: int, width: int, tokens: int, kind: str, output_bytes: int = ACTIVATION_BYTES
) -> Costs:
    """Return the costs of one product [tokens, in] x [in, out]."""
    flops, read = 2.0 * tokens * out * width, INPUT_BYTES.get(kind, ACTIVATION_BYTES)
    dense, sparse = (
        out * width * bits / 8 + tokens * (width * read + out * output_bytes) for bits in BITS[kind]
    )
    return RooflineCost(flops, dense), RooflineCost(flops / 2, sparse)


def step_costs(
    sizes: Sizes,
    tokens: int,
    kv: int,
    dense: float,
    sparse: float,
    *,
    predicted: int | None = None,
    other_bytes: int = ACTIVATION_BYTES,
) -> Costs:
    """Return the costs of a step of `tokens` tokens with `kv` in the cache, dense and 2:4.

    They include all linears, the head and the KV cache. Attention's arithmetic is left out, so the
    limit is generous.

    Args:
        dense, sparse: bits per weight.
        predicted: number of tokens whose logits are computed, or None for all.
        other_bytes: bytes of a weight of the head and of a value in the KV cache.
    """
    predicted = tokens if predicted is None else predicted
    flops, head = 2.0 * tokens * sizes.weights.per_token, 2.0 * predicted * sizes.head
    read, rest = sizes.weights.read_for(tokens), other_bytes * (sizes.head + kv * sizes.cached)
    return RooflineCost(flops + head, read * dense / 8 + rest), RooflineCost(
        flops / 2 + head, read * sparse / 8 + rest
    )


def _limit(costs: Costs, card: DeviceSpec, kind: str) -> float:
    dense, sparse = (
        max(c.flops / (card.peak(kind) * 1e12), c.bytes_moved / (card.tbps * 1e12)) for c in costs
    )
    return dense / sparse


def model_sizes(name: str, data_dir: Path | None = None) -> Sizes:
    """Return the sizes of a model from its folder, or from the shapes of this package. Raise
    UserError without either."""
    model = planned_model(name) or models.resolve(name, data_dir)
    if model is None:
        raise UserError(
            f"the shapes of {name!r} are not known: run bench pull {name}, or name a folder "
            "with its config.json"
        )
    return sizes_of(model.config, model.shapes)


def sizes_of(
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    pruned: Container[str] | None = None,
) -> Sizes:
    """Return the sizes of a model. pruned: names of its pruned linears, or None for all targets."""
    targets = [name for name in find_targets(config, shapes) if pruned is None or name in pruned]
    linears: dict[str, tuple[int, int]] = {}
    for name in targets:
        out, width = shapes[f"{name}.weight"]
        linears[name] = out, width
    head = config["vocab_size"] * (config.get("hidden_size") or config["n_embd"])
    return Sizes(
        Counter(linears.values()), _count_weights(config, linears), head, count_cached(config)
    )


def _count_weights(config: Mapping[str, Any], linears: Mapping[str, tuple[int, int]]) -> Weights:
    """Count the weights of linears, by name, in experts and in parts that every token uses."""
    family, counts = (
        family_of(config),
        {name: out * width for name, (out, width) in linears.items()},
    )
    if not family.experts:
        return Weights(sum(counts.values()))
    inside = sum(n for name, n in counts.items() if f".{family.experts.path}." in name)
    experts = architecture.count_experts(family, ModelConfig(config, "the model"))
    return Weights(sum(counts.values()) - inside, inside, config["num_experts_per_tok"] / experts)
