"""The largest speedup that 2:4 can give: a roofline from shapes and a datasheet. A model, never mixed with measurements.

A product takes the time of its arithmetic or of its memory traffic, whichever is longer. 2:4 halves the arithmetic and
stores 9/16 of a bfloat16 weight's bytes, 5/8 of an int8 one's and 3/4 of an int4 one's. Williams et al. 2009, "Roofline".
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from bench.inputs import architecture, models
from bench.inputs.model_config import ModelConfig
from bench.system.suggest import describe_unknown
from methods.errors import UserError
from methods.targets import family_of, find_targets, weight_shape

BITS = {"float32": (32, 17), "bf16": (16, 9), "fp16": (16, 9), "int8": (8, 5), "fp8": (8, 5), "int4": (4, 3)}
"""Bits per weight, dense and 2:4, without scales. The mask takes one bit per weight."""
LIMITS = ("bf16", "int8", "int4")
"""The kinds whose limits are shown."""
QUANTIZER_OF_KIND = {"bf16": "none", "fp16": "none", "int8": "int8", "fp8": "fp8"}
"""The kinds of weights that linears are timed with, and the quantizer that makes each."""
ACTIVATION_BYTES = 2
TOKENS = (1, 16, 64, 512, 2048, 8192)
DECODES = ((1, 0), (1, 2048), (16, 2048), (64, 2048), (64, 8192))
"""(batch, tokens in each sequence's KV cache)"""


@dataclass(frozen=True)
class DeviceSpec:
    """A card's datasheet. tflops: 10^12 dense operations per second; tbps: 10^12 bytes per second."""

    name: str
    tflops: float
    tbps: float
    source: str


@dataclass(frozen=True)
class Weights:
    """Numbers of pruned weights."""

    shared: int
    """Those that every token goes through."""
    experts: int = 0
    """Those of the experts of a mixture."""
    active: float = 1
    """The share of its experts that a token goes through."""

    @property
    def per_token(self) -> float:
        """The weights that a token is multiplied with."""
        return self.shared + self.experts * self.active

    def read_for(self, tokens: int) -> float:
        """The weights that a step reads: those of an expert only if a token goes there, as a router that draws evenly decides."""
        return self.shared + self.experts * (1 - (1 - self.active) ** tokens)


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that decide its speed."""

    linears: Counter[tuple[int, int]]
    """(out, in) of each linear that is pruned, and how many there are."""
    weights: Weights
    """Of those linears."""
    head: int
    """Number of weights of the output head, which stays dense."""
    kv_bytes: int
    """Bytes of one token's keys and values in all layers."""


def rows(model: str, card: str, data_dir: Path | None = None) -> list[dict[str, Any]]:
    """Limits of each shape at TOKENS, then of a whole decoding step, as speedups over the dense model of the same bits.

    Raises:
        UserError: unknown card or model, or a model whose shapes are not known.
    """
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


def device_specs() -> dict[str, DeviceSpec]:
    """Datasheets by name."""
    return {name: DeviceSpec(**about) for name, about in _asset("devices.toml").items()}


def known_shapes() -> dict[str, dict[str, Any]]:
    """For models that need not be here: the part of config.json that decides their shapes."""
    return _asset("shapes.toml")


def shape_limit(out: int, width: int, tokens: int, kind: str, card: DeviceSpec) -> float:
    """Speedup limit of one product [tokens, in] x [in, out]: dense time over 2:4 time."""
    moved = ACTIVATION_BYTES * tokens * (width + out)
    dense, sparse = (out * width * bits / 8 + moved for bits in BITS[kind])
    flops = 2.0 * tokens * out * width
    return _seconds(flops, dense, card) / _seconds(flops / 2, sparse, card)


def decode_limit(sizes: Sizes, batch: int, kv: int, kind: str, card: DeviceSpec) -> float:
    """Speedup limit of one decoding step of `batch` sequences: all linears, the head, and reading the KV cache."""
    dense, sparse = step_costs(sizes, batch, batch * kv, *BITS[kind])
    return _seconds(*dense, card) / _seconds(*sparse, card)


def step_costs(
    sizes: Sizes, tokens: int, kv: int, dense: float, sparse: float, predicted: int | None = None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """FLOP and bytes of a step that takes `tokens` tokens with `kv` in the cache, dense and 2:4; dense, sparse: bits per
    weight; predicted: tokens whose logits are computed, None for all.

    Of all linears, the head and the KV cache. Attention's own arithmetic is left out, so the limit is generous.
    """
    predicted = tokens if predicted is None else predicted
    flops, head = 2.0 * tokens * sizes.weights.per_token, 2.0 * predicted * sizes.head
    read, rest = sizes.weights.read_for(tokens), ACTIVATION_BYTES * sizes.head + kv * sizes.kv_bytes
    return (flops + head, read * dense / 8 + rest), (flops / 2 + head, read * sparse / 8 + rest)


def _seconds(flops: float, moved: float, card: DeviceSpec) -> float:
    return max(flops / (card.tflops * 1e12), moved / (card.tbps * 1e12))


def model_sizes(name: str, data_dir: Path | None = None) -> Sizes:
    """The sizes of a model by name, from its folder or from the shapes that come with this package.

    Raises:
        UserError: unknown name, or a model that is neither here nor among those shapes.
    """
    known = known_shapes()
    if name in known:
        config = known[name]
        linears = _llama_linears(config)
        weights = sum(out * width * count for (out, width), count in linears.items())
        return _sizes(config, linears, Weights(weights))
    model = models.resolve(name, data_dir)
    if model is None:
        raise UserError(
            f"the shapes of {name!r} are not known: run bench pull {name}, or use one of {', '.join(known)}"
        )
    folder = model.open()
    tensor_shapes = folder.shapes()
    targets = find_targets(folder.config, tensor_shapes)
    shapes = {target: weight_shape(folder.config, tensor_shapes, target) for target in targets}
    counted = count_weights(folder.config, {target: out * width for target, (out, width) in shapes.items()})
    return _sizes(folder.config, Counter(shapes.values()), counted)


def _llama_linears(config: dict[str, Any]) -> Counter[tuple[int, int]]:
    """The linears of a LLaMA, from its config."""
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    keys = hidden // config["num_attention_heads"] * _kv_heads(config)
    each = [(hidden, hidden)] * 2 + [(keys, hidden)] * 2 + [(inner, hidden)] * 2 + [(hidden, inner)]
    return Counter(each * layers)


def count_weights(config: Mapping[str, Any], targets: Mapping[str, int]) -> Weights:
    """Sort the weights of targets, by name, into those of experts and those that every token goes through."""
    family = family_of(config)
    if not family.experts:
        return Weights(sum(targets.values()))
    inside = sum(n for name, n in targets.items() if f".{family.experts.path}." in name)
    experts = architecture.count_experts(family, ModelConfig(config, "the model"))
    return Weights(sum(targets.values()) - inside, inside, config["num_experts_per_tok"] / experts)


def sizes_of_targets(config: Mapping[str, Any], targets: Mapping[str, int]) -> Sizes:
    """Sizes of a model from its config and the number of weights of each target, without their shapes."""
    return _sizes(config, Counter(), count_weights(config, targets))


def _sizes(config: Mapping[str, Any], linears: Counter[tuple[int, int]], weights: Weights) -> Sizes:
    hidden = config.get("hidden_size") or config["n_embd"]
    layers = config.get("num_hidden_layers") or config["n_layer"]
    heads = config.get("num_attention_heads") or config["n_head"]
    head_dim = config.get("head_dim") or hidden // heads
    kv_bytes = 2 * layers * _kv_heads(config) * head_dim * ACTIVATION_BYTES
    return Sizes(linears, weights, head=config["vocab_size"] * hidden, kv_bytes=kv_bytes)


def _kv_heads(config: Mapping[str, Any]) -> int:
    heads: int = config.get("num_key_value_heads") or config.get("num_attention_heads") or config["n_head"]
    return heads


def _asset(name: str) -> dict[str, Any]:
    return tomllib.loads((Path(str(resources.files("bench"))) / "assets" / name).read_text())
