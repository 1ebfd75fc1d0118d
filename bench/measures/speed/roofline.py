"""How much faster 2:4 could be at most: a roofline from shapes and a datasheet. A model, never mixed with measurements.

A product takes the longer of its arithmetic, which 2:4 halves, and its bytes, of which 2:4 takes 9/16 of a bfloat16
weight, 5/8 of an int8 one and 3/4 of an int4 one. Williams et al. 2009, "Roofline".
"""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from bench.inputs import models
from bench.system.suggest import describe_unknown
from methods.errors import UserError
from methods.targets import family_of, find_targets

BITS = {"bf16": (16, 9), "int8": (8, 5), "int4": (4, 3)}
"""A weight's, dense and 2:4, scales apart."""
ACTIVATION_BYTES = 2
TOKENS = (1, 16, 64, 512, 2048, 8192)
DECODES = ((1, 0), (1, 2048), (16, 2048), (64, 2048), (64, 8192))
"""(batch, tokens in the KV cache of each)"""


@dataclass(frozen=True)
class DeviceSpec:
    name: str
    tflops: float
    tbps: float
    source: str


@dataclass(frozen=True)
class Sizes:
    """What of a model decides its speed."""

    linears: Counter[tuple[int, int]]
    """(out, in) of those that are pruned, and how many there are."""
    head: int
    """Weights of the output head, which stays dense."""
    kv_bytes: int
    """Of one token's keys and values, all layers together."""


def rows(model: str, card: str, data_dir: Path | None = None) -> list[dict[str, Any]]:
    """Limits of each shape at TOKENS, then of a whole step of decoding, as ratios to the dense model of the same bits.

    Raises:
        UserError: unknown card or model, or a model whose shapes nobody here knows.
    """
    of, known = model_sizes(model, data_dir), device_specs()
    if card not in known:
        raise UserError(describe_unknown("device spec", card, known))
    out = []
    for (rows_, width), count in of.linears.items():
        for tokens in TOKENS:
            found = {kind: shape_limit(rows_, width, tokens, kind, known[card]) for kind in BITS}
            out.append(_row(f"{rows_} x {width} ({count} of them)", tokens, None, found))
    for batch, kv in DECODES:
        found = {kind: decode_limit(of, batch, kv, kind, known[card]) for kind in BITS}
        out.append(_row("decode, whole model", batch, kv, found))
    return out


def _row(what: str, tokens: int, kv: int | None, found: dict[str, float]) -> dict[str, Any]:
    return {"kind": "model", "what": what, "tokens": tokens, "kv_tokens_each": kv} | {
        f"{kind}_at_most": round(value, 2) for kind, value in found.items()
    }


def device_specs() -> dict[str, DeviceSpec]:
    return {name: DeviceSpec(**about) for name, about in _asset("devices.toml").items()}


def known_shapes() -> dict[str, dict[str, Any]]:
    """What is known of models that need not be here: the part of config.json that decides their shapes."""
    return _asset("shapes.toml")


def shape_limit(out: int, width: int, tokens: int, kind: str, card: DeviceSpec) -> float:
    """Dense time over 2:4 time of one product [tokens, in] x [in, out]."""
    moved = ACTIVATION_BYTES * tokens * (width + out)
    dense, sparse = (out * width * bits / 8 + moved for bits in BITS[kind])
    work = 2.0 * tokens * out * width
    return _seconds(work, dense, card) / _seconds(work / 2, sparse, card)


def decode_limit(of: Sizes, batch: int, kv: int, kind: str, card: DeviceSpec) -> float:
    """The same of one step that gives each of `batch` sequences a token: all linears, the head, and the KV cache read."""
    weights = sum(out * width * count for (out, width), count in of.linears.items())
    rest = ACTIVATION_BYTES * of.head + batch * kv * of.kv_bytes
    dense, sparse = (weights * bits / 8 + rest for bits in BITS[kind])
    head = 2.0 * batch * of.head
    return _seconds(2.0 * batch * weights + head, dense, card) / _seconds(batch * weights + head, sparse, card)


def _seconds(work: float, moved: float, card: DeviceSpec) -> float:
    return max(work / (card.tflops * 1e12), moved / (card.tbps * 1e12))


def model_sizes(name: str, data_dir: Path | None = None) -> Sizes:
    """
    Raises:
        UserError: unknown name, or one that is neither here nor among the shapes this package knows.
    """
    known = known_shapes()
    if name in known:
        config = known[name]
        return _sizes(config, _llama_linears(config))
    found = models.resolve(name, data_dir)
    if found is None:
        raise UserError(
            f"the shapes of {name!r} are not known until it is here: bench pull {name}, or take one of {', '.join(known)}"
        )
    opened = found.open()
    held = opened.shapes()
    flip = family_of(opened.config).transposed
    linears = (held[t + ".weight"] for t in find_targets(opened.config, held))
    return _sizes(opened.config, Counter((s[1], s[0]) if flip else (s[0], s[1]) for s in linears))


def _llama_linears(config: dict[str, Any]) -> Counter[tuple[int, int]]:
    """The linears of a LLaMA, from its config alone."""
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    keys = hidden // config["num_attention_heads"] * _kv_heads(config)
    each = [(hidden, hidden)] * 2 + [(keys, hidden)] * 2 + [(inner, hidden)] * 2 + [(hidden, inner)]
    return Counter(each * layers)


def sizes_of_config(config: dict[str, Any]) -> Sizes:
    """Head and KV cache of a config; its linears are the caller's to count."""
    return _sizes(config, Counter())


def _sizes(config: dict[str, Any], linears: Counter[tuple[int, int]]) -> Sizes:
    hidden = config.get("hidden_size") or config["n_embd"]
    layers = config.get("num_hidden_layers") or config["n_layer"]
    heads = config.get("num_attention_heads") or config["n_head"]
    head_dim = config.get("head_dim") or hidden // heads
    kv_bytes = 2 * layers * _kv_heads(config) * head_dim * ACTIVATION_BYTES
    return Sizes(linears, head=config["vocab_size"] * hidden, kv_bytes=kv_bytes)


def _kv_heads(config: dict[str, Any]) -> int:
    heads: int = config.get("num_key_value_heads") or config.get("num_attention_heads") or config["n_head"]
    return heads


def _asset(name: str) -> dict[str, Any]:
    return tomllib.loads((Path(str(resources.files("bench"))) / "assets" / name).read_text())
