"""Latency of a prompt, and decoding steps with a KV cache of a given length, on the artifact's
weights."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.formats.stored import StoredFolder
from bench.inputs import kv_cache
from bench.inputs.model_config import ModelConfig
from bench.measures.contract import MeasureContext
from bench.parts.packed24 import cpu24
from bench.parts.packed24.integers24 import group_size, pack_codes
from bench.parts.packed24.linear24 import swap_linears, use_dense_twins
from bench.parts.packed24.packing import PackedWeight, pack
from bench.parts.packed24.timing import MODEL_TOLERANCE, Work, check_product
from bench.parts.speed import captured, roofline
from bench.parts.speed.comparison import SpeedComparison, StepFactory
from bench.parts.speed.cpu import Cpu
from bench.parts.speed.cuda import Cuda, uncaptured_notes
from bench.parts.speed.roofline import Costs
from bench.system.devices import EAGER
from bench.system.text import amount
from methods.contract.codec import FloatCodec
from methods.contract.errors import Skipped
from methods.model.folder import Folder, dtype_name
from methods.model.targets import dense_weight, family_of
from methods.workshop.quantizing.integers import integer_bits, integers_of

KIND_OF_DTYPE = {torch.bfloat16: "bf16", torch.float16: "fp16"}
INTEGERS = {8: "int8", 4: "int4"}
"""Integers that kernels take, by their bits."""
MIN_FLOAT_BITS = 9.0
"""Least bits of a float with its part of a mask: half of 16, and 1. Some files of 8-bit integers
have 8.5."""

SMALLER = "fewer weights"
"""Name of the model with fewer blocks, units or channels."""

RANDOM_TOKENS = 1000
"""Limit of random token ids, which do not change the time."""


def compare_models(
    device: Cpu | Cuda,
    model: Callable[[], nn.Module],
    context: MeasureContext,
    *,
    batch: int,
    prompt: int,
    kv: int,
) -> SpeedComparison:
    """Compare steps of `prompt` tokens of each of `batch` sequences with `kv` in the cache. Raise
    Skipped without a kernel.

    The faster side is the 2:4 model, or one with fewer blocks, units or channels. A dense artifact
    has none.
    """
    config = Folder(context.folder).config
    if family_of(config).positions:
        # Learned positions are limited.
        length = ModelConfig(config, str(context.folder)).context(default=kv + prompt)
        if length < kv + prompt:
            raise Skipped(
                f"the model takes {length} tokens, and this measurement has {kv + prompt}"
            )
    loaded = model()
    dense: dict[str, nn.Module] = {"dense": loaded}
    sparse: dict[str, nn.Module] = {}
    make = decode_step(batch, kv) if prompt == 1 else prefill_step(batch, prompt)
    kind = KIND_OF_DTYPE.get(context.compute.dtype, dtype_name(context.compute.dtype))
    if _has_fewer_weights(context):
        dense, sparse = {"dense": context.load_dense()}, {SMALLER: loaded}
    elif not context.counts.pattern.dense:
        integers = find_kind(context)
        weights = {name: dense_weight(loaded.get_submodule(name)) for name in context.counts.layers}
        if integers:
            packed = pack_stored(weights, integers, context)
        else:
            packed = {name: pack(weight, name) for name, weight in weights.items()}
        kind = integers or kind
        engine = device.engine(kind)
        sparse["2:4"] = swap_linears(model(), packed, engine=engine)
        if engine == "native":
            twin = swap_linears(model(), packed, engine=engine)
            dense["same kernel, dense"] = use_dense_twins(twin)
        check_models(make, dense | sparse)
    sides = device.steps(dense, sparse, make, prompt == 1)
    graphs = {
        n: work.graph
        for side in sides
        for n, work in side.items()
        if isinstance(work, DecodingWork)
    }
    notes = {"batch": batch, "prompt_tokens": prompt, "kv_tokens": kv, "device": device.name}
    notes |= {"graphs": graphs} if graphs else {}
    notes |= uncaptured_notes(sides[0] | sides[1] | sides[2])
    costs = _costs(context, kind, batch, prompt, kv)
    return SpeedComparison(kind, sides[0], sides[1], costs, others=sides[2], notes=notes)


def check_models(make: StepFactory, models: Mapping[str, nn.Module]) -> None:
    """Raise WrongProduct if the logits of a step differ from the first model's by more than
    rounding."""
    (_, first), *others = models.items()
    expected = make(first)().float()
    for name, model in others:
        check_product(name, make(model)(), expected, MODEL_TOLERANCE)


def find_kind(context: MeasureContext) -> str | None:
    """Return "int8" or "int4" for an artifact of integers, None for floats. Raise Skipped without
    2:4 or a kernel."""
    counts = context.counts
    if (counts.pattern.n, counts.pattern.m) != (2, 4):
        raise Skipped(f"no kernel for {counts.pattern}: only 2:4 has one")
    if counts.violations:
        raise Skipped(
            f"{counts.pattern.broken_in(counts.violations)}, so no 2:4 kernel can compute with it"
        )
    if counts.negative_zeros:
        raise Skipped(
            f"-0.0 is in {amount(counts.negative_zeros, 'weight')}, which packing would not treat "
            "as zeros"
        )
    stored = StoredFolder(context.folder)
    codecs = [stored.codec(name) for name in stored.targets]
    if all(isinstance(codec, FloatCodec) for codec in codecs):
        if context.storage and not codecs and context.storage.bits < MIN_FLOAT_BITS:
            raise Skipped(
                f"no 2:4 kernel for {context.storage.form}, made elsewhere: only floats of such a "
                "folder have one"
            )
        return None
    kinds = {INTEGERS.get(integer_bits(codec), "") for codec in codecs}
    if len(kinds) > 1 or "" in kinds:
        form = context.storage.form if context.storage else "these codecs"
        raise Skipped(f"no 2:4 kernel for {form}: only floats, int8 and int4 have one")
    return kinds.pop()


def pack_stored(
    weights: Mapping[str, Tensor], kind: str, context: MeasureContext
) -> dict[str, PackedWeight]:
    """Pack the stored integers of an artifact, or raise Skipped if no kernel takes their groups or
    their width.

    weights: of the loaded model, by target; kind: "int8" or "int4".
    """
    stored, out = StoredFolder(context.folder), {}
    for name, weight in weights.items():
        integers = integers_of(stored[name])
        width = weight.shape[1]
        group = group_size(kind, width)
        if group != math.gcd(integers.group, group):
            raise Skipped(
                f"no 2:4 kernel for the grid of {name}: it takes {kind} with a scale for {group} "
                "inputs"
            )
        packed = out[name] = pack_codes(weight.to(context.compute.stored), integers, name)
        if kind == "int4" and not cpu24.supports(packed):
            raise Skipped(
                f"no 2:4 kernel for {name}, whose {width} inputs are no whole blocks of "
                f"{cpu24.BLOCK}"
            )
    return out


@dataclass(frozen=True)
class DecodingWork:
    """A decoding step to time. graph: how it runs, for a record."""

    call: Work
    graph: str

    def __call__(self) -> Any:
        return self.call()


def decode_step(batch: int, kv: int) -> StepFactory:
    """Return a step that decodes a token for each of `batch` sequences with `kv` in the cache, and
    restores the cache.

    On a CPU it is compiled, and eager where a model cannot be. Eager models of one config share a
    cache, which has the keys and values of the last of them.
    """
    caches: dict[str, Any] = {}

    def make(model: Any) -> Work:
        device = next(p.device for p in model.parameters())
        ids = torch.randint(
            RANDOM_TOKENS, (batch, kv + 1), generator=torch.Generator().manual_seed(0)
        ).to(device)
        if device.type != "cpu" or os.environ.get(EAGER):
            return DecodingWork(_eager_step(model, ids, caches), "eager")
        try:
            decoder = captured.Decoder(model, kv + 1)
            decoder.prefill(ids[:, :kv])
        except captured.NotCaptured as why:
            return DecodingWork(_eager_step(model, ids, caches), f"eager, not compiled: {why}")
        how = f"compiled in {decoder.compile_s:.0f} s" if decoder.compile_s else "compiled before"
        return DecodingWork(
            lambda: decoder.step(ids[:, -1:], kv), f"torch.export and AOTInductor, {how}"
        )

    return make


def _eager_step(model: Any, ids: Tensor, caches: dict[str, Any]) -> Work:
    """Return a step for the last of the ids [batch, tokens].

    caches: caches for as many tokens, by the config of their models. A new one is added.
    """
    plain = getattr(model, "_orig_mod", model)
    config = plain.config.to_json_string()
    if config not in caches:
        # A full sliding window would copy an index from the host in each step, which no CUDA graph
        # can do, and could not be rewound.
        caches[config] = kv_cache.make_full(plain, ids.shape[1])
    cache = caches[config]
    options = kv_cache.as_argument(plain, cache) | {"use_cache": True, "logits_to_keep": 1}

    @torch.inference_mode()
    def step() -> Any:
        logits = model(ids[:, -1:], **options).logits
        kv_cache.rewind(cache, 1)
        return logits

    with torch.inference_mode():  # once and not timed, so a compiled model does not compile it
        cache.reset()
        plain(ids[:, :-1], **options)
    return step


def prefill_step(batch: int, prompt: int) -> StepFactory:
    """Return a step that processes whole prompts up to their first new token."""

    def make(model: Any) -> Work:
        device = next(p.device for p in model.parameters())
        ids = torch.randint(
            RANDOM_TOKENS, (batch, prompt), generator=torch.Generator().manual_seed(0)
        ).to(device)

        @torch.inference_mode()
        def step() -> Any:
            return model(ids, use_cache=False, logits_to_keep=1).logits

        return step

    return make


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a comparison of steps takes on a card, without buffers of products."""

    dense: float
    """Weights of the dense model."""
    faster: float
    """Weights of the 2:4 or smaller model."""
    cache: float
    """Keys and values of all sequences. Models of one config share them."""

    @property
    def total(self) -> float:
        return self.dense + self.faster + self.cache

    def __str__(self) -> str:
        dense, faster, cache = (f"{n / 1e9:.1f} GB" for n in (self.dense, self.faster, self.cache))
        return f"{dense} of dense weights, {faster} of pruned ones and {cache} of KV cache"


def step_memory(context: MeasureContext, batch: int, prompt: int, kv: int) -> StepMemory:
    """Return the memory of the two models, and of a cache for decoding. A prompt has no cache."""
    itemsize = context.compute.dtype.itemsize
    dense: float = itemsize * _count_parameters(context.folder)
    cached = _sizes_of(context.folder).cached
    if _has_fewer_weights(context):
        faster, dense = dense, itemsize * _count_parameters(context.source)
        cached += _sizes_of(context.source).cached
    elif context.counts.pattern.dense:
        faster = 0.0
    else:
        pruned = _sizes_of(context.folder, context.counts.layers).weights.total
        # Half of the values, and a bit of the mask for each weight.
        faster = dense - pruned * (itemsize / 2 - 1 / 8)
    tokens = batch * (kv + 1) if prompt == 1 else 0
    return StepMemory(dense, faster, itemsize * tokens * cached)


@contextmanager
def within_memory(device: Cpu | Cuda, memory: StepMemory) -> Iterator[None]:
    """Raise Skipped with the sizes if a card is too small for a comparison, before it or when its
    memory ends."""
    if not isinstance(device, Cuda):
        yield
        return
    card = f"{device.memory_bytes / 1e9:.1f} GB of {device.name}"
    if memory.total > device.memory_bytes:
        raise Skipped(f"{memory} do not fit in the {card}")
    try:
        yield
    except torch.OutOfMemoryError:
        raise Skipped(f"{memory} and the products' buffers do not fit in the {card}") from None


def _count_parameters(path: Path) -> int:
    return sum(math.prod(shape) for shape in Folder(path).shapes().values())


def _costs(context: MeasureContext, kind: str, batch: int, prompt: int, kv: int) -> Costs:
    """Return the costs of dense and 2:4. A step computes the logits of one token of each
    sequence."""

    def costs_of(sizes: roofline.Sizes) -> Costs:
        tokens, cached, other = (
            batch * prompt,
            batch * (kv + prompt),
            context.compute.dtype.itemsize,
        )
        return roofline.step_costs(
            sizes, tokens, cached, *roofline.BITS[kind], predicted=batch, other_bytes=other
        )

    dense, sparse = costs_of(_sizes_of(context.folder, context.counts.layers))
    if not _has_fewer_weights(context):
        return dense, sparse
    return costs_of(_sizes_of(context.source))[0], dense


def _has_fewer_weights(context: MeasureContext) -> bool:
    """Return whether blocks, units or channels of the source were removed."""
    own, whole = _sizes_of(context.folder), _sizes_of(context.source)
    return own.weights.total < whole.weights.total


def _sizes_of(path: Path, pruned: Container[str] | None = None) -> roofline.Sizes:
    folder = Folder(path)
    return roofline.sizes_of(folder.config, folder.shapes(), pruned)
